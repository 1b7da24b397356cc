// Floor 3. The engine of bf16 tiles that uses AVX512-BF16 dot products of pairs.
//
// A vector of sums has 16 rows of activations as lanes, and weights are broadcast pair by pair. For a row tile of activations that is
// multiplied alone, lanes are 16 weight rows and activations are broadcast: an expert with 3 rows pays for 3, not for 16. Either way a sum
// is formed in the same order, pair after pair.
#pragma once

#include <cstring>

#include "dsv3/kernels/bf16_pack.hpp"

namespace dsv3::inline DSV3_ISA::kernels::bf16 {

#ifdef DSV3_HAS_BF16_TILES

/// Converts 128 columns of a unit's weights to pairs of columns of 16 rows. Pair p of step s of row tile i is at i * block * side + s *
/// tile + p * depth: its two columns of row 0, of row 1 and so on. Columns are in the order of V, as in Packed.
template <class Arch, ElementView V>
class PairConverter {
 public:
  /// Writes the columns from `column` on to `out`, and their scales to `scales`. Rows that the weights do not have become zeros, as do
  /// columns up to a whole group of 64.
  static void convert(const Unit<V>& unit, Index column, std::uint16_t* out, Scales& scales) {
    const std::array<const V*, 2> w{&unit.first, &unit.second};
    read_scales(unit, column, scales);
    for (std::size_t i = 0; i < 2; ++i, out += block * side)
      for (Index k = 0; k < block && column + k < w[i]->cols; k += Packed::group) {
        if constexpr (has_codes<V>)
          fetch(unit, *w[i], column + k);
        else if (k == 0)
          for (Index n = 0; n < w[i]->rows; ++n) prefetch_values(*w[i], n, column, unit.rows_to_next);
        group(*w[i], column + k, out + k * side);
      }
  }

 private:
  /// Prefetches the same columns two blocks later, or those of the next unit.
  static void fetch(const Unit<V>& unit, const V& w, Index column) {
    const Index ahead = prefetch_blocks * block, beyond = column + ahead - w.cols, stride = unit.first.row(1) - unit.first.row(0);
    const auto* codes = w.row(0) + (beyond < 0 ? column + ahead : unit.rows_to_next * stride + beyond);
    constexpr Index line = 64 / static_cast<Index>(sizeof(*codes));
    for (Index i = 0; i < w.rows; ++i, codes += stride)
      for (Index k = 0; k < Packed::group; k += line) simd::prefetch<2>(codes, k);
  }

  static void group(const V& w, Index column, std::uint16_t* out) {
    const Index columns = w.cols - column;
    if constexpr (std::is_same_v<codec_of<typename V::Storage>, codec::E4m3> && decodes_groups<V, Arch>) {
      Square codes;  // element [i, j]: codes 4 j to 4 j + 3 of row i
      if (w.rows == side && columns >= 64) {
        const Index stride = w.row(1) - w.row(0);
        simd::unroll<side>([&](auto i)
                               __attribute__((always_inline)) { codes.rows[i] = _mm512_loadu_si512(w.row(0) + column + i * stride); });
      } else {
        const auto mask = columns >= 64 ? ~__mmask64{0} : (__mmask64{1} << columns) - 1;
        for (Index i = 0; i < side; ++i)
          codes.rows[i] = i < w.rows ? _mm512_maskz_loadu_epi8(mask, w.row(i) + column) : _mm512_setzero_si512();
      }
      transpose(codes);
      simd::unroll<side>([&](auto j) __attribute__((always_inline)) {
        const auto words = codec::detail::e4m3_to_bf16(codes.rows[j]);  // of the 4 rows of each 128-bit lane: the first two, the last two
        const __m512 first = _mm512_castsi512_ps(words.first), last = _mm512_castsi512_ps(words.last);
        _mm512_store_si512(out + pair_offset(2 * j), _mm512_castps_si512(_mm512_shuffle_ps(first, last, 0x88)));
        _mm512_store_si512(out + pair_offset(2 * j + 1), _mm512_castps_si512(_mm512_shuffle_ps(first, last, 0xdd)));
      });
    } else {
      for (Index half = 0; half < 2; ++half) {
        Square pairs{};
        for (Index i = 0; i < w.rows; ++i) pairs.rows[i] = load(w, i, column + half * depth);
        transpose(pairs);
        for (Index j = 0; j < side; ++j) _mm512_store_si512(out + pair_offset(half * side + j), pairs.rows[j]);
      }
    }
  }

