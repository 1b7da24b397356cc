// Floor 3. Groups of products by bf16 tiles: packing the activations, handing out panels of weight rows, storing results.
//
// What a product is made of (one weight, or a gate and an up projection) is told by its Tiles<Arch, P>.
#pragma once

#include <memory>

#include "dsv3/kernels/bf16_panel.hpp"
#include "dsv3/kernels/gated_linear.hpp"

namespace dsv3::inline DSV3_ISA::kernels::detail {

#ifdef DSV3_HAS_BF16_TILES

template <class Arch, class P>
struct Tiles;

/// Whether a view's codes can be made into tiles: exact in bf16, with a conversion, and scales that hold for 128 columns.
template <class Arch, ElementView V>
inline constexpr bool fits_tiles = codec::Bf16Group<typename V::Storage::Codec, Arch>::exists &&
                                   (!V::Storage::scaled || V::Storage::k_block % bf16::block == 0);

/// f(view) with the view of type V that w is, or holds, whose codes can be made into tiles; false if they cannot.
template <class Arch, WeightView W, class F>
bool visit_fitting(const W& w, F&& f) {
  return visit_weight(w, [&]<class V>(const V& v) {
    if constexpr (fits_tiles<Arch, V>) return f(v), true;
    return false;
  });
}

/// How bf16 tiles see a Product: a unit is 32 neighbouring rows of W.
template <class Arch, WeightView W>
struct Tiles<Arch, Product<W>> {
  using Weight = W;
  Product<W> p;
  static constexpr Index unit_rows = 2 * bf16::side;

  /// f(these tiles with the weights' own types); false if the weights do not fit tiles.
  template <class F>
  bool resolve(F&& f) const {
    return visit_fitting<Arch>(p.w, [&]<class V>(const V& w) { f(Tiles<Arch, Product<V>>{{p.x, w, p.y}}); });
  }
  Index rows() const { return p.y.cols(); }
  auto unit(Index row) const requires ElementView<W> {
    const Index middle = std::min(row + bf16::side, rows());
    return bf16::Unit<W>{p.w.slice(row, middle - row), p.w.slice(middle, std::min(bf16::side, rows() - middle)), unit_rows};
  }
  void store(Index row, Index t, Index count, const float* first, const float* second) const {
    float* y = const_cast<float*>(p.y.data()) + t * p.y.outerStride() + row;
    bf16::store_transposed<2>({first, second}, count, std::min(unit_rows, rows() - row), y, p.y.outerStride());
  }
};

/// How bf16 tiles see a GatedProduct: a unit is 16 rows of the gate and the same rows of the up projection. h may be packed.
template <class Arch, WeightView W, class H>
struct Tiles<Arch, GatedProduct<W, H>> {
  using Weight = W;
  GatedProduct<W, H> p;
  static constexpr Index unit_rows = bf16::side;

