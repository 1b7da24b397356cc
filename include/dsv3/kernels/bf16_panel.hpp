// Floor 3. A panel of bf16 products: a few units of weight rows times all rows of activations, in an order that keeps tiles in cache.
#pragma once

#include <cassert>

#include "dsv3/kernels/bf16_amx.hpp"
#include "dsv3/kernels/bf16_dots.hpp"

namespace dsv3::inline DSV3_ISA::kernels::bf16 {

#ifdef DSV3_HAS_BF16_TILES

inline constexpr Index units_at_once = 32;     ///< weight units of a panel; each re-reads the packed activations
inline constexpr Index cached_columns = 2048;  ///< columns of Engine::row_tiles row tiles of activations that L2 holds

/// Multiplies all of x by all units, in parts of x that stay in cache while all units are multiplied. Calls finish(unit, row tile, sums of
/// the first, sums of the second) for each unit and row tile.
template <class Engine, class Arch, ElementView V, class Finish>
void multiply_all(const Packed& x, std::span<const Unit<V>> units, Scratch& scratch, Finish&& finish) {
  assert(x.order == order_of<V>);
  const Index row_tiles = x.row_tiles(), blocks = share(x.cols, block), count = static_cast<Index>(units.size());
  float* sums = scratch.sums.data();
  if (blocks == 0) {
    std::fill_n(sums, sum_tile, 0.0f);
    for (Index u = 0; u < count; ++u)
      for (Index t = 0; t < row_tiles; ++t) finish(static_cast<std::size_t>(u), t, sums, sums);
    return end_stores();
  }
  const typename Engine::Session session;
  const Index tiles = share(row_tiles, 2 * share(row_tiles, Engine::row_tiles)) * 2;  // even: a pair is faster than two single tiles
  const Index columns = share(blocks, share(blocks * block * tiles * side, Engine::row_tiles * side * cached_columns));
  const Index apart = columns == blocks ? 0 : tiles * 2 * sum_tile, together = apart == 0 ? count : units_of_sums;
  for (Index u = 0; u < count; u += together) {
    const auto some = units.subspan(static_cast<std::size_t>(u), static_cast<std::size_t>(std::min(together, count - u)));
    const auto finish_some = [&](std::size_t i, Index t, const float* first, const float* second) {
      finish(static_cast<std::size_t>(u) + i, t, first, second);
    };
    std::fill_n(sums, tiles * 2 * sum_tile + (together - 1) * apart, 0.0f);
    for (Index begin = 0; begin < row_tiles; begin += tiles)
      for (Index first = 0; first < blocks; first += columns)
        Engine::template multiply_part<Arch>(x, {begin, std::min(begin + tiles, row_tiles), first, std::min(first + columns, blocks)}, some,
                                             apart, scratch, finish_some);
  }
  end_stores();
}

#endif

}  // namespace dsv3::inline DSV3_ISA::kernels::bf16