  /// 32 values of row i from column k on as bf16.
  static __m512i load(const V& w, Index i, Index k) {
    if constexpr (std::is_same_v<codec_of<typename V::Storage>, codec::BFloat16> && has_codes<V>) {
      const Index n = std::clamp(w.cols - k, Index{0}, depth);
      return _mm512_maskz_loadu_epi16(n == depth ? ~__mmask32{0} : (__mmask32{1} << n) - 1, w.row(i) + k);
    } else {
      return load_values<Arch>(w, row_of(w, i), k);
    }
  }

  /// Offset of columns 2 p and 2 p + 1 of a group of 64.
  static constexpr Index pair_offset(Index p) {
    return order_of<V> == Order::plain ? p * depth : p % 8 / 4 * tile_size + (p / 8 * 4 + p % 4) * depth;
  }
};

struct DotEngine {
  static constexpr Index row_tiles = 16;

  struct Session {
    Session() {}  // not trivial, so that an unused Session causes no warning
  };

  static void multiply(const LeftOperand& a, Index rows, const std::uint16_t* b, Index b_stride, Index columns, Index steps, float* c) {
    for (Index i = 0; i < rows; ++i, c += columns * sum_tile_size) {
      const auto store = [&](Index n, int j, __m512 sum) __attribute__((always_inline)) {
        _mm512_store_ps(c + j * sum_tile_size + n * side, sum);
      };
      const LeftOperand tile_row{a.data + i * a.stride, 0, a.row, a.step};
      columns == 2 ? multiply_tile<2, 2>(tile_row, a.row, b, b_stride, steps, store)
                   : multiply_tile<1, 2>(tile_row, a.row, b, b_stride, steps, store);
    }
  }

  template <class Arch, ElementView V, class Finish>
  static void multiply_part(const Packed& x, const Part& part, std::span<const Unit<V>> units, Index sum_stride, Scratch& scratch,
                            Finish&& finish) {
    const Index tiles = part.end - part.begin, x_stride = side * padded(x.cols);
    const auto rows = [&](Index t) { return t < tiles ? std::min(side, x.rows - (part.begin + t) * side) : 0; };
    // Calls f(row tile, pair) for all row tiles; pair: this one and the next are multiplied together.
    const auto each = [&](auto&& f) {
      for (Index t = 0; t < tiles; ++t) {
        const bool pair = rows(t) == side && rows(t + 1) > max_unpaired_rows;
        f(t, pair);
        t += pair ? 1 : 0;
      }
    };
    std::uint16_t* weights = scratch.converted[0].tiles.data();
    Scales& scales = scratch.scales[0];
    for (std::size_t u = 0; u < units.size(); ++u) {
      float* sums = scratch.sums.data() + static_cast<Index>(u) * sum_stride;
      for (Index b = part.first; b < part.last; ++b) {
        PairConverter<Arch, V>::convert(units[u], b * block, weights, scales);
        const Index columns = std::min(block, units[u].first.cols - b * block);
        each([&](Index t, bool pair) {
          float* to = sums + t * 2 * sum_tile_size;
          for (Index k = 0; k < columns; k += scaled_columns<V>) {
            const Index steps = ceil_div(std::min(scaled_columns<V>, x.cols - b * block - k), depth);
            const std::uint16_t *activations = x.at(part.begin + t, b * block + k), *left = weights + k * side;
            const float* by = scales.of(k / scaled_columns<V>);
            pair ? multiply_tile_pair(left, activations, x_stride, steps, by, to)
                 : multiply_single_tile(rows(t), left, activations, steps, by, to);
          }
        });
      }
      if (part.last * block < x.cols) continue;
      const auto finish_tile = [&](Index t, const float* done) {
        float* to = sums + t * 2 * sum_tile_size;
        finish(u, part.begin + t, done, done + sum_tile_size);
        clear(to), clear(to + sum_tile_size);
      };
      each([&](Index t, bool pair) {
        const float* to = sums + t * 2 * sum_tile_size;
        if (pair) {
          finish_tile(t, to);
          finish_tile(t + 1, to + 2 * sum_tile_size);
        } else {
          float* wide = scratch.products.data();
          transpose(to, wide), transpose(to + sum_tile_size, wide + sum_tile_size);
          finish_tile(t, wide);
        }
      });
    }
  }

 private:
  static constexpr int half = side / 2;
  static constexpr Index max_unpaired_rows = 12;  // up to so many rows, a tile takes less time alone than in a pair

