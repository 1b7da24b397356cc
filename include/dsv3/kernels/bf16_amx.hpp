// Floor 3. The engine of bf16 tiles that uses Intel AMX.
//
// Without AMX in the compiler's flags this header declares nothing.
#pragma once

#include "dsv3/kernels/bf16_pack.hpp"
#include "dsv3/simd/amx.hpp"

#ifdef DSV3_HAS_AMX

namespace dsv3::inline DSV3_ISA::kernels::bf16 {

/// Products by AMX tiles. multiply_delayed() is for a series of products of two row tiles and one or two column tiles, at most 4 steps
/// deep, with a b that is large compared to L1. Its results are delayed: the products of one call are in c [2, 2] when the next call calls
/// between(0), or after store_delayed(). between(s) is called for s = 0 to 3, after step s if there is one.
struct AmxEngine {
  using Session = amx::TileConfig;
  static constexpr Index row_tiles = 12;

  static void multiply(const LeftOperand& a, Index rows, const std::uint16_t* b, Index b_stride, Index columns, Index steps, float* c) {
    const amx::Operands o{a.data, a.row, a.step, a.stride, b, b_stride};
    if (rows == 2)
      columns == 2 ? amx::multiply<2, 2>(o, steps, c) : amx::multiply<2, 1>(o, steps, c);
    else
      columns == 2 ? amx::multiply<1, 2>(o, steps, c) : amx::multiply<1, 1>(o, steps, c);
  }
  /// Stores of the previous products wait for their numbers in a store queue so short that four tile stores in a row would stall everything
  /// after them. So each register is stored right before the first product of this call that overwrites it.
  template <int Columns, class Between>
  [[gnu::always_inline]] static void multiply_delayed(const LeftOperand& a, const std::uint16_t* b, Index b_stride, Index steps, float* c,
                                                      Index last_columns, Between&& between) {
    const amx::Operands o{a.data, a.row, a.step, a.stride, b, b_stride};
    const auto keep = [&](auto t) __attribute__((always_inline)) { store<t>(c, last_columns); };
    simd::unroll<4>([&](auto s) __attribute__((always_inline)) {
      if (s < steps) {
        amx::fence();
        amx::step<2, Columns, s == 0, true>(o, s, keep);
        amx::fence();
      }
      between(s);
    });
  }
  static void store_delayed(float* c, Index last_columns) {
    simd::unroll<4>([&](auto t) __attribute__((always_inline)) { store<t>(c, last_columns); });
    amx::fence();
  }

  template <class Arch, ElementView V, class Finish>
  static void multiply_part(const Packed& x, const Part& part, std::span<const Unit<V>> units, Index sum_stride, Scratch& scratch,
                            Finish&& finish);

 private:
  /// Stores register T if its column tile is one of the first `columns`.
  template <int T>
  [[gnu::always_inline]] static void store(float* c, Index columns) {
    if (T % 2 < columns) amx::store<T>(c + T * sum_tile_size);
  }
};

/// Converts a unit's weights to ConvertedWeights, a few rows at a time.
template <class Arch, ElementView V>
class WeightConverter;

/// Weights whose codes are decoded in groups.
template <class Arch, ElementView V>
requires decodes_groups<V, Arch>
class WeightConverter<Arch, V> {
 public:
  /// Begins a block of columns at `column`: writes its scales to `scales`; convert_rows() then writes its weights to `out`. Rows that the
  /// weights do not have keep their old contents, as do columns beyond a whole group of 64; neither reaches a result.
  void start(const Unit<V>& unit, Index column, ConvertedWeights& out, Scales& scales) {
    const std::array<const V*, 2> w{&unit.first, &unit.second};
    const bool whole = unit.second.rows == side && column + block <= unit.first.cols;
    const Index ahead = prefetch_blocks * block, beyond = column + ahead - unit.first.cols;  // past the end: the next unit's first ones
    stride_ = unit.first.row(1) - unit.first.row(0);
    fetched_ = beyond < 0 ? ahead : unit.rows_to_next * stride_ + beyond / block * block - column;
    out_ = out.tiles.data();
    row_ = whole ? 0 : 2 * side;
    read_scales(unit, column, scales);
    for (std::size_t i = 0; i < 2; ++i) {
      codes_[i] = w[i]->row(0) + column;
      if (!whole) convert_edge(*w[i], column, out_ + i * block * side);
    }
  }
  bool done() const { return row_ == 2 * side; }

