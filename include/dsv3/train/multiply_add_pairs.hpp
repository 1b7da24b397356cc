// Floor 6. The engine of bf16 products of backward passes that uses AVX512-BF16's dot products of pairs.
//
// Both operands are packed into pairs of bf16 numbers that are adjacent along the sum, the layout of the dot-product instruction. A block
// of A [rows, depth] stays in L2, blocks of B [depth, columns] stay in L1.
#pragma once

#include "dsv3/kernels/bf16_pack.hpp"
#include "dsv3/train/multiply_add.hpp"

namespace dsv3::inline DSV3_ISA::train {

namespace detail {

inline constexpr Index pair_depth = block_depth, pair_rows = 384, pair_columns = 64;  // block sizes: 96 KiB of A, 16 KiB of B

#ifdef DSV3_HAS_BF16_TILES

using kernels::bf16::bf16_pairs, kernels::bf16::first_lanes;

/// to[k / 2][i] = (m[k][i], m[k + 1][i]) for `depth` rows of m and `count` columns; `to` has row stride `ldto`. Zeros pad an odd depth.
inline void pack_across(const float* m, Index ldm, Index depth, Index count, std::uint32_t* to, Index ldto) {
  for (Index k = 0; k < depth; k += 2, to += ldto)
    for (Index i = 0; i < count; i += 16) {
      const __mmask16 lanes = first_lanes(count - i);
      const __m512 even = _mm512_maskz_loadu_ps(lanes, m + k * ldm + i);
      const __m512 odd = k + 1 < depth ? _mm512_maskz_loadu_ps(lanes, m + (k + 1) * ldm + i) : _mm512_setzero_ps();
      _mm512_mask_storeu_epi32(to + i, lanes, bf16_pairs(even, odd));
    }
}

/// to[i][k / 2] = (m[i][k], m[i][k + 1]) for `count` rows of m: plain rows of bf16 numbers.
inline void pack_along(const float* m, Index ldm, Index depth, Index count, std::uint32_t* to, Index ldto) {
  for (Index i = 0; i < count; ++i, m += ldm, to += ldto)
    for (Index k = 0; k < depth; k += 32) {
      const __m512 low = _mm512_maskz_loadu_ps(first_lanes(depth - k), m + k),
                   high = _mm512_maskz_loadu_ps(first_lanes(depth - k - 16), m + k + 16);
      _mm512_mask_storeu_epi32(to + k / 2, first_lanes((depth - k + 1) / 2), reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
    }
}

/// to[k / 2][i] = (m[i][k], m[i][k + 1]): pack_along(), transposed.
inline void pack_along_transposed(const float* m, Index ldm, Index depth, Index count, std::uint32_t* to, Index ldto) {
  const __m512i places = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                            _mm512_set1_epi32(static_cast<int>(ldto)));
  for (Index i = 0; i < count; ++i, m += ldm)
    for (Index k = 0; k < depth; k += 32) {
      const __m512 low = _mm512_maskz_loadu_ps(first_lanes(depth - k), m + k),
                   high = _mm512_maskz_loadu_ps(first_lanes(depth - k - 16), m + k + 16);
      _mm512_mask_i32scatter_epi32(to + k / 2 * ldto + i, first_lanes((depth - k + 1) / 2), places,
                                   reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)), 4);
    }
}

/// c[m][n] (+)= sum over `pairs` of a[m][k] b[k][n] for M rows and the first `columns` columns of V vectors.
template <int M, int V>
void tile_pairs(const std::uint32_t* a, Index a_row, Index a_pair, const std::uint32_t* b, Index pairs, float* c, Index ldc, Index columns,
                bool overwrite, const BlockScales& scales) {
  const bool from_zero = overwrite || scales.a != nullptr;
  __m512 sum[M][V];
  __mmask16 lanes[V];
  simd::unroll<V>([&](auto v) __attribute__((always_inline)) { lanes[v] = first_lanes(columns - 16 * v); });
  simd::unroll<M>([&](auto m) __attribute__((always_inline)) {
    simd::unroll<V>([&](auto v) __attribute__((always_inline)) {
      sum[m][v] = from_zero ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(lanes[v], c + m * ldc + 16 * v);
    });
  });
  for (Index k = 0; k < pairs; ++k, a += a_pair, b += pair_columns) {
    __m512i bk[V];
    simd::unroll<V>([&](auto v) __attribute__((always_inline)) { bk[v] = _mm512_loadu_si512(b + 16 * v); });
    simd::unroll<M>([&](auto m) __attribute__((always_inline)) {
      const __m512i am = _mm512_set1_epi32(static_cast<int>(a[m * a_row]));
      simd::unroll<V>([&](auto v) __attribute__((always_inline)) {
        sum[m][v] = _mm512_dpbf16_ps(sum[m][v], reinterpret_cast<__m512bh>(am), reinterpret_cast<__m512bh>(bk[v]));
      });
    });
  }
  simd::unroll<M>([&](auto m) __attribute__((always_inline)) {
    simd::unroll<V>([&](auto v) __attribute__((always_inline)) {
      float* to = c + m * ldc + 16 * v;
      if (scales.a != nullptr)
        sum[m][v] =
            _mm512_fmadd_ps(sum[m][v], _mm512_mul_ps(_mm512_set1_ps(scales.a[m]), _mm512_maskz_loadu_ps(lanes[v], scales.b + 16 * v)),
                            overwrite ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(lanes[v], to));
      _mm512_mask_storeu_ps(to, lanes[v], sum[m][v]);
    });
  });
}

