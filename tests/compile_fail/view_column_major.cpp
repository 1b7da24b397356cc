// expect: dsv3::view expects row-major storage
#include "dsv3/core/matrix.hpp"

void f();
void f() {
  dsv3::Matrix<float> m(3, 4);
  (void)dsv3::view(m);
#ifdef FAIL
  Eigen::MatrixXf columns(3, 4);
  (void)dsv3::view(columns);
#endif
}