  /// Converts the next `Rows` rows.
  template <int Rows>
  [[gnu::always_inline]] void convert_rows() {
    const Index second = row_ / side, i = row_ % side;
    const Code* codes = codes_[static_cast<std::size_t>(second)] + i * stride_;
    std::uint16_t* out = out_ + second * (block * side) + i * depth;
    simd::unroll<Rows>([&](auto n) __attribute__((always_inline)) {
      simd::unroll<2>([&](auto half) __attribute__((always_inline)) {
        constexpr Index k = half * 2 * depth, at = n * depth + k * side;
        simd::prefetch<2>(codes + k, fetched_);
        Group::store(codes + k, out + at, out + at + tile_size);
      });
      codes += stride_;
    });
    row_ += Rows;
  }

 private:
  using Code = typename V::Storage::Codec::Code;
  using Group = codec::Bf16Group<typename V::Storage::Codec, Arch>;

  static void convert_edge(const V& w, Index column, std::uint16_t* out) {
    const Index columns = std::min(block, w.cols - column);
    for (Index i = 0; i < w.rows; ++i, out += depth)
      for (Index k = 0; k < columns; k += 2 * depth) {
        alignas(64) std::array<Code, 2 * depth> edge{};
        std::copy_n(w.row(i) + column + k, std::min(2 * depth, columns - k), edge.begin());
        Group::store(edge.data(), out + k * side, out + k * side + tile_size);
      }
  }

  std::array<const Code*, 2> codes_;
  std::uint16_t* out_;
  Index stride_, fetched_, row_;
};

/// All others, whose values are loaded as floats.
template <class Arch, ElementView V>
requires(!decodes_groups<V, Arch>) class WeightConverter<Arch, V> {
 public:
  void start(const Unit<V>& unit, Index column, ConvertedWeights& out, Scales& scales) {
    w_ = {&unit.first, &unit.second};
    rows_to_next_ = unit.rows_to_next, column_ = column, out_ = out.tiles.data(), row_ = 0;
    read_scales(unit, column, scales);
  }
  bool done() const { return row_ == 2 * side; }

  template <int Rows>
  void convert_rows() {
    for (const Index end = row_ + Rows; row_ < end; ++row_) {
      const V& w = *w_[static_cast<std::size_t>(row_ / side)];
      if (row_ % side >= w.rows) continue;
      const auto row = row_of(w, row_ % side);
      std::uint16_t* out = out_ + row_ / side * (block * side) + row_ % side * depth;
      prefetch_values(w, row_ % side, column_, rows_to_next_);
      for (Index k = 0; k < std::min(block, w.cols - column_); k += 2 * depth) {
        const Index at = column_ + k;
        const auto values = in_order(order_of<V>, load_values<Arch>(w, row, at), load_values<Arch>(w, row, at + depth));
        _mm512_store_si512(out + k * side, values.first);
        _mm512_store_si512(out + k * side + tile_size, values.last);
      }
    }
  }

 private:
  std::array<const V*, 2> w_;
  std::uint16_t* out_;
  Index rows_to_next_, column_, row_;
};

/// Adds scale * c to a tile of sums.
[[gnu::always_inline]] inline void add_scaled(const float* c, float scale, float* sum) {
  const __m512 factor = _mm512_set1_ps(scale);
  simd::unroll<side>([&](auto n) __attribute__((always_inline)) {
    _mm512_store_ps(sum + n * side, _mm512_fmadd_ps(_mm512_load_ps(c + n * side), factor, _mm512_load_ps(sum + n * side)));
  });
}

/// Adds scales[n] * c[n] to rows n of a tile of sums.
inline void add_scaled(const float* c, const float* scales, float* sum) {
  for (Index n = 0; n < side; ++n)
    _mm512_store_ps(sum + n * side,
                    _mm512_fmadd_ps(_mm512_load_ps(c + n * side), _mm512_set1_ps(scales[n]), _mm512_load_ps(sum + n * side)));
}

/// Products [2, 2] of two tiles of weights with one or two of activations, still to be scaled and added to their sums. is_last_block: they
/// are the last ones for this unit and the row tiles from `row_tile` on.
struct PendingProducts {
  float* sums = nullptr;
  const float* scales = nullptr;
  const float* products = nullptr;
  Index columns = 0, unit = 0, row_tile = 0;
  bool uniform = false, is_last_block = false;

