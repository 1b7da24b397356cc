// Floor 6. The float32 product of backward passes: C += A B, where A may be transposed.
//
// Every element of C is c = fma(a[m, k], b[k, n], c) for k = 0, 1, ... in this order, for any tiling and number of threads. So sums over
// the rows of a batch have the same bits if the batch is cut into parts that keep its order.
//
// Operands may be code values with scales per 128 terms of the sum. Then each block of 128 terms is summed from 0 and added as
// c = fma(sum, scale of a * scale of b, c): accumulation in float32 per 128 terms (section 3.3.2).
#pragma once

#include <algorithm>
#include <span>

#include "dsv3/core/context.hpp"
#include "dsv3/simd/batch.hpp"

namespace dsv3::inline DSV3_ISA::train {

/// A matrix whose element [i, k] lies at data[i * row + k * col]: rows as they are, or transposed.
struct Strided {
  const float* data = nullptr;
  Index row = 0, col = 0;
};
inline Strided as_is(ConstMatrixView<float> m) { return {m.data(), m.outerStride(), 1}; }
inline Strided transposed(ConstMatrixView<float> m) { return {m.data(), 1, m.outerStride()}; }

/// C [rows, columns] += A B with A [rows, depth] and B [depth, columns], or with `transpose_b` B = b^T, b [columns, depth]. C overlaps
/// neither. With `overwrite`, C = A B.
struct MultiplyAdd {
  Strided a;
  ConstMatrixView<float> b;
  MatrixView<float> c;
  bool overwrite = false, transpose_b = false;
  ConstMatrixView<float> a_scales = {}, b_scales = {};  ///< [ceil(depth / 128), rows] and [ceil(depth / 128), columns], or none
  int a_min_exponent = -6, b_min_exponent = -6;         ///< of the codes' format, for accumulators that emulate subnormals

  bool scaled() const { return b_scales.rows() > 0; }
  Index depth() const { return transpose_b ? b.cols() : b.rows(); }
  Index columns() const { return transpose_b ? b.rows() : b.cols(); }

  /// The part with `rows` rows from m on and `count` columns from n on.
  MultiplyAdd part(Index m, Index rows, Index n, Index count) const {
    return {{a.data + m * a.row, a.row, a.col},
            transpose_b ? b.slice(n, count) : b.columns(n, count),
            c.slice(m, rows).columns(n, count),
            overwrite,
            transpose_b,
            scaled() ? a_scales.columns(m, rows) : a_scales,
            scaled() ? b_scales.columns(n, count) : b_scales,
            a_min_exponent,
            b_min_exponent};
  }
};

namespace detail {

template <class Arch>
inline constexpr int tile_rows = 6;  // rows of C in a tile
template <class Arch>
inline constexpr int tile_vectors = simd::registers<Arch> == 32 ? 4 : 2;  // vectors of columns in a tile: what registers hold
template <class Arch>
inline constexpr Index tile_columns = simd::width<Arch>* tile_vectors<Arch>;
inline constexpr Index block_depth = 128;  // rows of B in a block; [block_depth, tile_columns] floats stay in L1

/// Scales of a block of the sum: of A's rows and of B's columns. Null: no scales, the sum continues from C.
struct BlockScales {
  const float *a = nullptr, *b = nullptr;