  template <class F>
  bool resolve(F&& f) const {
    bool same = false;
    visit_fitting<Arch>(p.gate, [&]<class V>(const V& gate) {
      visit_weight(p.up, [&]<class U>(const U& up) {
        if constexpr (std::is_same_v<U, V>)
          if (p.x.data() == p.x_up.data()) same = true, f(Tiles<Arch, GatedProduct<V, H>>{{p.x, p.x_up, gate, up, p.h}});
      });
    });
    return same;
  }
  Index rows() const { return weight_rows(p.gate); }
  auto unit(Index row) const requires ElementView<W> {
    const Index count = std::min(bf16::side, rows() - row);
    return bf16::Unit<W>{p.gate.slice(row, count), p.up.slice(row, count), unit_rows};
  }
  void store(Index row, Index t, Index count, const float* gate, const float* up) const {
    alignas(64) std::array<float, bf16::sum_tile> h;
    swiglu_row<Arch>(gate, up, bf16::sum_tile, h.data());
    const Index columns = std::min(bf16::side, rows() - row);
    if constexpr (std::is_same_v<H, bf16::Packed>)
      bf16::store_right(h.data(), columns, row + bf16::side >= rows(), p.h, t / bf16::side, row);
    else
      bf16::store_transposed<1>({h.data()}, count, columns, const_cast<float*>(p.h.data()) + t * p.h.outerStride() + row,
                                p.h.outerStride());
  }
};

/// The x of every product as tiles; products that follow one another and have one x share them.
template <class P>
std::span<bf16::Packed> pack_all(Context& ctx, Workspace::Scope& scope, std::span<const P> group) {
  const auto packed = scope.array<bf16::Packed>(static_cast<Index>(group.size()));
  const auto index = [&](const P& p) { return static_cast<std::size_t>(&p - group.data()); };
  const auto shared = [&](const P& p) {  // no rows take no memory: their place is the next one's
    return index(p) > 0 && packed[index(p) - 1].rows > 0 && packed[index(p)].data == packed[index(p) - 1].data;
  };
  for (std::size_t i = 0; i < group.size(); ++i) {
    const auto& x = group[i].x;
    const auto same = [&](const auto& last) { return x.data() == last.data() && x.rows() == last.rows() && x.cols() == last.cols(); };
    packed[i] = i > 0 && same(group[i - 1].x) ? packed[i - 1] : bf16::Packed::right(scope, x.rows(), x.cols());
  }
  for_each_panel(
      ctx, group, [&](const P& p) { return shared(p) ? 0 : packed[index(p)].row_tiles(); }, [](const P& p) { return p.x.size(); },
      [](const P&, Index) { return Index{1}; }, [&](const P& p, Index tile, Index, int) { bf16::pack_right(p.x, tile, packed[index(p)]); });
  return packed;
}

/// All products of the group, whose x are packed, in one parallel loop; a task is a few units of one product's rows.
template <class Arch, class Engine, class P>
void multiply_packed(Context& ctx, std::span<const P> group, std::span<const bf16::Packed> packed) {
  using T = Tiles<Arch, P>;
  auto scope = ctx.scratch();
  const auto x_of = [&](const P& p) -> const bf16::Packed& { return packed[static_cast<std::size_t>(&p - group.data())]; };
  auto* scratch =
      reinterpret_cast<bf16::Scratch*>(scope.aligned(ctx.workers() * static_cast<Index>(sizeof(bf16::Scratch)), alignof(bf16::Scratch)));
  std::uninitialized_default_construct_n(scratch, ctx.workers());
  for_each_panel(
      ctx, group, [&](const P& p) { return x_of(p).rows > 0 ? T{p}.rows() : 0; },
      [&](const P& p) { return x_of(p).rows * x_of(p).cols * T{p}.rows(); },
      [](const P&, Index share) { return std::clamp(share / T::unit_rows, Index{1}, bf16::units_at_once) * T::unit_rows; },
      [&](const P& product, Index begin, Index count, int worker) {
        const auto& x = x_of(product);
        T{product}.resolve([&]<class R>(const R& p) {
          std::array<bf16::Unit<typename R::Weight>, bf16::units_at_once> units;
          std::size_t n = 0;
          for (Index row = begin; row < begin + count; row += R::unit_rows) units[n++] = p.unit(row);
          bf16::multiply_all<Engine, Arch, typename R::Weight>(
              x, {units.data(), n}, scratch[worker], [&](std::size_t u, Index tile, const float* first, const float* second) {
                const Index t = tile * bf16::side;
                p.store(begin + static_cast<Index>(u) * R::unit_rows, t, std::min(bf16::side, x.rows - t), first, second);
              });
        });
      });
}

/// f.operator()<Engine>() with the engine that this machine has.
template <class F>
void with_engine(F&& f) {
#ifdef DSV3_HAS_AMX
  if (amx::ready()) return f.template operator()<bf16::AmxEngine>();
#endif
  f.template operator()<bf16::DotEngine>();
}

#endif

/// Forms those products of the group that tiles can form, and gives the others, in `scope`.
template <class Arch, class P>
std::span<P> multiply_in_tiles([[maybe_unused]] Context& ctx, Workspace::Scope& scope, std::span<const P> group) {
  const auto rest = scope.template array<P>(static_cast<Index>(group.size()));
  std::size_t others = 0;
#ifdef DSV3_HAS_BF16_TILES
  if constexpr (has_bf16_tiles<Arch>) {
    const auto fitting = scope.template array<P>(static_cast<Index>(group.size()));
    std::size_t fit = 0;
    for (const P& p : group)
      Tiles<Arch, P>{p}.resolve([](const auto&) {}) ? std::construct_at(&fitting[fit++], p) : std::construct_at(&rest[others++], p);
    const std::span<const P> in_tiles = fitting.first(fit);
    if (fit > 0) {
      const auto packed = pack_all(ctx, scope, in_tiles);
      with_engine([&]<class Engine>() { multiply_packed<Arch, Engine>(ctx, in_tiles, packed); });
    }
    return rest.first(others);
  }
#endif
  for (const P& p : group) std::construct_at(&rest[others++], p);
  return rest;
}

}  // namespace dsv3::inline DSV3_ISA::kernels::detail
