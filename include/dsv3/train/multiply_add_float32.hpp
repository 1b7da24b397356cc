// Floor 6. The float32 engine of training's products.
//
// Every element of C is c = fma(a[m, k], b[k, n], c) for k = 0, 1, ... in this order, for any tiling and number of threads. So sums over
// the rows of a batch have the same bits if the batch is cut into parts that keep its order.
//
// A block of A [rows, depth] is packed and stays in L2; a panel of B [depth, two vectors of columns] is packed and stays in L1 while it is
// multiplied with all rows of the block.
#pragma once

#include <cassert>

#include "dsv3/simd/transpose.hpp"
#include "dsv3/train/multiply_add.hpp"

namespace dsv3::inline DSV3_ISA::train {

namespace detail {

/// The engine; multiply_add.hpp says what it has to have.
template <class Arch>
struct FloatEngine {
  static constexpr Index max_rows = 480, max_columns = 1024;
  static constexpr Index max_depth = 256, packed_columns = 128;  // of packed blocks: 510 KiB of A, 128 KiB of B
  static constexpr Index width = simd::width<Arch>;
  static constexpr int vectors = 2, tile_rows = simd::registers<Arch> == 32 ? 12 : 6;  // sums of a tile of C fill most registers
  static constexpr Index panel = vectors * width, row_stride = max_depth + 16;
  struct Scratch {
    alignas(64) float a[max_rows * row_stride];
    alignas(64) float b[max_depth * packed_columns];
    alignas(64) float c[tile_rows * panel];  // a tile at the edge of C
  };

  static void multiply_add(const MultiplyAdd& p, Scratch& scratch) {
    p.a.col == 1 ? multiply_add<true>(p, scratch) : multiply_add<false>(p, scratch);
  }

 private:
  using Floats = simd::Floats<Arch>;

  /// Along: A's rows are contiguous. Then they are copied as they are, [row_stride] floats each, and else packed as pack() does.
  template <bool Along>
  static void multiply_add(const MultiplyAdd& p, Scratch& scratch) {
    const Index rows = p.c.rows(), columns = p.columns();
    const Strided b = p.transpose_b ? as_is(p.b) : transposed(p.b);  // columns as rows
    // If one packing of B has all columns, a few rows of A are packed at a time, which stay in L1.
    const Index block = columns <= packed_columns ? 4 * tile_rows : max_rows;
    const Index step = p.scaled() ? block_depth : max_depth;
    for (Index k = 0; k < p.depth(); k += step) {
      const Index depth = std::min(step, p.depth() - k);
      for (Index n0 = 0; n0 < columns; n0 += packed_columns) {
        const Index count = std::min(packed_columns, columns - n0);
        pack<panel>({b.data + n0 * b.row + k * b.col, b.row, b.col}, count, depth, scratch.b);
        for (Index m0 = 0; m0 < rows; m0 += block) {
          const Index end = std::min(m0 + block, rows);
          if (n0 == 0) pack_rows<Along>({p.a.data + m0 * p.a.row + k * p.a.col, p.a.row, p.a.col}, end - m0, depth, scratch.a);
          for (Index n = 0; n < count; n += panel)
            for (Index m = m0; m < end; m += tile_rows)
              tile<Along>(p, scratch.a + (m - m0) * (Along ? row_stride : max_depth), scratch.b + n * max_depth, k, depth, m, n0 + n,
                          scratch.c);
        }
      }
    }
  }

  template <bool Along>
  static void pack_rows(const Strided& m, Index rows, Index depth, float* to) {
    if constexpr (Along)
      for (Index i = 0; i < rows; ++i) copy(m.data + i * m.row, depth, to + i * row_stride);
    else
      pack<tile_rows>(m, rows, depth, to);
  }

  /// to[i / Group][k][i % Group] = m[i, k] for `count` rows of m, `depth` terms each; [max_depth, Group] floats a group.
  template <Index Group>
  static void pack(const Strided& m, Index count, Index depth, float* to) {
    if (m.col == 1) {
      constexpr Index step = std::min(width, Group);
      for (Index g = 0; g < count; g += Group, to += max_depth * Group)
        for (Index i = 0; i < std::min(Group, count - g); i += step)
          for (Index k = 0; k < depth; k += width)
            simd::transpose<Arch>(m.data + (g + i) * m.row + k, m.row, std::min(step, count - g - i), std::min(width, depth - k),
                                  to + k * Group + i, Group);
      return;
    }
    for (Index k = 0; k < depth; ++k, to += Group)  // in the order of memory
      for (Index g = 0; g < count; g += Group) copy(m.data + k * m.col + g, std::min(Group, count - g), to + g * max_depth);
  }
  /// Without a call, because most copies are of one or two vectors.
  static void copy(const float* from, Index count, float* to) {
    Index i = 0;
    for (; i + width <= count; i += width) simd::load<Arch>(from + i).store_unaligned(to + i);
    for (; i < count; ++i) to[i] = from[i];
  }