  BlockScales at(Index m, Index n) const { return a != nullptr ? BlockScales{a + m, b + n} : BlockScales{}; }
};
inline BlockScales block_scales(const MultiplyAdd& p, Index k) {
  return p.scaled() ? BlockScales{p.a_scales.row_data(k / block_depth), p.b_scales.row_data(k / block_depth)} : BlockScales{};
}

/// c[m, n] (+)= sum over k < depth of a[m, k] b[k, n] for M rows and the first `columns` of a tile's tile_columns columns.
template <class Arch, int M>
void multiply_add_tile(const Strided& a, const float* b, Index ldb, Index depth, float* c, Index ldc, Index columns, bool overwrite,
                       const BlockScales& scales) {
  using Floats = simd::Floats<Arch>;
  constexpr int V = tile_vectors<Arch>;
  constexpr Index width = simd::width<Arch>;
  const bool from_zero = overwrite || scales.a != nullptr;
  if (columns == tile_columns<Arch>) {
    Floats sum[M][V];
    simd::unroll<M>([&](auto m) __attribute__((always_inline)) {
      simd::unroll<V>([&](auto v) __attribute__((always_inline)) {
        sum[m][v] = from_zero ? Floats(0.0f) : simd::load<Arch>(c + m * ldc + v * width);
      });
    });
    const float* from[M];
    simd::unroll<M>([&](auto m) __attribute__((always_inline)) { from[m] = a.data + m * a.row; });
    for (Index k = 0; k < depth; ++k, b += ldb) {
      Floats bk[V];
      simd::unroll<V>([&](auto v) __attribute__((always_inline)) { bk[v] = simd::load<Arch>(b + v * width); });
      simd::unroll<M>([&](auto m) __attribute__((always_inline)) {
        const Floats am(from[m][k * a.col]);
        simd::unroll<V>([&](auto v) __attribute__((always_inline)) { sum[m][v] = simd::fma<Arch>(am, bk[v], sum[m][v]); });
      });
    }
    simd::unroll<M>([&](auto m) __attribute__((always_inline)) {
      simd::unroll<V>([&](auto v) __attribute__((always_inline)) {
        float* to = c + m * ldc + v * width;
        if (scales.a != nullptr)
          sum[m][v] = simd::fma<Arch>(sum[m][v], Floats(scales.a[m]) * simd::load<Arch>(scales.b + v * width),
                                      overwrite ? Floats(0.0f) : simd::load<Arch>(to));
        sum[m][v].store_unaligned(to);
      });
    });
    return;
  }
  for (Index n = 0; n < columns; n += width) {
    const Index count = std::min(width, columns - n);
    Floats sum[M];
    simd::unroll<M>([&](auto m) __attribute__((always_inline)) {
      sum[m] = from_zero ? Floats(0.0f) : simd::load_partial<Arch>(c + m * ldc + n, count);
    });
    for (Index k = 0; k < depth; ++k) {
      const Floats bk = count == width ? simd::load<Arch>(b + k * ldb + n) : simd::load_partial<Arch>(b + k * ldb + n, count);
      simd::unroll<M>([&](auto m)
                          __attribute__((always_inline)) { sum[m] = simd::fma<Arch>(Floats(a.data[m * a.row + k * a.col]), bk, sum[m]); });
    }
    simd::unroll<M>([&](auto m) __attribute__((always_inline)) {
      float* to = c + m * ldc + n;
      if (scales.a != nullptr)
        sum[m] = simd::fma<Arch>(sum[m], Floats(scales.a[m]) * simd::load_partial<Arch>(scales.b + n, count),
                                 overwrite ? Floats(0.0f) : simd::load_partial<Arch>(to, count));
      simd::store_partial<Arch>(to, sum[m], count);
    });
  }
}

/// multiply_add_tile() for any number of rows; `columns` <= tile_columns.
template <class Arch>
void multiply_add_rows(const Strided& a, const float* b, Index ldb, Index depth, float* c, Index ldc, Index rows, Index columns,
                       bool overwrite, const BlockScales& scales) {
  Index m = 0;
  const auto tile = [&]<int M>(std::integral_constant<int, M>) {
    multiply_add_tile<Arch, M>({a.data + m * a.row, a.row, a.col}, b, ldb, depth, c + m * ldc, ldc, columns, overwrite, scales.at(m, 0));
    m += M;
  };
  while (m + tile_rows<Arch> <= rows) tile(std::integral_constant<int, tile_rows<Arch>>{});
  while (m + 2 <= rows) tile(std::integral_constant<int, 2>{});
  while (m < rows) tile(std::integral_constant<int, 1>{});
}

/// to[k, n] = b[n, k], with row stride tile_columns.
template <class Arch>
void pack_transposed(const float* b, Index ldb, Index depth, Index columns, float* to) {
  constexpr Index block = 8;  // reads of b are half a cache line long
  for (Index k0 = 0; k0 < depth; k0 += block)
    for (Index n = 0; n < columns; ++n)
      for (Index k = k0; k < std::min(k0 + block, depth); ++k) to[k * tile_columns<Arch> + n] = b[n * ldb + k];
}

}  // namespace detail

/// Floats of scratch that multiply_add() on one thread needs.
template <class Arch>
inline constexpr Index multiply_add_scratch = detail::block_depth* detail::tile_columns<Arch>;

/// C += A B on the calling thread; scratch [multiply_add_scratch].
template <class Arch = simd::DefaultArch>
void multiply_add(const MultiplyAdd& p, float* scratch) {
  using namespace detail;
  constexpr Index min_packed_rows = 4 * tile_rows<Arch>;
  const Index rows = p.c.rows(), depth = p.depth(), columns = p.columns();
  if (depth == 0 && p.overwrite) {
    for (Index m = 0; m < rows; ++m) std::fill_n(p.c.row_data(m), columns, 0.0f);
    return;
  }
  for (Index n = 0; n < columns; n += tile_columns<Arch>) {
    const Index count = std::min(tile_columns<Arch>, columns - n);
    for (Index k = 0; k < depth; k += block_depth) {
      const Index depth_here = std::min(block_depth, depth - k);
      const float* b = p.transpose_b ? p.b.row_data(n) + k : p.b.row_data(k) + n;
      Index ldb = p.b.outerStride();
      if (p.transpose_b) {
        pack_transposed<Arch>(b, ldb, depth_here, count, scratch);
        b = scratch, ldb = tile_columns<Arch>;
      } else if (rows >= min_packed_rows && ldb > tile_columns<Arch>) {  // pack: rows at a power-of-two stride share few cache sets
        for (Index i = 0; i < depth_here; ++i) std::copy_n(b + i * ldb, count, scratch + i * tile_columns<Arch>);
        b = scratch, ldb = tile_columns<Arch>;
      }
      multiply_add_rows<Arch>({p.a.data + k * p.a.col, p.a.row, p.a.col}, b, ldb, depth_here, p.c.row_data(0) + n, p.c.outerStride(), rows,
                              count, p.overwrite && k == 0, block_scales(p, k).at(0, n));
    }
  }
}

/// Every product of the group, in one parallel loop. 2 rows depth columns FLOP each.
template <class Arch = simd::DefaultArch>
void grouped_multiply_add(Context& ctx, std::span<const MultiplyAdd> group) {
  constexpr Index columns = 2 * detail::tile_columns<Arch>;
  struct Task {
    Index product, row, column;
  };
  Index work = 0;
  const auto max_rows = [](const MultiplyAdd& p) {
    return Index{p.transpose_b ? 64 : 32} * detail::tile_rows<Arch>;
  };  // rows that share one packing of B
  const auto cut = [&](auto&& emit) {
    for (std::size_t i = 0; i < group.size(); ++i) {
      const MultiplyAdd& p = group[i];
      for (Index m = 0; m < p.c.rows(); m += max_rows(p))
        for (Index n = 0; n < p.c.cols(); n += columns) emit(Task{static_cast<Index>(i), m, n});
    }
  };
  Index tasks = 0;
  cut([&](const Task&) { ++tasks; });
  for (const MultiplyAdd& p : group) work += p.c.size() * p.depth();
  auto scope = ctx.scratch();
  const auto list = scope.template array<Task>(tasks);
  auto next = list.begin();
  cut([&](const Task& task) { *next++ = task; });
  auto scratch = scope.template matrix<float>(ctx.workers(), multiply_add_scratch<Arch>);
  ctx.parallel_for(tasks, work, [&](Index i, int worker) {
    const auto& [product, m, n] = list[static_cast<std::size_t>(i)];
    const MultiplyAdd& p = group[static_cast<std::size_t>(product)];
    const Index rows = std::min(max_rows(p), p.c.rows() - m), count = std::min(columns, p.c.cols() - n);
    multiply_add<Arch>(p.part(m, rows, n, count), scratch.row_data(worker));
  });
}

}  // namespace dsv3::inline DSV3_ISA::train