  /// Calls store(row, column tile, sum) for 16 rows of a. `row`, which may be a constant, is the stride of rows, `Pair` that of pairs of
  /// columns. Takes 8 rows at a time, whose sums and operands fit into registers.
  template <int Columns, Index Pair, class Row, class Store>
  [[gnu::always_inline]] static void multiply_tile(const LeftOperand& a, Row row, const std::uint16_t* b, Index b_stride, Index steps,
                                                   Store&& store) {
    for (Index n = 0; n < side; n += half) {
      __m512 sum[half][Columns];
      simd::unroll<half>([&](auto i) __attribute__((always_inline)) {
        simd::unroll<Columns>([&](auto j) __attribute__((always_inline)) { sum[i][j] = _mm512_setzero_ps(); });
      });
      const std::uint16_t *left = a.data + n * row, *right = b;
      for (Index s = 0; s < steps; ++s, left += a.step, right += tile_size)
        for (Index pair = 0; pair < depth / 2; ++pair) {
          __m512i columns[Columns];
          simd::unroll<Columns>([&](auto j) __attribute__((always_inline)) {
            columns[j] = _mm512_load_si512(right + j * b_stride + pair * depth);
          });
          simd::unroll<half>([&](auto i) __attribute__((always_inline)) {
            std::int32_t two;
            std::memcpy(&two, left + i * row + pair * Pair, sizeof two);
            simd::unroll<Columns>([&](auto j)
                                      __attribute__((always_inline)) { sum[i][j] = dot(sum[i][j], _mm512_set1_epi32(two), columns[j]); });
          });
        }
      simd::unroll<half>([&](auto i) __attribute__((always_inline)) {
        simd::unroll<Columns>([&](auto j) __attribute__((always_inline)) { store(n + i, j, sum[i][j]); });
      });
    }
  }

  /// Adds the products of both row tiles of a unit and two tiles of activations, times the scales of their rows, to sums [2, 2].
  static void multiply_tile_pair(const std::uint16_t* weights, const std::uint16_t* b, Index b_stride, Index steps, const float* scales,
                                 float* sums) {
    for (Index i = 0; i < 2; ++i)
      multiply_tile<2, depth>(
          {weights + i * block * side, 0, 2, tile_size}, std::integral_constant<Index, 2>{}, b, b_stride,
          steps, [&](Index n, int j, __m512 sum) __attribute__((always_inline)) {
            add(sum, _mm512_set1_ps(scales[i * side + n]), sums + (2 * j + i) * sum_tile_size + n * side);
          });
  }

  /// The same for one tile of activations that has `rows` rows, with transposed sums [rows of activations, 16 weight rows].
  static void multiply_single_tile(Index rows, const std::uint16_t* weights, const std::uint16_t* b, Index steps, const float* scales,
                                   float* sums) {
    if (rows > half) multiply_rows<half>(weights, b, steps, scales, sums), rows -= half, b += 2 * half, sums += half * side;
    simd::unroll<half>([&](auto r) {
      if (rows == r + 1) multiply_rows<r + 1>(weights, b, steps, scales, sums);
    });
  }
  template <int Rows>
  static void multiply_rows(const std::uint16_t* weights, const std::uint16_t* b, Index steps, const float* scales, float* sums) {
    __m512 sum[2][Rows];
    simd::unroll<Rows>([&](auto t) __attribute__((always_inline)) { sum[0][t] = sum[1][t] = _mm512_setzero_ps(); });
    for (Index pair = 0; pair < steps * (depth / 2); ++pair, weights += depth, b += depth) {
      const __m512i first = _mm512_load_si512(weights), second = _mm512_load_si512(weights + block * side);
      simd::unroll<Rows>([&](auto t) __attribute__((always_inline)) {
        std::int32_t two;
        std::memcpy(&two, b + 2 * t, sizeof two);
        const __m512i row = _mm512_set1_epi32(two);
        sum[0][t] = dot(sum[0][t], row, first);
        sum[1][t] = dot(sum[1][t], row, second);
      });
    }
    simd::unroll<Rows>([&](auto t) __attribute__((always_inline)) {
      add(sum[0][t], _mm512_loadu_ps(scales), sums + t * side);
      add(sum[1][t], _mm512_loadu_ps(scales + side), sums + sum_tile_size + t * side);
    });
  }

  static void transpose(const float* from, float* to) {
    Square square;
    for (Index i = 0; i < side; ++i) square.rows[i] = _mm512_load_si512(from + i * side);
    bf16::transpose(square);
    for (Index i = 0; i < side; ++i) _mm512_store_si512(to + i * side, square.rows[i]);
  }

  [[gnu::always_inline]] static __m512 dot(__m512 sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
  [[gnu::always_inline]] static void add(__m512 sum, __m512 scale, float* to) {
    _mm512_store_ps(to, _mm512_fmadd_ps(sum, scale, _mm512_load_ps(to)));
  }
};

#endif

}  // namespace dsv3::inline DSV3_ISA::kernels::bf16
