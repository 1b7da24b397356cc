// Floor 3. Products of bf16 tiles: activations rounded to bf16 times weights that are exact in bf16, summed in float32.
//
// Weights are the left operand, so that their rows are read as the checkpoint stores them; activations are packed once for all weights.
// A block of 128 columns is multiplied by an engine (AMX tiles, or AVX512-BF16 dot products), times the scale of each row added to a sum
// in memory. Every element of the result is formed by the same operations whatever stands beside it. Edges are padded with zeros.
//
// Where a build has neither engine, has_bf16_tiles<Arch> is false and there are none of the functions.
#pragma once

#include <cstring>
#include <span>

#include "dsv3/core/matrix.hpp"
#include "dsv3/quant/any_storage.hpp"
#include "dsv3/quant/bf16_group.hpp"
#include "dsv3/simd/amx.hpp"

namespace dsv3::inline DSV3_ISA::kernels {

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#define DSV3_HAS_BF16_TILES 1
#endif

/// Whether Arch has tiles at all.
template <class Arch>
inline constexpr bool has_bf16_tiles =
#ifdef DSV3_HAS_BF16_TILES
    std::is_base_of_v<xsimd::avx512bw, Arch>;
#else
    false;
#endif

namespace bf16 {

inline constexpr Index side = 16;               ///< rows of a tile, and columns of its product
inline constexpr Index depth = 32;              ///< bf16 numbers in a tile's row
inline constexpr Index tile = side * depth;     ///< numbers in a tile of bf16
inline constexpr Index sum_tile = side * side;  ///< numbers in a tile of sums
inline constexpr Index block = 128;             ///< columns between two scalings
inline constexpr Index prefetch_blocks = 2;     ///< of weights, between prefetch and conversion

/// Columns [0, cols) padded to whole tiles.
inline Index padded(Index cols) { return (cols + depth - 1) / depth * depth; }

/// Two row tiles of weights, at most 16 rows each, whose products are formed together: neighbours in a weight, or a gate and an up. The
/// next unit's are `apart` rows behind.
template <ElementView V>
struct Unit {
  V first, second;
  Index apart;
};

#ifdef DSV3_HAS_BF16_TILES

/// A left operand: tiles [16, 32] of rows `row` numbers apart; that of the next 32 columns lies `step` behind, that of the next 16 rows
/// `stride`.
struct Left {
  const std::uint16_t* data;
  Index stride, row = depth, step = tile;
};

/// Engines: c = a b for one or two tiles of rows of a and of columns of b, `steps` tiles deep. multiply_panel is for two tiles of rows and
/// a b that is large beside the first-level cache; between(step) is called after each step. Session is held by a thread meanwhile.
#ifdef DSV3_HAS_AMX
struct AmxEngine {
  using Session = amx::Tiles;
  static void multiply(const Left& a, Index rows, const std::uint16_t* b, Index b_stride, Index columns, Index steps, float* c) {
    const auto run = [&]<int Rows, int Columns>() {
      amx::multiply<Rows, Columns, false>(a.data, a.row, a.step, a.stride, b, b_stride, steps, c, [](std::ptrdiff_t) {});
    };
    if (rows == 2)
      columns == 2 ? run.template operator()<2, 2>() : run.template operator()<2, 1>();
    else
      columns == 2 ? run.template operator()<1, 2>() : run.template operator()<1, 1>();
  }
  template <class Between>
  [[gnu::always_inline]] static void multiply_panel(const Left& a, const std::uint16_t* b, Index b_stride, Index columns, Index steps,
                                                    float* c, Between&& between) {
    if (columns == 2)
      amx::multiply<2, 2, true>(a.data, a.row, a.step, a.stride, b, b_stride, steps, c, between);
    else
      amx::multiply<2, 1, true>(a.data, a.row, a.step, a.stride, b, b_stride, steps, c, between);
  }
};
#endif

/// The same by dot products of bf16 pairs.
struct DotEngine {
  struct Session {
    Session() {}  // not trivial: an unused one is no mistake
  };
  static void multiply(const Left& a, Index rows, const std::uint16_t* b, Index b_stride, Index columns, Index steps, float* c) {
    for (Index i = 0; i < rows; ++i)
      for (Index j = 0; j < columns; ++j)
        one({a.data + i * a.stride, 0, a.row, a.step}, b + j * b_stride, steps, c + (i * columns + j) * sum_tile);
  }
  template <class Between>
  static void multiply_panel(const Left& a, const std::uint16_t* b, Index b_stride, Index columns, Index steps, float* c,
                             Between&& between) {
    for (Index step = 0; step < steps; ++step) between(step);  // first: it reads what c held
    multiply(a, 2, b, b_stride, columns, steps, c);
  }

