// Floor 3. Groups of products by bf16 tiles: splitting them into slabs of activations or panels of weight rows, and storing results.
//
// TiledProduct<Arch, P> tells what weights a product P has: one matrix, or a gate and an up projection.
#pragma once

#include <numeric>

#include "dsv3/kernels/bf16_slabs.hpp"
#include "dsv3/kernels/gated_linear.hpp"
#include "dsv3/kernels/panels.hpp"

namespace dsv3::inline DSV3_ISA::kernels::detail {

#ifdef DSV3_HAS_BF16_TILES

template <class Arch, class P>
struct TiledProduct;

/// Calls f(view) with the view that w is or holds, if that fits tiles; returns whether it does.
template <WeightView W, class F>
bool visit_if_fits_tiles(const W& w, F&& f) {
  return visit_weight(w, [&]<class V>(const V& v) {
    if constexpr (codec::FitsTiles<V>) return f(v), true;
    return false;
  });
}

/// How bf16 tiles see a Product: a unit is 32 adjacent rows of W.
template <class Arch, WeightView W>
struct TiledProduct<Arch, Product<W>> {
  using Weight = W;
  Product<W> p;
  static constexpr Index unit_rows = 2 * bf16::side;

  /// Calls f(Tiles) with the concrete views of the weights; returns false if the weights do not fit tiles.
  template <class F>
  bool resolve(F&& f) const {
    return visit_if_fits_tiles(p.w, [&]<class V>(const V& w) { f(TiledProduct<Arch, Product<V>>{{p.x, w, p.y}}); });
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
template <class Arch, WeightView W, class H, class A>
struct TiledProduct<Arch, GatedProduct<W, H, A>> {
  using Weight = W;
  GatedProduct<W, H, A> p;
  static constexpr Index unit_rows = bf16::side;

  template <class F>
  bool resolve(F&& f) const {
    bool same = false;
    visit_if_fits_tiles(p.gate, [&]<class V>(const V& gate) {
      visit_weight(p.up, [&]<class U>(const U& up) {
        if constexpr (std::is_same_v<U, V>)
          if (p.x.data() == p.x_up.data())
            same = true, f(TiledProduct<Arch, GatedProduct<V, H, A>>{{p.x, p.x_up, gate, up, p.h, p.activation}});
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
    alignas(64) std::array<float, bf16::sum_tile_size> h;
    activate_row<Arch>(gate, up, bf16::sum_tile_size, h.data(), p.activation);
    const Index columns = std::min(bf16::side, rows() - row);
    if constexpr (std::is_same_v<H, bf16::Packed>)
      bf16::store_right(h.data(), columns, row + bf16::side >= rows(), p.h, t / bf16::side, row);
    else
      bf16::store_transposed<1>({h.data()}, count, columns, const_cast<float*>(p.h.data()) + t * p.h.outerStride() + row,
                                p.h.outerStride());
  }
};

/// The order in which a product's x is packed.
template <WeightView W>
bf16::Order order_for(const Product<W>& p) {
  return bf16::order_for(p.w);
}
template <WeightView W, class H, class A>
bf16::Order order_for(const GatedProduct<W, H, A>& p) {
  return bf16::order_for(p.gate);
}

/// The group cut into runs: consecutive products with the same x in the same order.
template <class P>
std::span<const std::span<const P>> split_by_input(Workspace::Scope& scope, std::span<const P> group) {
  const auto runs = scope.array<std::span<const P>>(static_cast<Index>(group.size()));
  const auto same = [](const P& a, const P& b) {
    return a.x.data() == b.x.data() && a.x.rows() == b.x.rows() && a.x.cols() == b.x.cols() && order_for(a) == order_for(b);
  };
  std::size_t n = 0;
  for (std::size_t i = 0, begin = 0; i < group.size(); ++i)
    if (i + 1 == group.size() || !same(group[i], group[i + 1])) runs[n++] = group.subspan(begin, i + 1 - begin), begin = i + 1;
  return runs.first(n);
}

/// A form of the x of every product, such as packed tiles; products of a run share it. make(p) makes the forms one by one; fill(x, form, i)
/// then fills pieces 0 to pieces(form) - 1 of all forms in one parallel loop.
template <class P, class Make, class Pieces, class Fill>
auto convert_inputs(Context& ctx, Workspace::Scope& scope, std::span<const P> group, Make&& make, Pieces&& pieces, Fill&& fill) {
  using Run = std::span<const P>;
  using Form = decltype(make(group.front()));
  const auto runs = split_by_input(scope, group);
  const auto forms = scope.array<Form>(static_cast<Index>(group.size()));
  const auto of = [&](const Run& r) { return forms.subspan(static_cast<std::size_t>(r.data() - group.data()), r.size()); };
  for (const Run& r : runs) std::ranges::fill(of(r), make(r.front()));
  for_each_panel(
      ctx, runs, [&](const Run& r) { return pieces(of(r).front()); }, [](const Run& r) { return r.front().x.size(); },
      [](const Run&, Index) { return Index{1}; }, [&](const Run& r, Index piece, Index, int) { fill(r.front().x, of(r).front(), piece); });
  return std::span<const Form>(forms);
}

/// Packs the x of every product as tiles.
template <class P>
std::span<const bf16::Packed> pack_all(Context& ctx, Workspace::Scope& scope, std::span<const P> group) {
  return convert_inputs(
      ctx, scope, group, [&](const P& p) { return bf16::Packed::right(scope, p.x.rows(), p.x.cols(), order_for(p)); },
      [](const bf16::Packed& packed) { return packed.row_tiles(); },
      [](ConstMatrixView<float> x, const bf16::Packed& packed, Index tile) { bf16::pack_right(x, tile, packed); });
}

/// Rows [begin, begin + count) of a product's weights times all of x, by one worker.
template <class Arch, class Engine, class P>
void multiply_rows(const P& product, const bf16::Packed& x, Index begin, Index count, bf16::Scratch& scratch) {
  TiledProduct<Arch, P>{product}.resolve([&]<class R>(const R& p) {
    constexpr Index at_once = bf16::max_panel_units * R::unit_rows;
    for (const Index end = begin + count; begin < end; begin += at_once) {
      std::array<bf16::Unit<typename R::Weight>, bf16::max_panel_units> units;
      std::size_t n = 0;
      for (Index row = begin; row < std::min(begin + at_once, end); row += R::unit_rows) units[n++] = p.unit(row);
      bf16::multiply_units<Engine, Arch, typename R::Weight>(
          x, {units.data(), n}, scratch, [&](std::size_t u, Index tile, const float* first, const float* second) {
            const Index t = tile * bf16::side;
            p.store(begin + static_cast<Index>(u) * R::unit_rows, t, std::min(bf16::side, x.rows - t), first, second);
          });
    }
  });
}

/// Forms all products of the group, whose x are packed, in one parallel loop. A task is a few units of the weight rows of one product.
template <class Arch, class Engine, class P>
void multiply_packed(Context& ctx, std::span<const P> group, std::span<const bf16::Packed> packed) {
  using T = TiledProduct<Arch, P>;
  auto scope = ctx.scratch();
  const auto x_of = [&](const P& p) -> const bf16::Packed& { return packed[static_cast<std::size_t>(&p - group.data())]; };
  auto* scratch = scratch_of_workers(ctx, scope);
  for_each_panel(
      ctx, group, [&](const P& p) { return x_of(p).rows > 0 ? T{p}.rows() : 0; },
      [&](const P& p) { return x_of(p).rows * x_of(p).cols * T{p}.rows(); },
      [](const P&, Index balanced_rows) {
        return std::clamp(balanced_rows / T::unit_rows, Index{1}, bf16::max_panel_units) * T::unit_rows;
      },
      [&](const P& p, Index begin, Index count, int worker) { multiply_rows<Arch, Engine>(p, x_of(p), begin, count, scratch[worker]); });
}

/// Rows [begin, begin + count) of a product's x and y.
template <WeightView W>
Product<W> rows_of(const Product<W>& p, Index begin, Index count) {
  return {p.x.slice(begin, count), p.w, MatrixView<float>(p.y).slice(begin, count)};
}
template <WeightView W, class A>
GatedProduct<W, MatrixView<float>, A> rows_of(const GatedProduct<W, MatrixView<float>, A>& p, Index begin, Index count) {
  return {p.x.slice(begin, count), p.x_up.slice(begin, count), p.gate, p.up, p.h.slice(begin, count), p.activation};
}

/// Forms all products of the group slab by slab; products of a run share its slabs. Returns false, and does nothing, if there are no slabs.
template <class Arch, class Engine, class P>
[[nodiscard]] bool multiply_slabs(Context& ctx, std::span<const P> group) {
  using Run = std::span<const P>;
  auto scope = ctx.scratch();
  const auto rows = [](const Run& r) {
    return std::accumulate(r.begin(), r.end(), Index{0}, [](Index sum, const P& p) { return sum + TiledProduct<Arch, P>{p}.rows(); });
  };
  return for_each_slab(
      ctx, split_by_input(scope, group), [](const Run& r) { return r.front().x; },
      [&](const Run& r) { return bf16::side * r.front().x.cols() * rows(r); },
      [](const Run& r, Index count) { return bf16::Packed::right_size(count, r.front().x.cols()); },
      [](const Run& r, Index begin, Index count, bf16::Scratch& scratch, std::uint16_t* memory) {
        const auto x = bf16::pack_right(r.front().x.slice(begin, count), memory, order_for(r.front()));
        for (const P& p : r) multiply_rows<Arch, Engine>(rows_of(p, begin, count), x, 0, TiledProduct<Arch, P>{p}.rows(), scratch);
      });
}

/// Calls f.operator()<Engine>() with the engine that this machine has.
template <class F>
void with_engine(F&& f) {
#ifdef DSV3_HAS_AMX
  if (amx::available()) return f.template operator()<bf16::AmxEngine>();
#endif
  f.template operator()<bf16::DotEngine>();
}

#endif

/// Copies, in `scope`, of the products of the group for which predicate(product) is true.
template <class P, class Which>
std::span<P> filter(Workspace::Scope& scope, std::span<const P> group, Which&& predicate) {
  const auto some = scope.template array<P>(static_cast<Index>(group.size()));
  std::size_t n = 0;
  for (const P& p : group)
    if (predicate(p)) std::construct_at(&some[n++], p);
  return some.first(n);
}

/// Forms the products of the group that fit tiles. Returns copies of the others, in `scope`.
template <class Arch, class P>
[[nodiscard]] std::span<P> multiply_in_tiles([[maybe_unused]] Context& ctx, Workspace::Scope& scope, std::span<const P> group) {
#ifdef DSV3_HAS_BF16_TILES
  if constexpr (has_bf16_tiles<Arch>) {
    const auto fits = [](const P& p) { return TiledProduct<Arch, P>{p}.resolve([](const auto&) {}); };
    if (const std::span<const P> in_tiles = filter(scope, group, fits); !in_tiles.empty())
      with_engine([&]<class Engine>() {
        if (!multiply_slabs<Arch, Engine>(ctx, in_tiles)) multiply_packed<Arch, Engine>(ctx, in_tiles, pack_all(ctx, scope, in_tiles));
      });
    return filter(scope, group, [&](const P& p) { return !fits(p); });
  }
#endif
  return filter(scope, group, [](const P&) { return true; });
}

}  // namespace dsv3::inline DSV3_ISA::kernels::detail
