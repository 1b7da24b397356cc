// expect: dsv3: Eigen's sizes must be std::ptrdiff_t here
#ifdef FAIL
#define EIGEN_DEFAULT_DENSE_INDEX_TYPE int
#endif
#include "dsv3/core/matrix.hpp"
