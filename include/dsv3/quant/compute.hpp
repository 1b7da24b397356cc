// Floor 2. Compute policies: how a product of activations and stored weights is formed.
//
// A policy prepares the activations, and may say from how many rows on products are formed in bf16 (kernels/linear_bf16.hpp); else they are
// formed in float32 (kernels/linear.hpp).
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

/// Passes of more than 16 rows round activations to bf16, so that prompts run on the bf16 units of processors that have them. Below
/// that products are those of Exact: decoding and the verification of drafts are the same arithmetic. Latent attention is formed by bf16
/// tiles in all passes, where the build has them.
struct Bf16Activations : Exact {
  static constexpr Index bf16_from = 17;
  static constexpr bool prepares = false;  ///< prepare() gives x itself: what is rounded to bf16 anyway may skip it
};

}  // namespace compute

/// Whether a pass of `rows` rows forms its products in bf16.
template <class C>
constexpr bool in_bf16([[maybe_unused]] Index rows) {
  if constexpr (requires { C::bf16_from; })
    return rows >= C::bf16_from;
  else
    return false;
}

/// Whether the policy wants to see activations before they are rounded to bf16.
template <class C>
inline constexpr bool prepares = [] {
  if constexpr (requires { C::prepares; })
    return C::prepares;
  else
    return true;
}();

}  // namespace dsv3::inline DSV3_ISA
