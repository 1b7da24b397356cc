// Floor 3. The tile functions of all matrix products: a few rows of x times a few rows (or columns) of a stored W, in float32.
//
// These functions read storages row by row (quant/storage.hpp). Every output element results from the same operations in the same order
// whatever the tile's size, so a row's result does not depend on the rows beside it. kernels/linear.hpp chooses tiles; bf16 tiles are in
// kernels/bf16_tile.hpp.
#pragma once

#include <algorithm>

#include "dsv3/quant/storage.hpp"

namespace dsv3::inline DSV3_ISA::kernels {

/// Prefetch distance while rows stream from memory: so many bytes ahead in the row, or into the next one.
inline constexpr Index prefetch_bytes = 2048;

/// Rows of W in a tile with M rows of x: as many as registers hold sums for, beside the decoded codes.
template <class Arch, int M>
inline constexpr int tile_n = M >= 3 && simd::registers<Arch> == 16 ? 2 : 4;

/// Copies x [K] to `out` in the order in which linear_tile decodes rows of W [N, K].
template <class Arch, ElementView W>
void arrange_row(const float* x, Index cols, float* out) {
  using Group = group_of<W, Arch>;
  constexpr Index block = W::Storage::k_block, group = Group::vectors * simd::width<Arch>;
  for (Index k0 = 0; k0 < cols; k0 += block) {
    const Index end = std::min(k0 + block, cols);
    Index k = k0;
    for (; k + group <= end; k += group) Group::arrange(x + k, out + k);
    std::copy(x + k, x + end, out + k);
  }
}

/// y[m, n * apart] = sum_k x[m, k] W[first + n * apart, k] for an M x N tile; ldx and ldy are the row strides of x and y. If W's decode
/// group reorders values, x must come from arrange_row(). Codes `ahead` elements after those in use are prefetched, unless it is 0. Each
/// block of k_block products is summed in one vector. That vector times the block's scale is added to a second one, whose lanes are summed
/// at the end.
template <class Arch, int M, int N, ElementView W>
void linear_tile(const float* x, Index ldx, const W& w, Index first, Index row_distance, float* y, Index ldy, Index ahead = 0) {
  using Floats = simd::Floats<Arch>;
  using S = typename W::Storage;
  using Group = group_of<W, Arch>;
  constexpr Index step = simd::width<Arch>;
  Floats total[M][N];  // plain arrays, indexed by constants: they live in registers
  simd::unroll<M>([&](auto m) __attribute__((always_inline)) {
    simd::unroll<N>([&](auto n) __attribute__((always_inline)) { total[m][n] = Floats(0.0f); });
  });
  row_of_t<W> rows[N];
  simd::unroll<N>([&](auto n) __attribute__((always_inline)) { rows[n] = row_of(w, first + n * row_distance); });

  for (Index k0 = 0; k0 < w.cols; k0 += S::k_block) {
    const Index end = std::min(k0 + S::k_block, w.cols);
    Floats part[M][N];
    simd::unroll<M>([&](auto m) __attribute__((always_inline)) {
      simd::unroll<N>([&](auto n) __attribute__((always_inline)) { part[m][n] = Floats(0.0f); });
    });
    Index k = k0;
    if constexpr (Group::vectors > 1) {
      for (; k + Group::vectors * step <= end; k += Group::vectors * step)
        simd::unroll<N>([&](auto n) __attribute__((always_inline)) {
          if (ahead != 0) rows[n].prefetch(k, ahead);
          const auto wk = rows[n].template load_group_for_sum<Arch>(k);
          simd::unroll<Group::vectors>([&](auto v) __attribute__((always_inline)) {
            simd::unroll<M>([&](auto m) __attribute__((always_inline)) {
              part[m][n] = simd::fma<Arch>(simd::load<Arch>(x + m * ldx + k + v * step), wk[static_cast<std::size_t>(v())], part[m][n]);
            });
          });
        });
    }
    const Floats inverse_decode_scale(1 / Group::decode_scale);
    const auto one_vector = [&](Index at) __attribute__((always_inline)) {
      Floats wk[N];
      simd::unroll<N>([&](auto n) __attribute__((always_inline)) {
        if (ahead != 0) rows[n].prefetch(at, ahead);
        wk[n] = rows[n].template load<Arch>(at);
        if constexpr (Group::decode_scale != 1) wk[n] *= inverse_decode_scale;
        if constexpr (M > 1) wk[n] = simd::in_register<Arch>(wk[n]);
      });
      simd::unroll<M>([&](auto m) __attribute__((always_inline)) {
        const Floats xk = simd::load<Arch>(x + m * ldx + at);
        simd::unroll<N>([&](auto n) __attribute__((always_inline)) { part[m][n] = simd::fma<Arch>(xk, wk[n], part[m][n]); });
      });
    };
    if constexpr (Group::vectors == 1 && S::k_block % step == 0 && S::k_block <= 8 * step)
      if (end - k0 == S::k_block) {
        simd::unroll<S::k_block / step>([&](auto i) __attribute__((always_inline)) { one_vector(k0 + i * step); });
        k = end;
      }
    for (; k + step <= end; k += step) one_vector(k);
    if (k < end) {
      simd::unroll<N>([&](auto n) __attribute__((always_inline)) {
        Floats wk = load_partial<Arch>(rows[n], k, end - k);
        if constexpr (Group::decode_scale != 1) wk *= inverse_decode_scale;
        simd::unroll<M>([&](auto m) __attribute__((always_inline)) {
          part[m][n] = simd::fma<Arch>(simd::load_partial<Arch>(x + m * ldx + k, end - k), wk, part[m][n]);
        });
      });
    }
    simd::unroll<N>([&](auto n) __attribute__((always_inline)) {
      const Floats scale(w.scale(first + n * row_distance, k0) * Group::decode_scale);
      simd::unroll<M>([&](auto m) __attribute__((always_inline)) {
        if constexpr (S::scaled || Group::decode_scale != 1)
          total[m][n] = simd::fma<Arch>(part[m][n], scale, total[m][n]);
        else
          total[m][n] += part[m][n];
      });
    });
  }
  if constexpr (M * N == 16) {
    std::array<float, 16> sums;
    simd::sum_16<Arch>(total[0], sums.data());
    for (Index m = 0; m < M; ++m)
      for (Index n = 0; n < N; ++n) y[m * ldy + n * row_distance] = sums[static_cast<std::size_t>(m * N + n)];
  } else {
    simd::unroll<M>([&](auto m) __attribute__((always_inline)) {
      simd::unroll<N>([&](auto n) __attribute__((always_inline)) { y[m * ldy + n * row_distance] = simd::sum<Arch>(total[m][n]); });
    });
  }
}

/// `Vectors` vectors of a row from column k on, of which the last has `cut` valid elements. Values are divided by the group's decode_scale.
template <class Arch, int Vectors, class Group, ValueRow R>
[[gnu::always_inline]] inline std::array<simd::Floats<Arch>, Vectors> load_vectors(const R& row, Index k, Index cut) {
  constexpr Index step = simd::width<Arch>;
  if constexpr (Vectors == Group::vectors && Group::vectors > 1)
    if (cut == step) return row.template load_group<Arch>(k);
  std::array<simd::Floats<Arch>, Vectors> out;
  simd::unroll<Vectors>([&](auto v) __attribute__((always_inline)) {
    auto& values = out[static_cast<std::size_t>(v())];
    values = v < Vectors - 1 || cut == step ? row.template load<Arch>(k + v * step) : load_partial<Arch>(row, k + v * step, cut);
    if constexpr (Group::decode_scale != 1) values *= simd::Floats<Arch>(1 / Group::decode_scale);
  });
  return out;
}

/// part[m, k] += sum over n in [begin, end) of x[m, n] times the unscaled value of W[n, k], for M rows and `Vectors` vectors of columns
/// from `column` on; the last vector may be a tail that w.cols cuts. ldx and ldp are the row strides of x and part. Values are divided by
/// the group's decode_scale. The same columns `ahead` rows later are prefetched, unless it is 0.
template <class Arch, int M, int Vectors, ElementView W>
void linear_transposed_tile(const float* x, Index ldx, const W& w, Index begin, Index end, Index column, float* part, Index ldp,
                            Index ahead) {
  using Floats = simd::Floats<Arch>;
  constexpr Index step = simd::width<Arch>;
  const Index cut = std::min(w.cols - column, step * Vectors) - step * (Vectors - 1);  // columns in the last vector
  Floats sum[M][Vectors];
  simd::unroll<M>([&](auto m) __attribute__((always_inline)) {
    simd::unroll<Vectors>([&](auto v) __attribute__((always_inline)) { sum[m][v] = simd::load<Arch>(part + m * ldp + v * step); });
  });
  for (Index n = begin; n < end; ++n) {
    if (ahead != 0) row_of(w, n + ahead).prefetch(column, 0);
    const auto wn = load_vectors<Arch, Vectors, group_of<W, Arch>>(row_of(w, n), column, cut);
    simd::unroll<M>([&](auto m) __attribute__((always_inline)) {
      const Floats xn(x[m * ldx + n]);
      simd::unroll<Vectors>([&](auto v) __attribute__((always_inline)) {
        sum[m][v] = simd::fma<Arch>(xn, wn[static_cast<std::size_t>(v())], sum[m][v]);
      });
    });
  }
  simd::unroll<M>([&](auto m) __attribute__((always_inline)) {
    simd::unroll<Vectors>([&](auto v) __attribute__((always_inline)) { sum[m][v].store_unaligned(part + m * ldp + v * step); });
  });
}

}  // namespace dsv3::inline DSV3_ISA::kernels