  /// Adds terms [k, k + depth) to C's tile from row m and column n on; a and b are packed.
  template <bool Along>
  static void tile(const MultiplyAdd& p, const float* a, const float* b, Index k, Index depth, Index m, Index n, float* edge) {
    const bool overwrite = p.overwrite && k == 0;
    const BlockScales scales = block_scales(p, k).at(m, n);
    const Index rows = std::min(Index{tile_rows}, p.c.rows() - m), columns = std::min(panel, p.columns() - n), ldc = p.c.outerStride();
    float* c = p.c.row_data(m) + n;
    if (rows == tile_rows && columns == panel) return whole_tile<tile_rows, Along>(a, b, depth, c, ldc, overwrite, scales);
    const auto each_row = [&](auto&& f) {
      for (Index i = 0; i < rows; ++i) f(c + i * ldc, edge + i * panel);
    };
    std::array<float, static_cast<std::size_t>(tile_rows)> a_scales{};
    std::array<float, static_cast<std::size_t>(panel)> b_scales{};
    BlockScales padded;
    if (scales.a != nullptr) {
      std::copy_n(scales.a, rows, a_scales.data());
      std::copy_n(scales.b, columns, b_scales.data());
      padded = {a_scales.data(), b_scales.data()};
    }
    if (!overwrite) each_row([&](const float* from, float* to) { std::copy_n(from, columns, to); });
    if (rows > tile_rows / 2)
      whole_tile<tile_rows, Along>(a, b, depth, edge, panel, overwrite, padded);
    else if (rows > 2)
      whole_tile<tile_rows / 2, Along>(a, b, depth, edge, panel, overwrite, padded);
    else
      whole_tile<2, Along>(a, b, depth, edge, panel, overwrite, padded);
    each_row([&](float* to, const float* from) { std::copy_n(from, columns, to); });
  }

  /// c [M, panel] (+)= the product of packed groups of A and of B.
  template <int M, bool Along>
  static void whole_tile(const float* a, const float* b, Index depth, float* c, Index ldc, bool overwrite, const BlockScales& scales) {
    const bool from_zero = overwrite || scales.a != nullptr;
    Floats sum[M][vectors];
    simd::unroll<M>([&](auto m) __attribute__((always_inline)) {
      simd::unroll<vectors>([&](auto v) __attribute__((always_inline)) {
        sum[m][v] = from_zero ? Floats(0.0f) : simd::load<Arch>(c + m * ldc + v * width);
      });
    });
    for (Index k = 0; k < depth; ++k, a += Along ? 1 : tile_rows, b += panel) {
      Floats bk[vectors];
      simd::unroll<vectors>([&](auto v) __attribute__((always_inline)) { bk[v] = simd::load<Arch>(b + v * width); });
      simd::unroll<M>([&](auto m) __attribute__((always_inline)) {
        const Floats am(a[m * (Along ? row_stride : 1)]);
        simd::unroll<vectors>([&](auto v) __attribute__((always_inline)) { sum[m][v] = simd::fma<Arch>(am, bk[v], sum[m][v]); });
      });
    }
    simd::unroll<M>([&](auto m) __attribute__((always_inline)) {
      simd::unroll<vectors>([&](auto v) __attribute__((always_inline)) {
        float* to = c + m * ldc + v * width;
        if (scales.a != nullptr)
          sum[m][v] = simd::fma<Arch>(sum[m][v], Floats(scales.a[m]) * simd::load<Arch>(scales.b + v * width),
                                      overwrite ? Floats(0.0f) : simd::load<Arch>(to));
        sum[m][v].store_unaligned(to);
      });
    });
  }
};

}  // namespace detail

/// Floats of scratch, aligned to 64 bytes, that multiply_add() on one thread needs.
template <class Arch>
inline constexpr Index multiply_add_scratch = static_cast<Index>(sizeof(typename detail::FloatEngine<Arch>::Scratch) / sizeof(float));

/// C += A B on the calling thread, for at most 480 rows and 1024 columns of C; scratch [multiply_add_scratch], aligned to 64 bytes.
template <class Arch = simd::DefaultArch>
void multiply_add(const MultiplyAdd& p, float* scratch) {
  using Engine = detail::FloatEngine<Arch>;
  assert(p.c.rows() <= Engine::max_rows && p.c.cols() <= Engine::max_columns);
  detail::multiply_add_by<Engine>(p, *reinterpret_cast<typename Engine::Scratch*>(scratch));
}

/// Every product of the group, in one parallel loop. 2 rows depth columns FLOP each.
template <class Arch = simd::DefaultArch>
void grouped_multiply_add(Context& ctx, std::span<const MultiplyAdd> group) {
  detail::grouped_multiply_add_by<detail::FloatEngine<Arch>>(ctx, group);
}

}  // namespace dsv3::inline DSV3_ISA::train
