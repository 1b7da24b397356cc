// Floor 3. Products of many rows of x with decoded weights: vectors hold columns of y, so that sums of a whole row of W stay in registers.
//
// linear_tile sums column k of W in lane k mod width, and adds up the lanes at the end. Here each lane is a product of its own: vector q of
// the columns gives term q of every lane. A lane's terms are added in the same order with the same scales, and the lanes are added up in
// the same order, so that both have the same bits.
#pragma once

#include <array>

#include "dsv3/core/matrix.hpp"
#include "dsv3/kernels/decoded.hpp"
#include "dsv3/simd/transpose.hpp"

namespace dsv3::inline DSV3_ISA::kernels::detail {

/// Sizes for K columns: terms of a lane, floats of packed rows.
template <class Arch>
struct Lanes {
  static constexpr Index width = simd::width<Arch>;
  static constexpr int tile_rows = 6, vectors = 2;    // rows of x and vectors of y in a tile
  static constexpr Index panel = vectors * width;     // rows of W that are packed at a time
  static constexpr Index block_rows = 8 * tile_rows;  // rows of x whose sums of all lanes stay in L2

  Index columns;

  Index terms() const { return (columns + width - 1) / width; }
  /// Floats between lanes of a panel: whole cache lines, but no power of two, which would map all lanes to the same sets of the cache.
  Index lane_stride() const { return terms() * panel + 16; }
  Index packed_x(Index rows) const { return (rows + tile_rows - 1) / tile_rows * tile_rows * terms() * width; }
};

/// Memory of a worker.
template <class Arch>
struct LanesMemory {
  float *decoded, *weights, *scales, *sums;

