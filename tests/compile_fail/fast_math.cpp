// expect: dsv3: with -ffast-math or -ffinite-math-only the compiler drops the checks for NaN
#ifdef FAIL
#define __FAST_MATH__ 1
#endif
#include "dsv3/dsv3.hpp"
