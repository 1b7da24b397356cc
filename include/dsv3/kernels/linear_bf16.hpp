// Floor 3. Products of many rows in bf16: activations are rounded to bf16, weights are exact, sums are float32.
//
// Weights whose values are not exact in bf16 (float32, float16) are multiplied in float32, by activations that are not rounded
// (kernels/linear.hpp). A build without bf16 tiles multiplies the rounded activations in float32: the same numbers up to the order of
// summation.
#pragma once

#include "dsv3/kernels/bf16_products.hpp"

namespace dsv3::inline DSV3_ISA::kernels {

namespace detail {

/// x rounded to bf16, as floats in `scope`, if the values of w are exact in bf16; else x.
template <WeightView W>
ConstMatrixView<float> round_for(Context& ctx, Workspace::Scope& scope, ConstMatrixView<float> x, const W& w) {
  if (!visit_weight(w, []<class V>(const V&) { return codec::values_exact_in_bf16<V>; })) return x;
  auto y = scope.matrix<float>(x.rows(), x.cols());
  ctx.parallel_for(x.rows(), x.size() * 4, [&](Index t, int) {
    for (Index k = 0; k < x.cols(); ++k) y(t, k) = codec::BFloat16::decode(codec::BFloat16::encode(x(t, k)));
  });
  return y;
}

}  // namespace detail

/// y = bf16(x) W^T for every product of the group.
template <class Arch = simd::DefaultArch, WeightView W>
void grouped_linear_bf16(Context& ctx, std::span<const Product<W>> group) {
  auto scope = ctx.scratch();
  const auto rest = detail::multiply_in_tiles<Arch>(ctx, scope, group);
  for (auto& [x, w, y] : rest) std::construct_at(&x, detail::round_for(ctx, scope, x, w));  // assigning to a view would copy elements
  if (!rest.empty()) grouped_linear<Arch, W>(ctx, rest);
}

/// y = bf16(x) W^T: x [T, K], w [N, K], y [T, N], which is overwritten and overlaps neither.
template <class Arch = simd::DefaultArch, WeightView W>
void linear_bf16(Context& ctx, ConstMatrixView<float> x, const W& w, MatrixView<float> y) {
  const Product<W> product{x, w, y};
  grouped_linear_bf16<Arch, W>(ctx, {&product, 1});
}

/// h = activation(bf16(x) gate^T, bf16(x_up) up^T) for every network of the group.
template <class Arch = simd::DefaultArch, WeightView W, GatedActivation A = SwiGlu>
void grouped_gated_linear_bf16(Context& ctx, std::type_identity_t<std::span<const GatedProduct<W, MatrixView<float>, A>>> group) {
  auto scope = ctx.scratch();
  const auto rest = detail::multiply_in_tiles<Arch>(ctx, scope, group);
  for (auto& p : rest) {
    std::construct_at(&p.x, detail::round_for(ctx, scope, p.x, p.gate));
    std::construct_at(&p.x_up, detail::round_for(ctx, scope, p.x_up, p.up));
  }
  if (!rest.empty()) grouped_gated_linear<Arch, W, A>(ctx, rest);
}

}  // namespace dsv3::inline DSV3_ISA::kernels