  static constexpr Index min_k_block = 16;
  static Index size(Index columns) {
    using L = Lanes<Arch>;
    const L lanes{columns};
    return L::width * decoded_stride(columns) + L::width * lanes.lane_stride() + L::panel * ((columns + min_k_block - 1) / min_k_block) +
           L::width * L::block_rows * L::panel;
  }
  LanesMemory(float* memory, Index columns) {
    using L = Lanes<Arch>;
    sums = memory;
    weights = sums + L::width * L::block_rows * L::panel;
    decoded = weights + L::width * L{columns}.lane_stride();
    scales = decoded + L::width * decoded_stride(columns);
  }
};

/// to[lane][q][m] = x[m, q * width + lane] for the tile of rows of x from row `first` on; zeros pad rows and columns.
template <class Arch>
void pack_x_lanes(ConstMatrixView<float> x, Index first, float* to) {
  using L = Lanes<Arch>;
  const L lanes{x.cols()};
  const Index rows = std::min(Index{L::tile_rows}, x.rows() - first), stride = lanes.terms() * L::tile_rows;
  if (rows < L::tile_rows || x.cols() % L::width != 0) std::fill_n(to, L::width * stride, 0.0f);
  for (Index q = 0; q < lanes.terms(); ++q)
    simd::transpose<Arch>(x.row_data(first) + q * L::width, x.outerStride(), rows, std::min(L::width, x.cols() - q * L::width),
                          to + q * L::tile_rows, stride);
}

/// weights[lane][q][n] = w[n, q * width + lane] for at most a panel of rows, and scales[block][n], 1 if there are none. Zeros pad both.
template <class Arch, ElementView W>
void pack_weight_lanes(const W& w, const LanesMemory<Arch>& memory) {
  using L = Lanes<Arch>;
  constexpr Index block = W::Storage::k_block;
  const L lanes{w.cols};
  if (w.rows < L::panel) std::fill_n(memory.weights, L::width * lanes.lane_stride(), 0.0f);
  for (Index n = 0; n < w.rows; n += L::width) {
    const Index count = std::min(L::width, w.rows - n);
    const auto rows = decode<Arch>(w.slice(n, count), memory.decoded, prefetch_bytes * 8 / row_of_t<W>::bits);
    for (Index q = 0; q < lanes.terms(); ++q)
      simd::transpose<Arch>(rows.data + q * L::width, rows.stride, count, L::width, memory.weights + q * L::panel + n, lanes.lane_stride());
    for (Index k = 0; k < w.cols; k += block)
      for (Index i = 0; i < count; ++i)
        memory.scales[k / block * L::panel + n + i] = decltype(rows)::Storage::scaled ? rows.scale(i, k) : 1.0f;
  }
}

/// sums [M, panel] of one lane: x [terms, tile_rows], w [terms, panel], scales [blocks of block_terms, panel].
template <class Arch, int M>
void sum_lane(const float* x, const float* w, const float* scales, Index terms, Index block_terms, float* sums) {
  using L = Lanes<Arch>;
  using Floats = simd::Floats<Arch>;
  constexpr int V = L::vectors, usual = 128 / L::width;  // terms of a block
  Floats total[M][V];
  const auto each = [](auto&& f) __attribute__((always_inline)) {
    simd::unroll<M>([&](auto m)
                        __attribute__((always_inline)) { simd::unroll<V>([&](auto v) __attribute__((always_inline)) { f(m, v); }); });
  };
  each([&](auto m, auto v) __attribute__((always_inline)) { total[m][v] = Floats(0.0f); });
  for (Index q = 0; q < terms; scales += L::panel) {
    Floats part[M][V];
    each([&](auto m, auto v) __attribute__((always_inline)) { part[m][v] = Floats(0.0f); });
    const auto add = [&]() __attribute__((always_inline)) {
      Floats wq[V];
      simd::unroll<V>([&](auto v) __attribute__((always_inline)) { wq[v] = simd::load<Arch>(w + v * L::width); });
      simd::unroll<M>([&](auto m) __attribute__((always_inline)) {
        const Floats xq(x[m]);
        simd::unroll<V>([&](auto v) __attribute__((always_inline)) { part[m][v] = simd::fma<Arch>(xq, wq[v], part[m][v]); });
      });
      x += L::tile_rows, w += L::panel;
    };
    const Index count = std::min(block_terms, terms - q);
    q += count;
    if (count == usual)  // without a loop, whose end would be mispredicted
      simd::unroll<usual>([&](auto) __attribute__((always_inline)) { add(); });
    else
      for (Index i = 0; i < count; ++i) add();
    each([&](auto m, auto v) __attribute__((always_inline)) {
      total[m][v] = simd::fma<Arch>(part[m][v], simd::load<Arch>(scales + v * L::width), total[m][v]);
    });
  }
  each([&](auto m, auto v) __attribute__((always_inline)) { total[m][v].store_unaligned(sums + m * L::panel + v * L::width); });
}

/// y [rows, count] = the sums of all lanes [width, block_rows, panel], added up as simd::sum() does.
template <class Arch>
void add_lanes(const float* sums, Index rows, Index count, float* y, Index ldy) {
  using L = Lanes<Arch>;
  using Floats = simd::Floats<Arch>;
  for (Index t = 0; t < rows; ++t)
    for (Index n = 0; n < count; n += L::width) {
      Floats a[L::width];
      simd::unroll<static_cast<int>(L::width)>([&](auto i) __attribute__((always_inline)) {
        a[i] = simd::load<Arch>(sums + (i * L::block_rows + t) * L::panel + n);
      });
      const auto fold = [&]<int Half>(std::integral_constant<int, Half>) __attribute__((always_inline)) {
        if constexpr (Half < L::width) simd::unroll<Half>([&](auto i) __attribute__((always_inline)) { a[i] += a[i + Half]; });
      };
      fold(std::integral_constant<int, 8>{}), fold(std::integral_constant<int, 4>{});
      fold(std::integral_constant<int, 2>{}), fold(std::integral_constant<int, 1>{});
      float* to = y + t * ldy + n;
      if (count - n >= L::width)
        a[0].store_unaligned(to);
      else
        simd::store_partial<Arch>(to, a[0], count - n);
    }
}

/// y [T, w.rows] = x W^T; `packed` is x [T, w.cols] as pack_x_lanes() packs its tiles, one behind the other.
template <class Arch, ElementView W>
void linear_lanes(const float* packed, Index rows, const W& w, float* y, Index ldy, const LanesMemory<Arch>& memory) {
  using L = Lanes<Arch>;
  const L lanes{w.cols};
  const Index x_stride = lanes.terms() * L::tile_rows, block_terms = W::Storage::k_block / L::width;
  for (Index n = 0; n < w.rows; n += L::panel) {
    const Index count = std::min(L::panel, w.rows - n);
    pack_weight_lanes<Arch>(w.slice(n, count), memory);
    for (Index t0 = 0; t0 < rows; t0 += L::block_rows) {
      const Index end = std::min(t0 + L::block_rows, rows);
      for (Index lane = 0; lane < L::width; ++lane)
        for (Index t = t0; t < end; t += L::tile_rows) {
          const float* x = packed + t * lanes.terms() * L::width + lane * x_stride;
          const float* from = memory.weights + lane * lanes.lane_stride();
          float* sums = memory.sums + (lane * L::block_rows + t - t0) * L::panel;
          if (end - t > L::tile_rows / 2)
            sum_lane<Arch, L::tile_rows>(x, from, memory.scales, lanes.terms(), block_terms, sums);
          else
            sum_lane<Arch, L::tile_rows / 2>(x, from, memory.scales, lanes.terms(), block_terms, sums);
        }
      add_lanes<Arch>(memory.sums, end - t0, count, y + t0 * ldy + n, ldy);
    }
  }
}

}  // namespace dsv3::inline DSV3_ISA::kernels::detail
