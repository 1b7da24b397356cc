// Floor 2. Compute policies: how a product of activations and stored weights is formed.
//
// A policy prepares the activations; the product itself, in float32 with a fixed order of summation, is the same for all
// (kernels/linear.hpp).
#pragma once

#include "dsv3/core/context.hpp"
#include "dsv3/quant/any_storage.hpp"
#include "dsv3/quant/block_scale.hpp"

namespace dsv3::inline DSV3_ISA {

/// prepare(ctx, scope, x, w) gives the activations [T, K] to multiply by w: x itself, or something in `scope`.
template <class C>
concept Compute = requires(Context& ctx, Workspace::Scope& scope, ConstMatrixView<float> x, const AnyStorage::View& w) {
  { C::prepare(ctx, scope, x, w) } -> std::convertible_to<ConstMatrixView<float>>;
};

namespace compute {

/// Float activations times the exact values of the stored weights.
struct Exact {
  template <WeightView W>
  static ConstMatrixView<float> prepare(Context&, Workspace::Scope&, ConstMatrixView<float> x, const W&) {
    return x;
  }
};

/// Activations are rounded to e4m3 in groups of 1x128 where the weight is block-scaled fp8, as the report does (section 3.3).
/// The rounded values are multiplied as floats: code * code in blocks of 128 with both scales, up to float rounding.
template <ScaleFormat Format = ScaleFormat::float32>
struct Fp8Activations {
  template <WeightView W>
  static ConstMatrixView<float> prepare(Context& ctx, Workspace::Scope& scope, ConstMatrixView<float> x, const W& w) {
    if (!is_fp8(w)) return x;
    auto y = scope.matrix<float>(x.rows(), x.cols());
    ctx.parallel_for(x.rows(), x.size() * 16, [&](Index t, int) { round_activations(x.row_data(t), x.cols(), y.row_data(t), Format); });
    return y;
  }
};

}  // namespace compute
}  // namespace dsv3::inline DSV3_ISA
