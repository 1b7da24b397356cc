// expect: dsv3::view expects an Eigen matrix, map or block
#include "dsv3/core/matrix.hpp"

void f();
void f() {
  dsv3::Matrix<float> m(3, 4);
  (void)dsv3::view(m);
#ifdef FAIL
  float numbers[4] = {};
  (void)dsv3::view(numbers);
#endif
}
