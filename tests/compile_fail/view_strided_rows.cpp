// expect: dsv3::view expects rows without gaps
#include "dsv3/core/matrix.hpp"

void f();
void f() {
  dsv3::Matrix<float> m(3, 4);
  (void)dsv3::view(m);
#ifdef FAIL
  (void)dsv3::view(Eigen::Map<dsv3::Matrix<float>, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>(m.data(), 3, 2, {4, 2}));
#endif
}
