// Floor 3. RMS normalisation of rows.
#pragma once

#include <cmath>

#include "dsv3/core/context.hpp"
#include "dsv3/core/error.hpp"
#include "dsv3/simd/math.hpp"

namespace dsv3::inline DSV3_ISA::kernels {

/// y = x / sqrt(mean(x^2) + eps) * w for one row of n elements, statistics in float32 (spec A2). y may be x.
template <class Arch = simd::DefaultArch>
void rms_norm_row(const float* x, const float* w, Index n, float eps, float* y) {
  using Floats = simd::Floats<Arch>;
  const float squares = simd::map_sum<Arch>([](const Floats& v, const Floats& total) { return simd::fma<Arch>(v, v, total); }, n, x);
  const Floats inverse(1.0f / std::sqrt(squares / static_cast<float>(n) + eps));
  simd::map<Arch>([&](const Floats& v, const Floats& weight) { return v * inverse * weight; }, n, y, x, w);
}

/// The same for every row of x [T, n]; w [n], y [T, n]. y may be x. Throws: Error if the shapes do not fit.
template <class Arch = simd::DefaultArch>
void rms_norm(Context& ctx, ConstMatrixView<float> x, const Vector<float>& w, float eps, MatrixView<float> y) {
  if (x.cols() != w.size() || y.rows() != x.rows() || y.cols() != x.cols())
    fail("rms_norm: expected x and y of one shape and a weight a column, got x ", shape_string({x.rows(), x.cols()}), ", y ",
         shape_string({y.rows(), y.cols()}), " and ", w.size(), " weights");
  ctx.parallel_for(x.rows(), x.size() * 2,
                   [&](Index t, int) { rms_norm_row<Arch>(x.row_data(t), w.data(), x.cols(), eps, y.row_data(t)); });
}

}  // namespace dsv3::inline DSV3_ISA::kernels
