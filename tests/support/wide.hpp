// Matrices in double precision, for sums that tests compare with.
#pragma once

#include "dsv3/core/matrix.hpp"

namespace test {

using Double = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

inline Double wide(const dsv3::Matrix<float>& m) { return m.cast<double>(); }

inline constexpr double epsilon = 0x1p-24;  // of float32: the largest relative error of a rounding

}  // namespace test