  template <int Product>
  [[gnu::always_inline]] void add() const {
    constexpr std::size_t i = Product / 2, j = Product % 2;
    if (static_cast<Index>(j) >= columns) return;
    const float *c = products + Product * sum_tile_size, *rows = scales + i * side;
    float* sum = sums + (2 * j + i) * sum_tile_size;
    uniform ? add_scaled(c, *rows, sum) : add_scaled(c, rows, sum);
  }
};

/// A software pipeline: between the steps of a product, a few rows of the next weights are converted and a part of the previous product is
/// added, so that the instruction window of the processor always holds work of every kind. L1 keeps what is rewritten again and again
/// (weights, products, sums); activations are streamed past it.
template <class Arch, ElementView V, class Finish>
void AmxEngine::multiply_part(const Packed& x, const Part& part, std::span<const Unit<V>> units, Index sum_stride, Scratch& scratch,
                              Finish&& finish) {
  constexpr int max_slices = block / scaled_columns<V>;  // slices of a block of columns are scaled one by one
  const Index tiles = part.end - part.begin, pairs = (tiles + 1) / 2, blocks = part.last - part.first;
  const Index count = static_cast<Index>(units.size()), x_stride = side * padded(x.cols), cols = units.front().first.cols;
  const auto converted = [&](Index n) -> ConvertedWeights& { return scratch.converted[static_cast<std::size_t>(n % 2)]; };
  const auto scales = [&](Index n) -> Scales& { return scratch.scales[static_cast<std::size_t>(n % 3)]; };
  WeightConverter<Arch, V> converter;
  const auto start = [&](Index n) {
    converter.start(units[static_cast<std::size_t>(n / blocks)], (part.first + n % blocks) * block, converted(n), scales(n));
  };
  PendingProducts pending;
  const auto finish_pending = [&] {
    if (!pending.is_last_block) return;
    for (Index t = 0; t < pending.columns; ++t) {
      float* sums = pending.sums + t * 2 * sum_tile_size;
      finish(static_cast<std::size_t>(pending.unit), pending.row_tile + t, sums, sums + sum_tile_size);
      clear(sums), clear(sums + sum_tile_size);
    }
  };
  for (start(0); !converter.done();) converter.template convert_rows<2>();
  for (Index n = 0; n < count * blocks; ++n) {
    const Index u = n / blocks, b = part.first + n % blocks;
    const Index slices = max_slices == 1 ? 1 : ceil_div(std::min(block, cols - b * block), scaled_columns<V>);
    if (n + 1 < count * blocks) start(n + 1);
    for (Index pair = 0, slice = 0; pair < pairs; slice + 1 < slices ? ++slice : (slice = 0, ++pair)) {
      const Index column = b * block + slice * scaled_columns<V>, steps = ceil_div(std::min(scaled_columns<V>, x.cols - column), depth);
      const Index columns = std::min(Index{2}, tiles - 2 * pair);
      const auto run = [&]<int Columns, int Rows>() __attribute__((always_inline)) {
        multiply_delayed<Columns>(
            {converted(n).tiles.data() + slice * scaled_columns<V> * side, block * side}, x.at(part.begin + 2 * pair, column), x_stride,
            steps, scratch.products.data(), pending.columns, [&](auto step) __attribute__((always_inline)) {
              if constexpr (Rows > 0) converter.template convert_rows<Rows>();
              pending.add<step>();
            });
      };
      const auto run_converting = [&]<int Rows>() __attribute__((always_inline)) {
        columns == 2 ? run.template operator()<2, Rows>() : run.template operator()<1, Rows>();
      };
      if (converter.done())
        run_converting.template operator()<0>();
      else if (pairs == 1)
        run_converting.template operator()<8 / max_slices>();
      else if (pairs <= 3)
        run_converting.template operator()<4 / max_slices>();
      else
        run_converting.template operator()<std::max(2 / max_slices, 1)>();
      finish_pending();
      pending = {.sums = scratch.sums.data() + u * sum_stride + pair * 4 * sum_tile_size,
                 .scales = scales(n).of(slice),
                 .products = scratch.products.data(),
                 .columns = columns,
                 .unit = u,
                 .row_tile = part.begin + 2 * pair,
                 .uniform = scales(n).uniform,
                 .is_last_block = column + scaled_columns<V> >= cols};
    }
    while (!converter.done()) converter.template convert_rows<2>();
  }
  store_delayed(scratch.products.data(), pending.columns);
  simd::unroll<4>([&](auto product) { pending.template add<product>(); });
  finish_pending();
}

}  // namespace dsv3::inline DSV3_ISA::kernels::bf16

#endif
