// Floor 6. The engine of bf16 products of backward passes that uses AMX's tiles.
//
// Both operands are packed into tiles, whichever way they lie in memory. A block of A [rows, depth] and a panel of B stay in L2; 32 columns
// of the panel stay in L1 while they are multiplied with all rows of the block. Terms of the sum are taken in steps of 32: the instruction
// adds up the even and the odd ones, then both and the old sum. Its operands and results are zero instead of subnormal.
#pragma once

#include "dsv3/train/multiply_add_pairs.hpp"

#if defined(DSV3_HAS_AMX) && defined(DSV3_HAS_BF16_TILES)

namespace dsv3::inline DSV3_ISA::train::detail {

/// The engine; multiply_add_bf16.hpp says what it has to have.
struct TileEngine {
  static constexpr Index max_rows = 512, max_columns = 1024;
  static constexpr Index depth = 512, panel = 128;  // of the packed blocks: 512 KiB of A, 128 KiB of B
  static constexpr Index side = kernels::bf16::side, terms = kernels::bf16::depth, tile = kernels::bf16::tile_size, pair = 2 * side;
  struct Scratch {
    alignas(64) std::uint16_t a[max_rows * depth];
    alignas(64) std::uint16_t b[panel * depth];
    alignas(64) float sums[pair * pair];
  };

  static void multiply_add(const MultiplyAdd& p, Scratch& scratch) {
    const amx::TileConfig session;
    const Index rows = p.c.rows(), columns = p.columns();
    const Strided b = p.transpose_b ? as_is(p.b) : transposed(p.b);  // columns as rows
    for (Index k = 0; k < p.depth(); k += depth) {
      const Index depth_here = std::min(depth, p.depth() - k), steps = (depth_here + terms - 1) / terms;
      pack<true>(part(p.a, 0, k), rows, depth_here, scratch.a);
      for (Index n0 = 0; n0 < columns; n0 += panel) {
        const Index wide = std::min(panel, columns - n0);
        pack<false>(part(b, n0, k), wide, depth_here, scratch.b);
        for (Index n = 0; n < wide; n += pair)
          for (Index m = 0; m < rows; m += pair) {
            const amx::Operands o{scratch.a + m * steps * terms, terms, tile, steps * tile, scratch.b + n * steps * terms, steps * tile};
            add_tiles(p, o, k, steps, m, n0 + n, scratch.sums);
          }
      }
    }
  }

 private:
  static Strided part(const Strided& m, Index i, Index k) { return {m.data + i * m.row + k * m.col, m.row, m.col}; }

  /// Packs `count` rows of m, `depth_here` terms each, as tiles: those of 16 rows lie one behind the other. Tiles of A have a row of m in a
  /// row, those of B, which are transposed, pairs of terms. Zeros pad the last tiles.
  template <bool OfA>
  static void pack(const Strided& m, Index count, Index depth_here, std::uint16_t* to) {
    const Index steps = (depth_here + terms - 1) / terms;
    const auto one = [&](Index i, Index k, auto&& load, bool turn) {
      kernels::bf16::Square square = load(part(m, i, k), std::min(side, count - i), std::min(terms, depth_here - k));
      if (turn) kernels::bf16::transpose(square);
      std::uint16_t* out = to + i * steps * terms + k * side;
      for (Index r = 0; r < side; ++r) _mm512_store_si512(out + r * terms, square.rows[r]);
    };
    if (m.col == 1)
      for (Index i = 0; i < count; i += side)
        for (Index k = 0; k < depth_here; k += terms) one(i, k, load_rows, !OfA);
    else
      for (Index k = 0; k < depth_here; k += terms)
        for (Index i = 0; i < count; i += side) one(i, k, load_pairs, OfA);
  }
  /// 16 rows of 32 terms that are adjacent in memory.
  static kernels::bf16::Square load_rows(const Strided& m, Index count, Index depth_here) {
    kernels::bf16::Square square;
    for (Index i = 0; i < side; ++i)
      square.rows[i] = i < count ? kernels::bf16::load_bf16(m.data + i * m.row, depth_here) : _mm512_setzero_si512();
    return square;
  }
  /// 16 pairs of terms of 16 rows that are adjacent in memory.
  static kernels::bf16::Square load_pairs(const Strided& m, Index count, Index depth_here) {
    kernels::bf16::Square square;
    const __mmask16 lanes = kernels::bf16::first_lanes(count);
    const auto load = [&](Index k) { return k < depth_here ? _mm512_maskz_loadu_ps(lanes, m.data + k * m.col) : _mm512_setzero_ps(); };
    for (Index i = 0; i < side; ++i) square.rows[i] = kernels::bf16::bf16_pairs(load(2 * i), load(2 * i + 1));
    return square;
  }

