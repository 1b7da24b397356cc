// Floor 2. Compute policies: how a product of activations and stored weights is formed.
//
// A policy prepares the activations. It may also let products be formed in bf16 (kernels/linear_bf16.hpp, kernels/linear_dots.hpp); else
// they are formed in float32 (kernels/linear.hpp).
#pragma once

#include "dsv3/core/context.hpp"
#include "dsv3/quant/any_storage.hpp"
#include "dsv3/quant/tiles.hpp"

namespace dsv3::inline DSV3_ISA {

/// prepare(ctx, scope, x, w) returns the activations [T, K] to multiply by w: x itself, or a matrix in `scope`.
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

/// Rounds activations to e4m3 in groups of 1x128 if the weight is block-scaled fp8, as the report does (section 3.3, spec C2). The scale is
/// max(amax, 1e-4) / 448, which Format may round up. NaN stays NaN and leaves its neighbours as they are. The rounded values are multiplied
/// as floats, which equals code * code in blocks of 128 times both scales, up to float rounding.
template <ScaleFormat Format = ScaleFormat::float32>
struct Fp8Activations {
  template <WeightView W>
  static ConstMatrixView<float> prepare(Context& ctx, Workspace::Scope& scope, ConstMatrixView<float> x, const W& w) {
    if (!is_fp8(w)) return x;
    auto y = scope.matrix<float>(x.rows(), x.cols());
    const quant::RoundJob job{x, y, {}, true};
    using Activation = quant::Tiles<codec::E4m3, quant::Shape::along, Format>;
    quant::round_to_tiles<Activation, simd::DefaultArch>(ctx, std::span<const quant::RoundJob>(&job, 1));
    return y;
  }
};

/// Rounds activations to bf16 in passes of more than 16 rows, so that prompts run on the bf16 units of processors that have them. Passes of
/// up to 16 rows, and the output head, are rounded only on processors with AVX512-BF16 and no AMX, where bf16 dot products make them
/// faster; elsewhere their products are those of Exact. On either, decoding and the verification of drafts have the same arithmetic. Latent
/// attention uses bf16 tiles in all passes, if the build has them.
struct Bf16Activations : Exact {
  static constexpr Index bf16_from = 17;
  static constexpr Index few_rows = 12;         ///< beyond this, experts' products are faster by tiles than by dot products along K
  static constexpr bool needs_prepare = false;  ///< prepare() returns x itself: callers that round to bf16 anyway may skip it
};

}  // namespace compute

/// Whether the policy lets activations be rounded to bf16 at all.
template <class C>
inline constexpr bool rounds_to_bf16 = requires {
  C::bf16_from;
};

/// Whether a pass of `rows` rows forms its products in bf16.
template <class C>
constexpr bool in_bf16([[maybe_unused]] Index rows) {
  if constexpr (rounds_to_bf16<C>)
    return rows >= C::bf16_from;
  else
    return false;
}

/// How products are formed. dots: by bf16 dot products along K, which suit few rows, if weights and machine allow
/// (kernels/linear_dots.hpp). All others: from activations rounded to bf16, for tiles, if `bf16` is set, else in float32.
struct Regime {
  bool dots, bf16;
};

/// The regime of products in a pass of `rows` rows; each product has `expected_rows` rows on average.
template <class C>
constexpr Regime regime(Index rows, Index expected_rows) {
  constexpr Index few = [] {
    if constexpr (requires { C::few_rows; })
      return Index{C::few_rows};
    else
      return Index{0};
  }();
  return {rounds_to_bf16<C> && (!in_bf16<C>(rows) || expected_rows <= few), in_bf16<C>(rows)};
}

/// Whether prepare() must see activations before they are rounded to bf16.
template <class C>
inline constexpr bool needs_prepare = [] {
  if constexpr (requires { C::needs_prepare; })
    return C::needs_prepare;
  else
    return true;
}();

}  // namespace dsv3::inline DSV3_ISA
