// Floor 3. A panel of bf16 products: a few units of weight rows times all activation rows, in an order that keeps tiles in cache.
#pragma once

#include "dsv3/kernels/bf16_pack.hpp"

namespace dsv3::inline DSV3_ISA::kernels::bf16 {

#ifdef DSV3_HAS_BF16_TILES

inline constexpr Index units_together = 4;      ///< units that share a block of activations in cache where there are many rows of them
inline constexpr Index row_tiles_at_once = 32;  ///< row tiles of activations whose sums are kept at a time

/// What a worker needs to multiply panels.
struct Scratch {
  alignas(64) std::array<float, units_together * row_tiles_at_once * 2 * sum_tile> sums;
  alignas(64) std::array<float, 4 * sum_tile> products;
  std::array<Filled, 2> filled;
  std::array<std::array<float, 2 * side>, 3> scales;  // of the step that is converted, multiplied, added
};

/// Products of two tiles of weights with one or two of activations that are yet to be scaled and added to their sums.
struct Addend {
  float* sums = nullptr;
  const float *scales = nullptr, *products = nullptr;
  Index columns = 0;
  bool first = false;

  Index tiles() const { return 2 * columns; }
  void add(Index begin, Index end) const {
    for (Index t = begin; t < end; ++t) {
      const Index i = columns == 2 ? t / 2 : t, j = columns == 2 ? t % 2 : 0;
      add_scaled(products + t * sum_tile, scales + i * side, sums + (2 * j + i) * sum_tile, first);
    }
  }
};

/// x W^T for the rows of all units and row tiles [begin, end) of x, at most row_tiles_at_once; at most units_together units. Between the
/// steps of a product, weights are converted for the next and the last one is added: little of each, so that the processor finds both kinds
/// of work in its window. The first-level cache holds what is written again and again; activations are streamed past it.
template <class Engine, class Arch, ElementView V>
void multiply(const Packed& x, Index begin, Index end, std::span<const Unit<V>> units, Scratch& scratch) {
  const Index count = static_cast<Index>(units.size()), tiles = end - begin, pairs = (tiles + 1) / 2;
  const Index blocks = (x.cols + block - 1) / block, x_stride = side * padded(x.cols);
  const auto share = [](Index n, Index parts) { return (n + parts - 1) / parts; };
  Filled *now = &scratch.filled[0], *next = &scratch.filled[1];
  float *scales = scratch.scales[0].data(), *next_scales = scratch.scales[1].data(), *last_scales = scratch.scales[2].data();
  Addend last;
  if (blocks == 0) {
    std::fill_n(scratch.sums.data(), count * tiles * 2 * sum_tile, 0.0f);
    return;
  }
  now->fill<Arch>(units[0], 0, 0, 2 * side, scales);
  for (Index b = 0; b < blocks; ++b) {
    const Index steps = share(std::min(block, x.cols - b * block), depth), rows = share(2 * side, pairs * steps), sums = share(4, steps);
    for (Index u = 0; u < count; ++u) {
      const Index next_unit = u + 1 == count ? 0 : u + 1, next_block = next_unit == 0 ? b + 1 : b;
      Index row = next_block < blocks ? 0 : 2 * side;
      for (Index pair = 0; pair < pairs; ++pair) {
        const Index columns = std::min(Index{2}, tiles - 2 * pair);
        const auto between = [&](Index step) __attribute__((always_inline)) {
          if (row < 2 * side) {
            const Index to = std::min(row + rows, 2 * side);
            next->fill<Arch>(units[static_cast<std::size_t>(next_unit)], next_block * block, row, to, next_scales);
            row = to;
          }
          last.add(std::min(step * sums, last.tiles()), std::min((step + 1) * sums, last.tiles()));
        };
        Engine::multiply_panel({now->tiles.data(), block * side}, x.at(begin + 2 * pair, b * block), x_stride, columns, steps,
                               scratch.products.data(), between);
        last = {scratch.sums.data() + (u * tiles + 2 * pair) * 2 * sum_tile, scales, scratch.products.data(), columns, b == 0};
      }
      std::swap(now, next);
      std::swap(last_scales, scales);
      std::swap(scales, next_scales);
    }
  }
  last.add(0, last.tiles());
}

/// The same for all rows of x and any number of units; then finish(unit, row tile, sums of the first, sums of the second) for each, sums
/// [16 weight rows, 16 rows of x].
template <class Engine, class Arch, ElementView V, class Finish>
void multiply_all(const Packed& x, std::span<const Unit<V>> units, Scratch& scratch, Finish&& finish) {
  const typename Engine::Session session;
  const Index row_tiles = x.row_tiles(), together = row_tiles < 8 ? 1 : units_together;
  for (std::size_t u = 0; u < units.size();) {
    const auto some = units.subspan(u, std::min(units.size() - u, static_cast<std::size_t>(together)));
    for (Index begin = 0; begin < row_tiles; begin += row_tiles_at_once) {
      const Index end = std::min(begin + row_tiles_at_once, row_tiles);
      multiply<Engine, Arch>(x, begin, end, some, scratch);
      const float* sums = scratch.sums.data();
      for (std::size_t i = 0; i < some.size(); ++i)
        for (Index t = begin; t < end; ++t, sums += 2 * sum_tile) finish(u + i, t, sums, sums + sum_tile);
    }
    u += some.size();
  }
  end_stores();
}

#endif

}  // namespace dsv3::inline DSV3_ISA::kernels::bf16