  /// Adds the product of one or two row tiles and column tiles to C, from row m and column n on.
  static void add_tiles(const MultiplyAdd& p, const amx::Operands& o, Index k, Index steps, Index m, Index n, float* sums) {
    const Index rows = std::min(pair, p.c.rows() - m), columns = std::min(pair, p.c.cols() - n), stride = p.c.outerStride();
    float* c = p.c.row_data(m) + n;
    const bool overwrite = p.overwrite && k == 0;
    if (p.scaled()) {
      constexpr Index at_once = block_depth / terms;
      for (Index s = 0; s < steps; s += at_once) {
        const amx::Operands block{o.a + s * tile, o.a_row, o.a_step, o.a_stride, o.b + s * tile, o.b_stride};
        multiply<false>(block, rows, columns, std::min(at_once, steps - s), sums, pair);
        add_scaled(sums, block_scales(p, k + s * terms).at(m, n), rows, columns, c, stride, overwrite && s == 0);
      }
    } else if (rows % side != 0 || columns % side != 0) {
      const auto each_row = [&](auto&& f) {
        for (Index i = 0; i < rows; ++i) f(c + i * stride, sums + i * pair);
      };
      if (!overwrite) each_row([&](const float* from, float* to) { std::copy_n(from, columns, to); });
      overwrite ? multiply<false>(o, rows, columns, steps, sums, pair) : multiply<true>(o, rows, columns, steps, sums, pair);
      each_row([&](float* to, const float* from) { std::copy_n(from, columns, to); });
    } else {
      overwrite ? multiply<false>(o, rows, columns, steps, c, stride) : multiply<true>(o, rows, columns, steps, c, stride);
    }
  }
  template <bool Add>
  static void multiply(const amx::Operands& o, Index rows, Index columns, Index steps, float* c, Index stride) {
    if (rows > side)
      columns > side ? amx::multiply_rows<2, 2, Add>(o, steps, c, stride) : amx::multiply_rows<2, 1, Add>(o, steps, c, stride);
    else
      columns > side ? amx::multiply_rows<1, 2, Add>(o, steps, c, stride) : amx::multiply_rows<1, 1, Add>(o, steps, c, stride);
  }
  /// c = fma(sums, scale of the row * scale of the column, c or 0).
  static void add_scaled(const float* sums, const BlockScales& scales, Index rows, Index columns, float* c, Index stride, bool overwrite) {
    for (Index j = 0; j < columns; j += side) {
      const __mmask16 lanes = kernels::bf16::first_lanes(columns - j);
      const __m512 of_column = _mm512_maskz_loadu_ps(lanes, scales.b + j);
      for (Index i = 0; i < rows; ++i) {
        float* to = c + i * stride + j;
        const __m512 old = overwrite ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(lanes, to);
        const __m512 factor = _mm512_mul_ps(_mm512_set1_ps(scales.a[i]), of_column);
        _mm512_mask_storeu_ps(to, lanes, _mm512_fmadd_ps(_mm512_load_ps(sums + i * pair + j), factor, old));
      }
    }
  }
};

}  // namespace dsv3::inline DSV3_ISA::train::detail

#endif
