// Floor 3. Products of bf16 tiles: activations rounded to bf16 times weights that are exact in bf16, summed in float32.
//
// Weights are the left operand, so that their rows are read as the checkpoint stores them; activations are packed once for all weights
// (kernels/bf16_pack.hpp). A block of 128 columns is multiplied by an engine (AMX tiles, kernels/bf16_amx.hpp, or AVX512-BF16 dot products,
// kernels/bf16_dots.hpp), times the scale of each row added to a sum in memory. Every element of the result is formed by the same
// operations whatever stands beside it. Edges are padded with zeros. This header has what the engines share.
//
// Where a build has neither engine, has_bf16_tiles<Arch> is false and there are none of the functions.
#pragma once

#include <array>
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
inline constexpr Index units_of_sums = 8;       ///< units whose sums stay live where activations exceed L2 and are split along K
inline constexpr Index most_row_tiles = 16;     ///< no engine has more row_tiles

/// n in so many equal parts: the largest.
inline Index share(Index n, Index parts) { return (n + parts - 1) / parts; }

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

/// 128 columns of a unit's weights as an engine wants them: the first row tile's, then the second's.
struct Filled {
  alignas(64) std::array<std::uint16_t, 2 * block * side> tiles;
};

/// What their products are multiplied with; uniform: rows of the first have one scale, and those of the second.
struct Scales {
  std::array<float, 2 * side> rows;
  bool uniform;
};

/// Scales of a row tile's columns from `column`. Returns whether they are one.
template <ElementView V>
bool fill_scales(const V& w, Index column, float* scales) {
  const bool uniform = w.rows == 0 || w.uniform_rows(0) >= w.rows;
  if (uniform)
    std::fill_n(scales, side, w.rows > 0 ? w.scale(0, column) : 0.0f);
  else
    for (Index i = 0; i < w.rows; ++i) scales[i] = w.scale(i, column);
  return uniform;
}

/// What a worker needs to multiply panels. Products and sums lie at the same place of their pages, so that loads of the one do not seem to
/// depend on stores of the other. AMX converts one step, multiplies another and adds a third at a time; dot products do one after the
/// other.
struct Scratch {
  alignas(4096) std::array<float, units_of_sums * most_row_tiles * 2 * sum_tile> sums;
  alignas(4096) std::array<float, 4 * sum_tile> products;
  std::array<Filled, 2> filled;
  std::array<Scales, 3> scales;
};

/// Row tiles [begin, end) of x, at most Engine::row_tiles, and blocks of columns [first, last).
struct Part {
  Index begin, end, first, last;
};

// An engine is a type with
// - Session, which a thread holds while it uses the engine;
// - row_tiles, at most most_row_tiles: beside so many row tiles of activations weights are read once;
// - multiply(a, rows, b, b_stride, columns, steps, c): c = a b for one or two tiles of rows of a and of columns of b, `steps` tiles deep;
// - multiply_part<Arch>(x, part, units, apart, scratch, finish): adds the products of a part of x and of the rows of all units to their
//   sums, whose units are `apart` from one another: 0 if the part has all columns. Then, if it has the last ones, finish(unit, row tile,
//   sums of the first, sums of the second) for each, sums [16 weight rows, 16 rows of x], which become zero again.

/// Makes a tile of sums zero.
[[gnu::always_inline]] inline void clear(float* sum) {  // a call of memset would take longer
  simd::unroll<side>([&](auto n) __attribute__((always_inline)) { _mm512_store_ps(sum + n * side, _mm512_setzero_ps()); });
}

#endif
}  // namespace bf16
}  // namespace dsv3::inline DSV3_ISA::kernels
