// expect: dsv3::view needs memory to look at
#include "dsv3/core/matrix.hpp"

void f();
void f() {
  dsv3::Matrix<float> m(3, 4);
  (void)dsv3::view(m);
#ifdef FAIL
  (void)dsv3::view(m + m);
#endif
}