/// Rows [0, rows) of c in tiles of 6 rows; the last tile has the remaining rows.
template <int V>
void rows_pairs(const std::uint32_t* a, Index a_row, Index a_pair, const std::uint32_t* b, Index pairs, float* c, Index ldc, Index rows,
                Index columns, bool overwrite, const BlockScales& scales) {
  Index m = 0;
  const auto tile = [&]<int M>(std::integral_constant<int, M>) {
    tile_pairs<M, V>(a + m * a_row, a_row, a_pair, b, pairs, c + m * ldc, ldc, columns, overwrite, scales.at(m, 0));
    m += M;
  };
  while (m + 6 <= rows) tile(std::integral_constant<int, 6>{});
  if (rows - m == 5) tile(std::integral_constant<int, 5>{});
  if (rows - m == 4) tile(std::integral_constant<int, 4>{});
  if (rows - m == 3) tile(std::integral_constant<int, 3>{});
  if (rows - m == 2) tile(std::integral_constant<int, 2>{});
  if (rows - m == 1) tile(std::integral_constant<int, 1>{});
}

/// The engine; multiply_add_bf16.hpp says what it has to have.
struct PairEngine {
  static constexpr Index max_rows = pair_rows, max_columns = 8 * pair_columns;
  struct Scratch {
    alignas(64) std::uint32_t a[pair_depth / 2 * pair_rows];
    alignas(64) std::uint32_t b[pair_depth / 2 * pair_columns];
  };

  static void multiply_add(const MultiplyAdd& p, Scratch& scratch) {
    std::uint32_t *packed_a = scratch.a, *packed_b = scratch.b;
    const Index rows = p.c.rows(), depth = p.depth(), columns = p.columns();
    const bool along = p.a.col == 1;  // A is not transposed
    const Index a_row = along ? pair_depth / 2 : 1, a_pair = along ? 1 : pair_rows;
    for (Index k = 0; k < depth; k += pair_depth) {
      const Index depth_here = std::min(pair_depth, depth - k), pairs = (depth_here + 1) / 2;
      if (along)
        pack_along(p.a.data + k, p.a.row, depth_here, rows, packed_a, a_row);
      else
        pack_across(p.a.data + k * p.a.col, p.a.col, depth_here, rows, packed_a, a_pair);
      for (Index n = 0; n < columns; n += pair_columns) {
        const Index count = std::min(pair_columns, columns - n);
        if (p.transpose_b)
          pack_along_transposed(p.b.row_data(n) + k, p.b.outerStride(), depth_here, count, packed_b, pair_columns);
        else
          pack_across(p.b.row_data(k) + n, p.b.outerStride(), depth_here, count, packed_b, pair_columns);
        const auto run = [&]<int V>(std::integral_constant<int, V>, Index from) {
          rows_pairs<V>(packed_a, a_row, a_pair, packed_b + from, pairs, p.c.row_data(0) + n + from, p.c.outerStride(), rows, count - from,
                        p.overwrite && k == 0, block_scales(p, k).at(0, n + from));
        };
        if (count > 32)
          run(std::integral_constant<int, 4>{}, 0);
        else if (count > 16)
          run(std::integral_constant<int, 2>{}, 0);
        else
          run(std::integral_constant<int, 1>{}, 0);
      }
    }
  }
};

#endif

}  // namespace detail

}  // namespace dsv3::inline DSV3_ISA::train
