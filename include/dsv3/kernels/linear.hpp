// Floor 3. Matrix products with stored weights: y = x W^T (linear) and y = x W (linear_transposed), one or many in one parallel loop.
//
// The order of the float32 sums depends on W alone (kernels/linear_tile.hpp): a row of y depends only on its row of x, bit for bit.
#pragma once

#include <array>
#include <memory>
#include <span>

#include "dsv3/core/error.hpp"
#include "dsv3/kernels/linear_input.hpp"
#include "dsv3/kernels/panels.hpp"
#include "dsv3/quant/any_storage.hpp"
#include "dsv3/simd/math.hpp"

namespace dsv3::inline DSV3_ISA::kernels {

/// One product of a group: x [T, K], w [N, K], y [T, N] (linear) or x [T, N], w [N, K], y [T, K] (linear_transposed).
/// y is overwritten and overlaps neither x nor w.
template <WeightView W>
struct Product {
  ConstMatrixView<float> x;
  W w;
  MatrixView<float> y;
};

namespace detail {

inline constexpr int max_tile_rows = 4;  // most rows of x in a tile

// Bytes of codes in a panel. A panel that is read once has about min_panel_bytes (linear) or min_transposed_panel_bytes (linear_transposed)
// or more, so that starting its streams pays off. A panel that is re-read from cache has about cached_panel_bytes / (rows of x).
inline constexpr Index min_panel_bytes = 1 << 18, min_transposed_panel_bytes = 1 << 16, cached_panel_bytes = 1 << 19;

// From min_rows_to_decode rows of x on it is faster to decode w once than in every tile; decoded_floats are decoded at a time, so that they
// stay in L2. From min_lanes_rows on linear_lanes() is faster.
inline constexpr Index min_rows_to_decode = 9, decoded_floats = 1 << 16;

inline constexpr Index max_columns = 512, transposed_rows = 16;  // linear_transposed: most columns of w in a panel; rows of w at a time

/// M rows of x times all rows of w, N at a time. The N rows of w in a tile are w.rows / N apart, so that the processor sees N long
/// sequential streams. Codes are prefetched `ahead` elements before their use, unless that is 0.
template <class Arch, int M, int N, ElementView W>
void linear_row_of_tiles(const float* x, Index ldx, const W& w, float* y, Index ldy, Index ahead) {
  const Index row_distance = w.rows / N;
  for (Index n = 0; n < row_distance; ++n) linear_tile<Arch, M, N>(x, ldx, w, n, row_distance, y + n, ldy, ahead);
  for (Index n = row_distance * N; n < w.rows; ++n) linear_tile<Arch, M, 1>(x, ldx, w, n, 1, y + n, ldy, ahead);
}

/// All rows of x times all rows of w. The first tile of x reads w from memory and prefetches it; the others find w in cache.
template <class Arch, ElementView W>
void linear_panel(ConstMatrixView<float> x, const W& w, float* y, Index ldy) {
  Index t = 0, ahead = prefetch_bytes * 8 / row_of_t<W>::bits;
  const auto tiles = [&]<int M>(std::integral_constant<int, M>) {
    for (; t + M <= x.rows(); t += M, ahead = 0)
      linear_row_of_tiles<Arch, M, tile_n<Arch, M>>(x.row_data(t), x.outerStride(), w, y + t * ldy, ldy, ahead);
  };
  tiles(std::integral_constant<int, max_tile_rows>{});
  tiles(std::integral_constant<int, 3>{});
  tiles(std::integral_constant<int, 2>{});
  tiles(std::integral_constant<int, 1>{});
}

/// Rows of w that are decoded at a time.
inline Index decoded_rows(Index cols) { return std::max(Index{8}, decoded_floats / std::max(decoded_stride(cols), Index{1}) / 8 * 8); }

/// The same with rows of w decoded into `scratch` [decoded_rows(cols), decoded_stride(cols)] first.
template <class Arch, ElementView W>
void linear_panel_decoded(ConstMatrixView<float> x, const W& w, float* y, Index ldy, float* scratch) {
  for (Index n = 0, count = decoded_rows(w.cols); n < w.rows; n += count) {
    const auto floats = decode<Arch>(w.slice(n, std::min(count, w.rows - n)), scratch, prefetch_bytes * 8 / row_of_t<W>::bits);
    linear_panel<Arch>(x, floats, y + n, ldy);
  }
}

/// Whether rows of w are decoded first, unless they are floats already.
template <WeightView W>
bool decodes_first(Index rows, const W& w) {
  return rows >= min_rows_to_decode && visit_weight(w, []<class V>(const V&) { return row_of_t<V>::bits < 32; });
}

/// Floats of scratch that a worker needs to multiply x [rows, cols] with w.
template <class Arch, WeightView W>
Index linear_scratch(Index rows, const W& w) {
  const Index cols = weight_cols(w);
  if (rows >= min_lanes_rows) return LanesMemory<Arch>::size(cols);
  return decodes_first(rows, w) ? decoded_rows(cols) * decoded_stride(cols) : 0;
}

/// Rows [begin, begin + count) of w times all of x. `scratch` [linear_scratch()] is aligned to 64 bytes.
template <class Arch, WeightView W>
void multiply_weight_rows(const Input& input, const W& w, Index begin, Index count, float* y, Index ldy, float* scratch) {
  const auto& x = input.x;
  visit_weight(w, [&](const auto& v) {
    if (input.packed != nullptr)
      linear_lanes<Arch>(input.packed, x.rows(), v.slice(begin, count), y, ldy, LanesMemory<Arch>(scratch, v.cols));
    else if (decodes_first(x.rows(), w))
      linear_panel_decoded<Arch>(x, v.slice(begin, count), y, ldy, scratch);
    else
      linear_panel<Arch>(x, v.slice(begin, count), y, ldy);
  });
}

/// Rows of w that take about `bytes`, rounded up to a multiple of 16.
template <WeightView W>
Index rows_of_bytes(const W& w, Index bytes) {
  const Index in_row = visit_weight(w, [](const auto& v) { return row_bytes(v); });
  return (bytes / std::max(in_row, Index{1}) + 15) / 16 * 16;
}

/// Rows of w in a panel that is read once; `balanced_rows` rows would balance the workers.
template <WeightView W>
Index streamed_rows(const W& w, Index balanced_rows) {
  return std::max({Index{16}, balanced_rows / 16 * 16, rows_of_bytes(w, min_panel_bytes)});
}

/// Rows of w in a panel that is multiplied by `rows` rows of x; `balanced_rows` rows would balance the workers.
template <class Arch, WeightView W>
Index panel_rows(Index rows, const W& w, Index balanced_rows) {
  constexpr Index packed = Lanes<Arch>::panel;
  if (rows <= max_tile_rows) return streamed_rows(w, balanced_rows);
  if (rows >= min_lanes_rows) return std::clamp(balanced_rows / packed, Index{1}, Index{8}) * packed;
  if (decodes_first(rows, w)) return std::max(Index{16}, std::min(balanced_rows / 16 * 16, decoded_rows(weight_cols(w))));
  return std::max(Index{16}, rows_of_bytes(w, cached_panel_bytes / rows));
}

/// M rows of x times columns [begin, end) of w: at most max_columns, and `begin` is the first column of a block of scales. Takes
/// transposed_rows rows of w at a time, so that w is read in the order of memory. Products of rows that share scales are summed, then
/// scaled.
template <class Arch, int M, ElementView W>
void linear_transposed_row_of_tiles(const float* x, Index ldx, const W& w, Index begin, Index end, float* y, Index ldy, Index ahead) {
  using Floats = simd::Floats<Arch>;
  constexpr Index step = simd::width<Arch>, block = W::Storage::k_block;
  constexpr float decode_scale = group_of<W, Arch>::decode_scale;
  std::array<float, M * max_columns> parts;
  const auto each_row = [&](auto&& f) {
    for (Index m = 0; m < M; ++m) f(parts.data() + m * max_columns, y + m * ldy + begin);
  };
  each_row([&](float*, float* total) { std::fill_n(total, end - begin, 0.0f); });
  for (Index n0 = 0; n0 < w.rows;) {
    const Index stop = w.uniform_rows(n0);
    parts.fill(0.0f);
    for (Index n = n0; n < stop; n += transposed_rows) {
      const Index until = std::min(n + transposed_rows, stop);
      Index k = begin;
      for (; end - k > 3 * step; k += 4 * step)
        linear_transposed_tile<Arch, M, 4>(x, ldx, w, n, until, k, parts.data() + k - begin, max_columns, ahead);
      for (; k < end; k += step) linear_transposed_tile<Arch, M, 1>(x, ldx, w, n, until, k, parts.data() + k - begin, max_columns, ahead);
    }
    each_row([&](const float* part, float* total) {
      for (Index k = begin; k < end; k += block) {
        const Floats scale(w.scale(n0, k) * decode_scale);
        simd::map<Arch>([&](const Floats& p, const Floats& t) { return simd::fma<Arch>(p, scale, t); }, std::min(block, end - k),
                        total + k - begin, part + k - begin, total + k - begin);
      }
    });
    n0 = stop;
  }
}

/// All rows of x times columns [begin, end) of w. The first tile of x reads w from memory and prefetches it; the others find w in cache.
template <class Arch, ElementView W>
void linear_transposed_panel(ConstMatrixView<float> x, const W& w, Index begin, Index end, MatrixView<float> y) {
  Index t = 0, ahead = transposed_rows;
  const auto tiles = [&]<int M>(std::integral_constant<int, M>) {
    for (; t + M <= x.rows(); t += M, ahead = 0)
      linear_transposed_row_of_tiles<Arch, M>(x.row_data(t), x.outerStride(), w, begin, end, y.row_data(t), y.outerStride(), ahead);
  };
  tiles(std::integral_constant<int, max_tile_rows>{});
  tiles(std::integral_constant<int, 1>{});
}

/// Throws unless x [T, in] and y [T, out] fit a product with weights of these sizes.
inline void check_product(const char* name, ConstMatrixView<float> x, ConstMatrixView<float> y, Index in, Index out) {
  if (x.cols() != in || y.cols() != out || x.rows() != y.rows())
    fail(name, ": expected x [T, ", in, "] and y [T, ", out, "], got ", shape_string({x.rows(), x.cols()}), " and ",
         shape_string({y.rows(), y.cols()}));
}

/// Columns in a panel of linear_transposed: whole blocks of scales, enough to be worth a task.
template <WeightView W>
Index panel_columns(const W& w) {
  return visit_weight(w, []<class V>(const V& v) {
    constexpr Index block = V::Storage::k_block;
    static_assert(block % 16 == 0 && block <= max_columns, "a block of scales must be whole vectors wide, and no wider than a panel");
    return std::clamp(min_transposed_panel_bytes * 8 / row_of_t<V>::bits / std::max(v.rows, Index{1}) / block, Index{1},
                      max_columns / block) *
           block;
  });
}

}  // namespace detail

/// y = x W^T for every product of the group, in one parallel loop over the rows of all weights. 2 T N K FLOP each.
/// Throws: Error if the shapes of a product do not fit.
template <class Arch = simd::DefaultArch, WeightView W>
void grouped_linear(Context& ctx, std::span<const Product<W>> group) {
  for (const auto& p : group) detail::check_product("linear", p.x, p.y, weight_cols(p.w), weight_rows(p.w));
  struct Ready {
    detail::Input x;
    W w;
    MatrixView<float> y;
  };
  auto scope = ctx.scratch();
  const auto ready = scope.array<Ready>(std::ssize(group));
  detail::Arrange<Arch> arrange(ctx, scope);
  Index floats = 0;
  for (std::size_t i = 0; i < group.size(); ++i) {
    const auto& [x, w, y] = group[i];
    std::construct_at(&ready[i], Ready{arrange(x, w), w, y});
    floats = std::max(floats, detail::linear_scratch<Arch>(x.rows(), w));
  }
  auto scratch = scope.matrix<float>(ctx.workers(), floats);
  detail::for_each_panel(
      ctx, std::span<const Ready>(ready), [](const Ready& p) { return p.y.rows() > 0 ? p.y.cols() : 0; },
      [](const Ready& p) { return p.x.x.size() * p.y.cols(); },
      [](const Ready& p, Index balanced_rows) { return detail::panel_rows<Arch>(p.y.rows(), p.w, balanced_rows); },
      [&](const Ready& p, Index begin, Index count, int worker) {
        auto y = MatrixView<float>(p.y).columns(begin, count);
        detail::multiply_weight_rows<Arch>(p.x, p.w, begin, count, y.data(), y.outerStride(), scratch.row_data(worker));
      });
}

/// y = x W^T: x [T, K], w [N, K], y [T, N], which is overwritten and overlaps neither. 2 T N K FLOP.
template <class Arch = simd::DefaultArch, WeightView W>
void linear(Context& ctx, ConstMatrixView<float> x, const W& w, MatrixView<float> y) {
  const Product<W> product{x, w, y};
  grouped_linear<Arch, W>(ctx, {&product, 1});
}

/// The same with float weights w [N, K] in memory.
template <class Arch = simd::DefaultArch>
void linear(Context& ctx, ConstMatrixView<float> x, ConstMatrixView<float> w, MatrixView<float> y) {
  linear<Arch>(ctx, x, F32::View{w.data(), w.rows(), w.cols(), w.outerStride()}, y);
}

/// y = x W for every product of the group: x [T, N], w [N, K], y [T, K]. One parallel loop over the columns of all weights.
/// Throws: Error if the shapes of a product do not fit.
template <class Arch = simd::DefaultArch, WeightView W>
void grouped_linear_transposed(Context& ctx, std::span<const Product<W>> group) {
  for (const auto& p : group) detail::check_product("linear_transposed", p.x, p.y, weight_rows(p.w), weight_cols(p.w));
  detail::for_each_panel(
      ctx, group, [](const Product<W>& p) { return p.x.rows() > 0 ? p.y.cols() : 0; },
      [](const Product<W>& p) { return p.x.size() * p.y.cols(); }, [](const Product<W>& p, Index) { return detail::panel_columns(p.w); },
      [](const Product<W>& p, Index begin, Index count, int) {
        visit_weight(p.w, [&](const auto& w) { detail::linear_transposed_panel<Arch>(p.x, w, begin, begin + count, p.y); });
      });
}

/// y = x W: x [T, N], w [N, K], y [T, K], which is overwritten and overlaps neither.
template <class Arch = simd::DefaultArch, WeightView W>
void linear_transposed(Context& ctx, ConstMatrixView<float> x, const W& w, MatrixView<float> y) {
  const Product<W> product{x, w, y};
  grouped_linear_transposed<Arch, W>(ctx, {&product, 1});
}

}  // namespace dsv3::inline DSV3_ISA::kernels
