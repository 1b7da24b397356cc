// Floor 3. Whole gated feed-forward networks of many rows in bf16: y = activation(x gate^T, x up^T) down^T.
//
// The first product writes its hidden activations as the packed x of the second: they are rounded to bf16 when they are formed, and are
// stored in no other form. The results are those of grouped_gated_linear_bf16 and grouped_linear_bf16.
#pragma once

#include "dsv3/kernels/linear_bf16.hpp"

namespace dsv3::inline DSV3_ISA::kernels {

/// One network of a group: x [T, K], gate and up [N, K], down [D, N], y [T, D], overwritten.
template <WeightView W, GatedActivation A = SwiGlu>
struct GatedNetwork {
  ConstMatrixView<float> x;
  W gate, up, down;
  MatrixView<float> y;
  [[no_unique_address]] A activation{};
};

namespace detail {

/// Both products of networks, with hidden activations as floats in between: for networks that do not fit tiles as a whole.
template <class Arch, WeightView W, class A>
void networks_by_products(Context& ctx, std::span<const GatedNetwork<W, A>> group) {
  using Inner = GatedProduct<W, MatrixView<float>, A>;
  auto scope = ctx.scratch();
  const auto n = static_cast<Index>(group.size());
  const auto inner = scope.array<Inner>(n);
  const auto outer = scope.array<Product<W>>(n);
  for (std::size_t i = 0; i < group.size(); ++i) {
    const auto& [x, gate, up, down, y, activation] = group[i];
    auto h = scope.matrix<float>(x.rows(), weight_rows(gate));
    std::construct_at(&inner[i], Inner{x, x, gate, up, h, activation});
    std::construct_at(&outer[i], Product<W>{h, down, y});
  }
  grouped_gated_linear_bf16<Arch, W, A>(ctx, inner);
  grouped_linear_bf16<Arch, W>(ctx, outer);
}

#ifdef DSV3_HAS_BF16_TILES

/// Slab by slab: a worker forms both products of its rows, and the hidden activations never leave its cache. Returns false, and does
/// nothing, if there are no slabs.
template <class Arch, class Engine, WeightView W, class A>
[[nodiscard]] bool networks_in_slabs(Context& ctx, std::span<const GatedNetwork<W, A>> group) {
  using Network = GatedNetwork<W, A>;
  const auto x_size = [](const Network& p, Index rows) { return bf16::Packed::right_size(rows, p.x.cols()); };
  return for_each_slab(
      ctx, group, [](const Network& p) { return p.x; },
      [](const Network& p) { return bf16::side * weight_rows(p.gate) * (2 * p.x.cols() + weight_rows(p.down)); },
      [&](const Network& p, Index rows) { return x_size(p, rows) + bf16::Packed::right_size(rows, weight_rows(p.gate)); },
      [&](const Network& p, Index begin, Index count, bf16::Scratch& scratch, std::uint16_t* memory) {
        const auto rows = p.x.slice(begin, count);
        const auto x = bf16::pack_right(rows, memory, bf16::order_for(p.gate));
        const auto h = bf16::Packed::right(memory + x_size(p, count), count, weight_rows(p.gate), bf16::order_for(p.down));
        const GatedProduct<W, bf16::Packed, A> inner{rows, rows, p.gate, p.up, h, p.activation};
        const Product<W> outer{{}, p.down, MatrixView<float>(p.y).slice(begin, count)};  // its x is h
        multiply_rows<Arch, Engine>(inner, x, 0, weight_rows(p.gate), scratch);
        multiply_rows<Arch, Engine>(outer, h, 0, weight_rows(p.down), scratch);
      });
}

/// Forms all first products, then all second ones, each in one parallel loop over panels of weight rows.
template <class Arch, class Engine, WeightView W, class A>
void networks_in_panels(Context& ctx, std::span<const GatedNetwork<W, A>> group) {
  using Inner = GatedProduct<W, bf16::Packed, A>;
  auto scope = ctx.scratch();
  const auto n = static_cast<Index>(group.size());
  const auto inner = scope.array<Inner>(n);
  const auto outer = scope.array<Product<W>>(n);
  const auto hidden = scope.array<bf16::Packed>(n);
  for (std::size_t i = 0; i < group.size(); ++i) {
    const auto& [x, gate, up, down, y, activation] = group[i];
    hidden[i] = bf16::Packed::right(scope, x.rows(), weight_rows(gate), bf16::order_for(down));
    std::construct_at(&inner[i], Inner{x, x, gate, up, hidden[i], activation});
    std::construct_at(&outer[i], Product<W>{{}, down, y});  // its x is hidden[i]
  }
  multiply_packed<Arch, Engine, Inner>(ctx, inner, pack_all<Inner>(ctx, scope, inner));
  multiply_packed<Arch, Engine, Product<W>>(ctx, outer, hidden);
}

#endif

/// Whether tiles can form both products.
template <class Arch, WeightView W, class A>
bool fits_tiles_whole([[maybe_unused]] const GatedNetwork<W, A>& p) {
#ifdef DSV3_HAS_BF16_TILES
  const auto nothing = [](const auto&) {};
  if constexpr (has_bf16_tiles<Arch>)
    return TiledProduct<Arch, GatedProduct<W>>{{p.x, p.x, p.gate, p.up, {}, {}}}.resolve(nothing) &&
           TiledProduct<Arch, Product<W>>{{{}, p.down, p.y}}.resolve(nothing);
#endif
  return false;
}

}  // namespace detail

/// y = bf16(activation(bf16(x) gate^T, bf16(x) up^T)) down^T for every network of the group.
template <class Arch = simd::DefaultArch, WeightView W, GatedActivation A = SwiGlu>
void grouped_gated_ffn_bf16(Context& ctx, std::type_identity_t<std::span<const GatedNetwork<W, A>>> group) {
  using Network = GatedNetwork<W, A>;
  auto scope = ctx.scratch();
  const auto fits = [](const Network& p) { return detail::fits_tiles_whole<Arch>(p); };
#ifdef DSV3_HAS_BF16_TILES
  if constexpr (has_bf16_tiles<Arch>)
    if (const std::span<const Network> in_tiles = detail::filter(scope, group, fits); !in_tiles.empty())
      detail::with_engine([&]<class Engine>() {
        if (!detail::networks_in_slabs<Arch, Engine>(ctx, in_tiles)) detail::networks_in_panels<Arch, Engine>(ctx, in_tiles);
      });
#endif
  const std::span<const Network> rest = detail::filter(scope, group, [&](const Network& p) { return !fits(p); });
  if (!rest.empty()) detail::networks_by_products<Arch, W, A>(ctx, rest);
}

}  // namespace dsv3::inline DSV3_ISA::kernels
