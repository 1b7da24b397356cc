// Floor 3. Products of a few rows in bf16 by dot products along K, on processors with AVX512-BF16 and no AMX.
//
// A vector holds 32 adjacent columns of one row. Weights are decoded once for up to 8 rows of x, and no rows are padded, so that even a
// single row is memory-bound. From about a dozen rows on, tiles (kernels/bf16_dots.hpp) are faster. The order of a sum differs from that of
// tiles, but is the same for any number of rows.
#pragma once

#include "dsv3/kernels/bf16_products.hpp"

namespace dsv3::inline DSV3_ISA::kernels {

/// Whether this machine multiplies few rows by dot products along K.
template <class Arch>
bool uses_dots() {
  return has_bf16_tiles<Arch> && !amx::available();
}

#ifdef DSV3_HAS_BF16_TILES

namespace detail {

/// x [rows, cols] rounded to bf16, in the order of codec::Bf16Group, columns padded with zeros to whole groups of 64.
struct Bf16Rows {
  std::uint16_t* data = nullptr;
  Index rows = 0, stride = 0;

  static constexpr Index group = bf16::Packed::group;
  static Bf16Rows in(Workspace::Scope& scope, Index rows, Index cols) {
    const Index stride = (cols + group - 1) / group * group;
    return {scope.matrix<std::uint16_t>(rows, stride).data(), rows, stride};
  }
  /// Fills row t from x [cols].
  void fill(Index t, const float* x, Index cols) const {
    for (Index k = 0; k < cols; k += group)
      codec::detail::store(
          codec::to_group_order(bf16::load_bf16(x + k, cols - k), bf16::load_bf16(x + k + group / 2, cols - k - group / 2)),
          data + t * stride + k, data + t * stride + k + group / 2);
  }
};

/// Whether dot products along K can multiply a view: its codes are decoded in groups and, if scaled, in whole blocks.
template <class Arch, ElementView V>
inline constexpr bool fits_dots = codec::FitsTiles<V>&& bf16::decodes_groups<V, Arch>&& bf16::scaled_columns<V> == bf16::block;

/// Columns whose products are summed in one vector before they are scaled: a block, or all columns if w has no scales.
template <ElementView W>
Index columns_of_sum(const W& w) {
  return W::Storage::scaled ? bf16::block : std::max(w.cols, Index{1});
}

/// y[m, n * apart] = sum_k x[m, k] W[first + n * apart, k] for an M x N tile; ldx and ldy are the row strides of x and y. Products of
/// columns_of_sum() columns are summed in one vector. That vector times its scale is added to a second one, whose lanes are summed at the
/// end. Codes `ahead` elements after those in use are prefetched.
template <class Arch, int M, int N, ElementView W>
void tile_dots(const std::uint16_t* x, Index ldx, const W& w, Index first, Index row_distance, float* y, Index ldy, Index ahead) {
  using Codec = typename W::Storage::Codec;
  using Group = codec::Bf16Group<Codec, Arch>;
  constexpr Index group = Bf16Rows::group;
  __m512 total[M][N];
  const typename Codec::Code* rows[N];
  simd::unroll<N>([&](auto n) __attribute__((always_inline)) {
    rows[n] = w.row(first + n * row_distance);
    simd::unroll<M>([&](auto m) __attribute__((always_inline)) { total[m][n] = _mm512_setzero_ps(); });
  });
  for (Index k0 = 0, columns = columns_of_sum(w); k0 < w.cols; k0 += columns) {
    const Index end = std::min(k0 + columns, w.cols);
    __m512 part[M][N];
    simd::unroll<M>([&](auto m) __attribute__((always_inline)) {
      simd::unroll<N>([&](auto n) __attribute__((always_inline)) { part[m][n] = _mm512_setzero_ps(); });
    });
    // Adds the products of columns [k, k + 64); codes(n) points to the codes of weight row n.
    const auto add = [&](Index k, auto&& codes) __attribute__((always_inline)) {
      codec::detail::Bf16Pair words[N];
      simd::unroll<N>([&](auto n) __attribute__((always_inline)) { words[n] = Group::load(codes(n)); });
      simd::unroll<M>([&](auto m) __attribute__((always_inline)) {
        const std::uint16_t* row = x + m * ldx + k;
        const auto front = reinterpret_cast<__m512bh>(_mm512_loadu_si512(row)),
                   back = reinterpret_cast<__m512bh>(_mm512_loadu_si512(row + group / 2));
        simd::unroll<N>([&](auto n) __attribute__((always_inline)) {
          part[m][n] = _mm512_dpbf16_ps(part[m][n], front, reinterpret_cast<__m512bh>(words[n].first));
          part[m][n] = _mm512_dpbf16_ps(part[m][n], back, reinterpret_cast<__m512bh>(words[n].last));
        });
      });
    };
    Index k = k0;
    for (; k + group <= end; k += group) {
      constexpr int lines = static_cast<int>(sizeof(typename Codec::Code));
      simd::unroll<N * lines>([&](auto i) __attribute__((always_inline)) {
        simd::prefetch(rows[i / lines] + k, ahead + i % lines * (group / lines));
      });
      add(
          k, [&](auto n) __attribute__((always_inline)) { return rows[n] + k; });
    }
    if (k < end) {
      alignas(64) std::array<std::array<typename Codec::Code, static_cast<std::size_t>(group)>, N> edge{};
      for (std::size_t n = 0; n < N; ++n) std::copy_n(rows[n] + k, end - k, edge[n].begin());
      add(k, [&](auto n) { return edge[static_cast<std::size_t>(n())].data(); });
    }
    simd::unroll<N>([&](auto n) __attribute__((always_inline)) {
      const __m512 scale = _mm512_set1_ps(w.scale(first + n * row_distance, k0));
      simd::unroll<M>([&](auto m) __attribute__((always_inline)) {
        total[m][n] = W::Storage::scaled ? _mm512_fmadd_ps(part[m][n], scale, total[m][n]) : part[m][n];
      });
    });
  }
  simd::unroll<M>([&](auto m) __attribute__((always_inline)) {
    simd::unroll<N>([&](auto n) __attribute__((always_inline)) { y[m * ldy + n * row_distance] = _mm512_reduce_add_ps(total[m][n]); });
  });
}

/// max_dots_rows: most rows of x in a tile. 4 rows and their weights fit into L1; 8 do not, but halve the decoding of weights. dots_n: rows
/// of w in a tile with M rows of x, as many as registers hold sums for; scaled weights need two sums per element of y.
template <class Storage>
inline constexpr int max_dots_rows = Storage::scaled ? 8 : 4;
template <int M, class Storage>
inline constexpr int dots_n = M <= 2 || !Storage::scaled ? 4
                              : M <= 4                   ? 2
                                                         : 1;

/// All rows of x times all rows of w. If x takes several tiles, w is cut so that each piece stays in cache while those tiles re-read it. A
/// tile's rows of w are far apart, so that the processor sees several long sequential streams.
template <class Arch, ElementView W>
void panel_dots(const Bf16Rows& x, const W& w, float* y, Index ldy) {
  using Storage = typename W::Storage;
  constexpr int max_rows = max_dots_rows<Storage>;
  const Index ahead = prefetch_bytes / static_cast<Index>(sizeof(*w.row(0)));
  const Index at_once =
      x.rows <= max_rows ? w.rows : std::max(Index{16}, cached_panel_bytes / 2 / std::max(row_bytes(w), Index{1}) / 4 * 4);
  for (Index first = 0; first < w.rows; first += at_once) {
    const Index end = std::min(first + at_once, w.rows);
    for (Index t = 0; t < x.rows; t += max_rows) {
      const std::uint16_t* rows = x.data + t * x.stride;
      float* out = y + t * ldy;
      const auto tiles = [&]<int M>() {
        constexpr int N = dots_n<M, Storage>;
        const Index row_distance = (end - first) / N;
        for (Index n = first; n < first + row_distance; ++n) tile_dots<Arch, M, N>(rows, x.stride, w, n, row_distance, out + n, ldy, ahead);
        for (Index n = first + row_distance * N; n < end; ++n) tile_dots<Arch, M, 1>(rows, x.stride, w, n, 1, out + n, ldy, ahead);
      };
      simd::unroll<max_rows>([&](auto m) {
        if (std::min(x.rows - t, Index{max_rows}) == m + 1) tiles.template operator()<m + 1>();
      });
    }
  }
}

/// Makes the Bf16Rows of every product of the group.
template <class P>
std::span<const Bf16Rows> make_bf16_rows(Context& ctx, Workspace::Scope& scope, std::span<const P> group) {
  return convert_inputs(
      ctx, scope, group, [&](const P& p) { return Bf16Rows::in(scope, p.x.rows(), p.x.cols()); },
      [](const Bf16Rows& bf16_rows) { return bf16_rows.rows; },
      [](ConstMatrixView<float> x, const Bf16Rows& bf16_rows, Index t) { bf16_rows.fill(t, x.row_data(t), x.cols()); });
}

/// Rows [begin, begin + count) of w times all of x.
template <class Arch, WeightView W>
void multiply_rows_by_dots(const Bf16Rows& x, const W& w, Index begin, Index count, float* y, Index ldy) {
  visit_weight(w, [&]<class V>(const V& v) {
    if constexpr (fits_dots<Arch, V>) panel_dots<Arch>(x, v.slice(begin, count), y, ldy);
  });
}

/// y = bf16(x) W^T for every product of the group.
template <class Arch, WeightView W>
void multiply_dots(Context& ctx, std::span<const Product<W>> group) {
  auto scope = ctx.scratch();
  const auto bf16_rows = make_bf16_rows(ctx, scope, group);
  for_each_panel(
      ctx, group, [](const Product<W>& p) { return p.x.rows() > 0 ? p.y.cols() : 0; },
      [](const Product<W>& p) { return p.x.size() * p.y.cols(); },
      [](const Product<W>& p, Index balanced_rows) { return streamed_rows(p.w, balanced_rows); },
      [&](const Product<W>& p, Index begin, Index count, int) {
        auto y = MatrixView<float>(p.y).columns(begin, count);
        multiply_rows_by_dots<Arch>(bf16_rows[static_cast<std::size_t>(&p - group.data())], p.w, begin, count, y.data(), y.outerStride());
      });
}

/// h = activation(bf16(x) gate^T, bf16(x) up^T) for every network of the group.
template <class Arch, WeightView W, class A>
void multiply_dots(Context& ctx, std::span<const GatedProduct<W, MatrixView<float>, A>> group) {
  using P = GatedProduct<W, MatrixView<float>, A>;
  auto scope = ctx.scratch();
  const auto bf16_rows = make_bf16_rows(ctx, scope, group);
  Index columns = 0;
  for (const P& p : group) columns = std::max(columns, p.h.size());
  auto memory = scope.matrix<float>(ctx.workers(), columns);
  for_each_panel(
      ctx, group, [](const P& p) { return p.x.rows() > 0 ? p.h.cols() : 0; }, [](const P& p) { return 2 * p.x.size() * p.h.cols(); },
      [](const P& p, Index balanced_rows) { return streamed_rows(p.gate, balanced_rows); },
      [&](const P& p, Index begin, Index count, int worker) {
        const auto& x = bf16_rows[static_cast<std::size_t>(&p - group.data())];
        auto h = MatrixView<float>(p.h).columns(begin, count);
        MatrixView<float> up(memory.row_data(worker), h.rows(), count);
        multiply_rows_by_dots<Arch>(x, p.gate, begin, count, h.data(), h.outerStride());
        multiply_rows_by_dots<Arch>(x, p.up, begin, count, up.data(), count);
        for (Index t = 0; t < h.rows(); ++t) activate_row<Arch>(h.row_data(t), up.row_data(t), count, h.row_data(t), p.activation);
      });
}

/// Whether dot products along K can form a product.
template <class Arch, WeightView W>
bool can_use_dots(const W& w) {
  return visit_weight(w, []<class V>(const V&) { return fits_dots<Arch, V>; });
}
template <class Arch, WeightView W>
bool can_use_dots(const Product<W>& p) {
  return can_use_dots<Arch>(p.w);
}
template <class Arch, WeightView W, class A>
bool can_use_dots(const GatedProduct<W, MatrixView<float>, A>& p) {
  return p.x.data() == p.x_up.data() && can_use_dots<Arch>(p.gate) && can_use_dots<Arch>(p.up);
}

}  // namespace detail

#endif

/// Forms the products of the group that dot products along K can form. Returns the others, in `scope`, or the whole group if the machine
/// does not use dot products.
template <class Arch, class P>
[[nodiscard]] std::span<const P> multiply_in_dots([[maybe_unused]] Context& ctx, [[maybe_unused]] Workspace::Scope& scope,
                                                  std::span<const P> group) {
#ifdef DSV3_HAS_BF16_TILES
  if constexpr (has_bf16_tiles<Arch>) {
    if (!uses_dots<Arch>()) return group;
    const auto fits = [](const P& p) { return detail::can_use_dots<Arch>(p); };
    if (const std::span<const P> some = detail::filter(scope, group, fits); !some.empty()) detail::multiply_dots<Arch>(ctx, some);
    return detail::filter(scope, group, [&](const P& p) { return !fits(p); });
  }
#endif
  return group;
}

}  // namespace dsv3::inline DSV3_ISA::kernels