 private:
  static void one(Left a, const std::uint16_t* b, Index steps, float* c) {
    __m512 sum[side];
    simd::unroll<side>([&](auto n) __attribute__((always_inline)) { sum[n] = _mm512_setzero_ps(); });
    for (Index s = 0; s < steps; ++s, a.data += a.step, b += tile)
      for (Index pair = 0; pair < depth / 2; ++pair) {
        const __m512i columns = _mm512_load_si512(b + pair * depth);
        simd::unroll<side>([&](auto n) __attribute__((always_inline)) {
          std::int32_t two;
          std::memcpy(&two, a.data + n * a.row + 2 * pair, sizeof two);
          sum[n] = _mm512_dpbf16_ps(sum[n], reinterpret_cast<__m512bh>(_mm512_set1_epi32(two)), reinterpret_cast<__m512bh>(columns));
        });
      }
    simd::unroll<side>([&](auto n) __attribute__((always_inline)) { _mm512_store_ps(c + n * side, sum[n]); });
  }
};

/// 128 columns of a unit's weights: rows of the first are 0 to 15, of the second 16 to 31.
struct Filled {
  alignas(64) std::array<std::uint16_t, 2 * block * side> tiles;

  /// Rows [begin, end) of 32, columns from `column`; with the first rows scales [32] gets all of them. Rows that the weights do not have
  /// keep what they hold.
  template <class Arch, ElementView V>
  [[gnu::always_inline]] void fill(const Unit<V>& unit, Index column, Index begin, Index end, float* scales) {
    if (begin == 0) fill_scales(unit.first, column, scales), fill_scales(unit.second, column, scales + side);
    if (begin < side) fill_tile<Arch>(unit.first, unit.apart, column, begin, std::min(end, side), tiles.data());
    if (end > side)
      fill_tile<Arch>(unit.second, unit.apart, column, std::max(begin - side, Index{0}), end - side, tiles.data() + block * side);
  }

 private:
  template <ElementView V>
  static void fill_scales(const V& w, Index column, float* scales) {
    if (w.rows > 0 && w.uniform_rows(0) >= w.rows)
      std::fill_n(scales, side, w.scale(0, column));
    else
      for (Index i = 0; i < w.rows; ++i) scales[i] = w.scale(i, column);
  }

  template <class Arch, ElementView V>
  [[gnu::always_inline]] static void fill_tile(const V& w, Index apart, Index column, Index begin, Index end, std::uint16_t* tiles) {
    using Code = typename V::Storage::Codec::Code;
    using Group = codec::Bf16Group<typename V::Storage::Codec, Arch>;
    const Index columns = std::min(block, w.cols - column), stride = w.row(1) - w.row(0);
    const Index ahead = prefetch_blocks * block, beyond = column + ahead - w.cols;  // columns ahead are the next unit's first ones at last
    const Index fetched = beyond < 0 ? ahead : apart * stride + beyond / block * block - column;
    const Code* codes = w.row(begin) + column;
    std::uint16_t* out = tiles + begin * depth;
    end = std::min(end, w.rows);
    if (columns == block) [[likely]] {
      for (Index i = begin; i < end; ++i, codes += stride, out += depth)
        simd::unroll<2>([&](auto half) __attribute__((always_inline)) {
          constexpr Index k = half * 2 * depth;
          simd::prefetch(codes + k, fetched);
          Group::store(codes + k, out + k * side, out + k * side + tile);
        });
      return;
    }
    for (Index i = begin; i < end; ++i, codes += stride, out += depth)
      for (Index k = 0; k < columns; k += 2 * depth) {
        alignas(64) std::array<Code, 2 * depth> edge{};
        std::copy_n(codes + k, std::min(2 * depth, columns - k), edge.begin());
        Group::store(edge.data(), out + k * side, out + k * side + tile);
      }
  }
};

/// Adds scales[n] * c[n] to rows n of a tile of sums; the first time it puts them there.
inline void add_scaled(const float* c, const float* scales, float* sum, bool first) {
  const auto before = static_cast<__mmask16>(first ? 0 : 0xffff);
  for (Index n = 0; n < side; ++n)
    _mm512_store_ps(sum + n * side,
                    _mm512_fmadd_ps(_mm512_load_ps(c + n * side), _mm512_set1_ps(scales[n]), _mm512_maskz_load_ps(before, sum + n * side)));
}

#endif
}  // namespace bf16
}  // namespace dsv3::inline DSV3_ISA::kernels
