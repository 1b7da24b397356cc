// Floor 3. Products of bf16 tiles: activations rounded to bf16 times weights that are exact in bf16, summed in float32.
//
// Weights are the left operand, so that their rows are read as the checkpoint stores them. Activations are packed once for all weights
// (kernels/bf16_pack.hpp). An engine (AMX tiles, kernels/bf16_amx.hpp; or AVX512-BF16 dot products, kernels/bf16_dots.hpp) multiplies a
// block of 128 columns, scales the products of each weight row and adds them to sums in memory. Every element of the result is formed by
// the same operations, whatever elements are beside it. Edges are padded with zeros. This header has what the engines share.
//
// In a build without either engine has_bf16_tiles<Arch> is false, and the functions do not exist.
#pragma once

#include <array>
#include <span>

#include "dsv3/core/matrix.hpp"
#include "dsv3/quant/any_storage.hpp"
#include "dsv3/quant/bf16_group.hpp"
#include "dsv3/simd/amx.hpp"

namespace dsv3::inline DSV3_ISA::kernels {

#if defined(__AVX512BF16__) && defined(__AVX512VBMI__)  // e4m3 is converted by byte permutations
#define DSV3_HAS_BF16_TILES 1
#endif

/// Whether this build has bf16 tiles for Arch.
template <class Arch>
inline constexpr bool has_bf16_tiles =
#ifdef DSV3_HAS_BF16_TILES
    std::is_base_of_v<xsimd::avx512bw, Arch>;
#else
    false;
#endif

namespace bf16 {

inline constexpr Index side = 16;                    ///< rows of a tile, and columns of its product
inline constexpr Index depth = 32;                   ///< bf16 numbers in a tile's row
inline constexpr Index tile_size = side * depth;     ///< numbers in a tile of bf16
inline constexpr Index sum_tile_size = side * side;  ///< numbers in a tile of sums
inline constexpr Index block = 128;                  ///< columns whose products are summed before they are scaled
inline constexpr Index prefetch_blocks = 2;          ///< prefetch distance of weights, in blocks before their conversion
inline constexpr Index max_live_units = 8;           ///< units whose sums stay live when the activations exceed L2 and are split along K
inline constexpr Index max_row_tiles = 16;           ///< upper limit of Engine::row_tiles

/// n / parts, rounded up: the largest of `parts` parts of n.
inline Index ceil_div(Index n, Index parts) { return (n + parts - 1) / parts; }

/// Columns [0, cols) padded to whole tiles.
inline Index padded(Index cols) { return (cols + depth - 1) / depth * depth; }

/// Columns of V whose products are summed before they are scaled; unscaled weights are summed in blocks, too.
template <ElementView V>
inline constexpr Index scaled_columns = V::Storage::scaled ? std::min(Index{V::Storage::k_block}, block) : block;

/// The order of columns within each group of 64 of operands: that of codec::Bf16Group, or `plain`, as in memory, in which 32 columns that
/// have a scale of their own are one step of a tile.
enum class Order { grouped, plain };
template <ElementView V>
inline constexpr Order order_of = scaled_columns<V> < 2 * depth ? Order::plain : Order::grouped;

/// The order that activations need to be multiplied by w.
template <WeightView W>
Order order_for(const W& w) {
  return visit_weight(w, []<class V>(const V&) { return order_of<V>; });
}

/// Whether the engines decode codes of V in groups; they load other values as floats, which are exact in bf16.
template <ElementView V, class Arch>
inline constexpr bool decodes_groups = [] {
  if constexpr (has_codes<V>) return order_of<V> == Order::grouped && codec::Bf16Group<codec_of<typename V::Storage>, Arch>::exists;
  return false;
}();

/// Two row tiles of weights, at most 16 rows each, that are multiplied together: adjacent rows of one weight, or the same rows of a gate
/// and an up projection. The next unit begins `rows_to_next` rows later.
template <ElementView V>
struct Unit {
  V first, second;
  Index rows_to_next;
};

#ifdef DSV3_HAS_BF16_TILES

/// A left operand of tiles [16, 32]. Strides in numbers: `row` between rows of a tile, `step` to the tile of the next 32 columns, `stride`
/// to the tile of the next 16 rows.
struct LeftOperand {
  const std::uint16_t* data;
  Index stride, row = depth, step = tile_size;
};

/// 128 columns of a unit's weights in the engine's layout: the first row tile, then the second.
struct ConvertedWeights {
  alignas(64) std::array<std::uint16_t, 2 * block * side> tiles;
};

/// Scales of a unit's rows for those columns, [rows] for each slice of scaled_columns. uniform: the rows of each of the two row tiles share
/// one scale.
struct Scales {
  static constexpr Index rows = 2 * side;
  std::array<float, rows * block / depth> values;
  bool uniform;

  const float* of(Index slice) const { return values.data() + slice * rows; }
};

/// Writes the scales of a unit's rows for the block that begins at `column`.
template <ElementView V>
void read_scales(const Unit<V>& unit, Index column, Scales& scales) {
  scales.uniform = true;
  float* out = scales.values.data();
  for (Index k = column; k < std::min(column + block, unit.first.cols); k += scaled_columns<V>)
    for (const V* w : {&unit.first, &unit.second}) {
      if (w->rows == 0 || w->uniform_rows(0) >= w->rows) {
        std::fill_n(out, side, w->rows > 0 ? w->scale(0, k) : 0.0f);
      } else {
        for (Index i = 0; i < w->rows; ++i) out[i] = w->scale(i, k);
        scales.uniform = false;
      }
      out += side;
    }
}

/// What a worker needs to multiply panels. `products` and `sums` have the same alignment within their pages, so that loads of one do not
/// falsely depend on stores to the other (4K aliasing). The AMX engine converts one block, multiplies another and adds a third at the same
/// time, hence two `converted` and three `scales`; the dot engine does one after the other and uses one of each.
struct Scratch {
  alignas(4096) std::array<float, max_live_units * max_row_tiles * 2 * sum_tile_size> sums;
  alignas(4096) std::array<float, 4 * sum_tile_size> products;
  std::array<ConvertedWeights, 2> converted;
  std::array<Scales, 3> scales;
};

/// Row tiles [begin, end) of x, at most Engine::row_tiles, and blocks of columns [first, last).
struct Part {
  Index begin, end, first, last;
};

// An engine is a type with
// - Session, which a thread holds while it uses the engine;
// - row_tiles, at most max_row_tiles: so many row tiles of activations share one read and conversion of the weights;
// - multiply(a, rows, b, b_stride, columns, steps, c): c = a b for `rows` row tiles of a and `columns` column tiles of b, one or two of
//   each, `steps` tiles deep;
// - multiply_part<Arch>(x, part, units, sum_stride, scratch, finish): adds the products of a part of x and the weights of all units to
//   scratch.sums. `sum_stride` is the stride of the units' sums, 0 if the part has all columns: the units then use the same sums in turn.
//   If the part has the last columns, calls finish(unit, row tile, sums of the first, sums of the second) for each unit and row tile, with
//   sums [16 weight rows, 16 rows of x], and clears the sums.

/// Makes a tile of sums zero.
[[gnu::always_inline]] inline void clear(float* sum) {  // a call of memset would take longer
  simd::unroll<side>([&](auto n) __attribute__((always_inline)) { _mm512_store_ps(sum + n * side, _mm512_setzero_ps()); });
}

#endif
}  // namespace bf16
}  // namespace dsv3::inline DSV3_ISA::kernels
