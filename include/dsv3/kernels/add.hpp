// Floor 3. Adding to the residual stream.
#pragma once

#include "dsv3/core/context.hpp"
#include "dsv3/core/error.hpp"
#include "dsv3/simd/math.hpp"

namespace dsv3::inline DSV3_ISA::kernels {

/// y += x, elementwise over [T, D]. Throws: Error if the shapes differ.
template <class Arch = simd::DefaultArch>
void add(Context& ctx, ConstMatrixView<float> x, MatrixView<float> y) {
  if (x.rows() != y.rows() || x.cols() != y.cols())
    fail("add: expected x and y of one shape, got ", shape_string({x.rows(), x.cols()}), " and ", shape_string({y.rows(), y.cols()}));
  using Floats = simd::Floats<Arch>;
  ctx.parallel_for(y.rows(), y.size(), [&](Index t, int) {
    simd::map<Arch>([](const Floats& a, const Floats& b) { return a + b; }, y.cols(), y.row_data(t), x.row_data(t), y.row_data(t));
  });
}

}  // namespace dsv3::inline DSV3_ISA::kernels
