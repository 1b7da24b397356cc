// Floor 3. A panel of bf16 products: a few units of weight rows times all activation rows, in an order that keeps tiles in cache.
#pragma once

#include "dsv3/kernels/bf16_pack.hpp"

namespace dsv3::inline DSV3_ISA::kernels::bf16 {

#ifdef DSV3_HAS_BF16_TILES

inline constexpr Index units_at_once = 32;      ///< units of a panel, for which activations are read again and again
inline constexpr Index units_of_sums = 8;       ///< and those whose sums are kept where activations come in parts
inline constexpr Index row_tiles_at_once = 12;  ///< row tiles of activations whose sums are kept in the first-level cache
inline constexpr Index activations_at_once = row_tiles_at_once * side * 2048;  ///< and numbers of them in the second

/// What a worker needs to multiply panels. Products and sums lie at the same place of their pages, so that loads of the one do not seem to
/// depend on stores of the other.
struct Scratch {
  alignas(4096) std::array<float, units_of_sums * row_tiles_at_once * 2 * sum_tile> sums;
  alignas(4096) std::array<float, 4 * sum_tile> products;
  std::array<Filled, 2> filled;
  std::array<Scales, 3> scales;  // of the step that is converted, multiplied, added
};

/// Products [2, 2] of two tiles of weights with one or two of activations that are yet to be scaled and added to their sums; the last ones
/// of a unit and of row tiles from `row_tile` complete these.
struct Addend {
  float* sums = nullptr;
  const Scales* scales = nullptr;
  const float* products = nullptr;
  Index columns = 0, unit = 0, row_tile = 0;
  bool completes = false;

