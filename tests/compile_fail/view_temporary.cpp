// expect: dsv3::view of a temporary matrix would dangle
#include "dsv3/core/matrix.hpp"

void f();
void f() {
  dsv3::Matrix<float> m(3, 4);
  (void)dsv3::view(m);
#ifdef FAIL
  (void)dsv3::view(dsv3::Matrix<float>(3, 4));
#endif
}
