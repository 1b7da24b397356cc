// Floor 3. A panel of bf16 products: a few units of weight rows times all rows of activations, in an order that keeps tiles in cache.
#pragma once

#include <cassert>

#include "dsv3/kernels/bf16_amx.hpp"
#include "dsv3/kernels/bf16_dots.hpp"

namespace dsv3::inline DSV3_ISA::kernels::bf16 {

#ifdef DSV3_HAS_BF16_TILES

inline constexpr Index max_panel_units = 32;  ///< weight units of a panel; each re-reads the packed activations
inline constexpr Index l2_columns = 2048;     ///< columns of Engine::row_tiles row tiles of activations that L2 holds

/// Multiplies all of x by all units, in parts of x that stay in cache while all units are multiplied. Calls finish(unit, row tile, sums of
/// the first, sums of the second) for each unit and row tile.
template <class Engine, class Arch, ElementView V, class Finish>
void multiply_units(const Packed& x, std::span<const Unit<V>> units, Scratch& scratch, Finish&& finish) {
  assert(x.order == order_of<V>);
  const Index row_tiles = x.row_tiles(), blocks = ceil_div(x.cols, block), count = static_cast<Index>(units.size());
  float* sums = scratch.sums.data();
  if (blocks == 0) {
    std::fill_n(sums, sum_tile_size, 0.0f);
    for (Index u = 0; u < count; ++u)
      for (Index t = 0; t < row_tiles; ++t) finish(static_cast<std::size_t>(u), t, sums, sums);
    return fence_streaming_stores();
  }
  const typename Engine::Session session;
  const Index part_tiles =
      ceil_div(row_tiles, 2 * ceil_div(row_tiles, Engine::row_tiles)) * 2;  // even: a pair is faster than two single tiles
  const Index part_blocks = ceil_div(blocks, ceil_div(blocks * block * part_tiles * side, Engine::row_tiles * side * l2_columns));
  const Index sum_stride = part_blocks == blocks ? 0 : part_tiles * 2 * sum_tile_size, batch = sum_stride == 0 ? count : max_live_units;
  for (Index u = 0; u < count; u += batch) {
    const auto batch_units = units.subspan(static_cast<std::size_t>(u), static_cast<std::size_t>(std::min(batch, count - u)));
    const auto finish_unit = [&](std::size_t i, Index t, const float* first, const float* second) {
      finish(static_cast<std::size_t>(u) + i, t, first, second);
    };
    std::fill_n(sums, part_tiles * 2 * sum_tile_size + (batch - 1) * sum_stride, 0.0f);
    for (Index begin = 0; begin < row_tiles; begin += part_tiles)
      for (Index first = 0; first < blocks; first += part_blocks)
        Engine::template multiply_part<Arch>(x,
                                             {begin, std::min(begin + part_tiles, row_tiles), first, std::min(first + part_blocks, blocks)},
                                             batch_units, sum_stride, scratch, finish_unit);
  }
  fence_streaming_stores();
}

#endif

}  // namespace dsv3::inline DSV3_ISA::kernels::bf16