  template <int Product>
  [[gnu::always_inline]] void add() const {
    constexpr std::size_t i = Product / 2, j = Product % 2;
    if (static_cast<Index>(j) >= columns) return;
    const float *c = products + Product * sum_tile, *rows = scales->rows.data() + i * side;
    float* sum = sums + (2 * j + i) * sum_tile;
    scales->uniform ? add_scaled(c, *rows, sum) : add_scaled(c, rows, sum);
  }
};

/// Row tiles [begin, end) of x, at most row_tiles_at_once, and blocks of columns [first, last).
struct Part {
  Index begin, end, first, last;
};

/// Adds the products of a part of x and of the rows of all units to their sums, whose units are `apart` from one another: 0 if the part has
/// all columns. Then, if it has the last ones, finish(unit, row tile, sums of the first, sums of the second) for each, sums [16 weight
/// rows, 16 rows of x], which become zero again. Between the steps of a product, weights are converted for the next and the last one is
/// added: little of each, so that the processor finds all kinds of work in its window. The first-level cache holds what is written again
/// and again; activations are streamed past it.
template <class Engine, class Arch, ElementView V, class Finish>
void multiply(const Packed& x, const Part& part, std::span<const Unit<V>> units, Index apart, Scratch& scratch, Finish&& finish) {
  const Index tiles = part.end - part.begin, pairs = (tiles + 1) / 2, blocks = part.last - part.first;
  const Index count = static_cast<Index>(units.size()), x_stride = side * padded(x.cols);
  const auto filled = [&](Index n) -> Filled& { return scratch.filled[static_cast<std::size_t>(n % 2)]; };
  const auto scales = [&](Index n) -> Scales& { return scratch.scales[static_cast<std::size_t>(n % 3)]; };
  Filler<Arch, V> filler;
  const auto start = [&](Index n) {
    filler.start(units[static_cast<std::size_t>(n / blocks)], (part.first + n % blocks) * block, filled(n), scales(n));
  };
  Addend last;
  const auto finish_last = [&] {
    if (!last.completes) return;
    for (Index t = 0; t < last.columns; ++t) {
      float* sums = last.sums + t * 2 * sum_tile;
      finish(static_cast<std::size_t>(last.unit), last.row_tile + t, sums, sums + sum_tile);
      clear(sums), clear(sums + sum_tile);
    }
  };
  for (start(0); !filler.done();) filler.template fill<2>();
  for (Index n = 0; n < count * blocks; ++n) {
    const Index u = n / blocks, b = part.first + n % blocks;
    const Index steps = (std::min(block, x.cols - b * block) + depth - 1) / depth;
    if (n + 1 < count * blocks) start(n + 1);
    for (Index pair = 0; pair < pairs; ++pair) {
      const Index columns = std::min(Index{2}, tiles - 2 * pair);
      const auto run = [&]<int Columns, int Rows>() __attribute__((always_inline)) {
        Engine::template multiply_panel<Columns>(
            {filled(n).tiles.data(), block * side}, x.at(part.begin + 2 * pair, b * block), x_stride, steps, scratch.products.data(),
            last.columns, [&](auto step) __attribute__((always_inline)) {
              if constexpr (Rows > 0) filler.template fill<Rows>();
              last.add<step>();
            });
      };
      const auto run_filling = [&]<int Rows>() __attribute__((always_inline)) {
        columns == 2 ? run.template operator()<2, Rows>() : run.template operator()<1, Rows>();
      };
      if (filler.done())
        run_filling.template operator()<0>();
      else if (pairs == 1)
        run_filling.template operator()<8>();
      else if (pairs <= 3)
        run_filling.template operator()<4>();
      else
        run_filling.template operator()<2>();
      finish_last();
      last = {.sums = scratch.sums.data() + u * apart + pair * 4 * sum_tile,
              .scales = &scales(n),
              .products = scratch.products.data(),
              .columns = columns,
              .unit = u,
              .row_tile = part.begin + 2 * pair,
              .completes = (b + 1) * block >= x.cols};
    }
  }
  Engine::finish(scratch.products.data(), last.columns);
  simd::unroll<4>([&](auto product) { last.template add<product>(); });
  finish_last();
}

/// The same for all of x, in parts that the caches hold while all units are multiplied.
template <class Engine, class Arch, ElementView V, class Finish>
void multiply_all(const Packed& x, std::span<const Unit<V>> units, Scratch& scratch, Finish&& finish) {
  const Index row_tiles = x.row_tiles(), blocks = share(x.cols, block), count = static_cast<Index>(units.size());
  float* sums = scratch.sums.data();
  if (blocks == 0) {
    std::fill_n(sums, sum_tile, 0.0f);
    for (Index u = 0; u < count; ++u)
      for (Index t = 0; t < row_tiles; ++t) finish(static_cast<std::size_t>(u), t, sums, sums);
    return end_stores();
  }
  const typename Engine::Session session;
  const Index tiles = share(row_tiles, 2 * share(row_tiles, row_tiles_at_once)) * 2;  // even: a pair takes less time than twice one
  const Index columns = share(blocks, share(blocks * block * tiles * side, activations_at_once));
  const Index apart = columns == blocks ? 0 : tiles * 2 * sum_tile, together = apart == 0 ? count : units_of_sums;
  for (Index u = 0; u < count; u += together) {
    const auto some = units.subspan(static_cast<std::size_t>(u), static_cast<std::size_t>(std::min(together, count - u)));
    const auto finish_some = [&](std::size_t i, Index t, const float* first, const float* second) {
      finish(static_cast<std::size_t>(u) + i, t, first, second);
    };
    std::fill_n(sums, tiles * 2 * sum_tile + (together - 1) * apart, 0.0f);
    for (Index begin = 0; begin < row_tiles; begin += tiles)
      for (Index first = 0; first < blocks; first += columns)
        multiply<Engine, Arch>(x, {begin, std::min(begin + tiles, row_tiles), first, std::min(first + columns, blocks)}, some, apart,
                               scratch, finish_some);
  }
  end_stores();
}

#endif

}  // namespace dsv3::inline DSV3_ISA::kernels::bf16
