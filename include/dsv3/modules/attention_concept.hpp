// Floor 4. What a block requires of its attention.
#pragma once

#include "dsv3/core/context.hpp"
#include "dsv3/kernels/attention_variant.hpp"
#include "dsv3/modules/parameters.hpp"
#include "dsv3/modules/rows.hpp"

namespace dsv3::inline DSV3_ISA {

/// One layer's cache of one sequence, made from (config, layer, max_tokens) or, if layers are alike, from (config, max_tokens).
template <class C, class Config>
concept LayerCache = std::constructible_from<C, const Config&, Index, Index> || std::constructible_from<C, const Config&, Index>;

template <class C, class Config>
C make_layer_cache(const Config& c, Index layer, Index max_tokens) {
  if constexpr (std::constructible_from<C, const Config&, Index, Index>)
    return C(c, layer, max_tokens);
  else
    return C(c, max_tokens);
}

/// A layer's variant of attention (kernels/attention_variant.hpp): made from (config, layer), (config) or nothing. It may have weights of
/// its own; their names start with the attention's prefix.
template <attention::Variant V, class Config>
V make_variant([[maybe_unused]] const Config& c, [[maybe_unused]] Index layer) {
  if constexpr (LayerPart<V, Config>)
    return make_part<V>(c, layer);
  else
    return V{};
}

/// Made from (config, layer) or (config). forward(ctx, x, rows, y), with x, y [T, D] and y overwritten, writes each segment's keys to its
/// cache; each row attends to the tokens of its own sequence up to and including itself.
template <class A, class Config = dsv3::Config>
concept Attention = LayerPart<A, Config> && LayerCache<typename A::Cache, Config> && HasTensors<A> &&
    requires(const A& a, Context& ctx, ConstMatrixView<float> x, const Rows<typename A::Cache>& rows, MatrixView<float> y) {
  a.forward(ctx, x, rows, y);
};

}  // namespace dsv3::inline DSV3_ISA
