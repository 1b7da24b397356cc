// Floor 6. Backward of causal attention from its log-sum-exp: the T x T matrix of probabilities is never stored.
//
// With s = scale q k, p = exp(s - lse), o = p v (eq. 10):  dv = p^T do;  dp = do v^T;  ds = p (dp - do o) scale;  dq = ds k;  dk = ds^T q.
// Each head is computed in tiles, a block of keys by a block of queries. dq is summed over keys in order, dk and dv over queries in order.
#pragma once

#include "dsv3/simd/math.hpp"
#include "dsv3/train/multiply_add_float32.hpp"

namespace dsv3::inline DSV3_ISA::train {

/// One head of one sequence of n rows. Row i sees keys 0..i.
struct AttentionGradient {
  ConstMatrixView<float> q;        ///< [n, N + R], rotary channels last
  ConstMatrixView<float> k, k_pe;  ///< [n, N] and [n, R], R may be 0
  ConstMatrixView<float> v;        ///< [n, V]
  ConstMatrixView<float> o, d_o;   ///< [n, V]: the result, and its gradient
  const float* lse = nullptr;      ///< of row i at lse[i * lse_stride]
  Index lse_stride = 1;
  MatrixView<float> dq, dk, dk_pe, dv;  ///< overwritten
};

namespace detail {

inline constexpr Index gradient_block = 64;  // queries and keys of a block

template <class Arch>
void attention_backward(const AttentionGradient& g, float scale, float* scratch) {
  using Floats = simd::Floats<Arch>;
  constexpr Index block = gradient_block;
  const Index n = g.q.rows(), head = g.q.cols(), nope = g.k.cols(), value = g.v.cols();
  const auto take = [&](Index rows, Index cols) {
    const MatrixView<float> m(scratch, rows, cols);
    scratch += rows * cols;
    return m;
  };
  float* products = take(1, multiply_add_scratch<Arch>).data();  // first, because it is aligned
  const auto p = take(block, block), ds = take(block, block), k_t = take(head, block), v_t = take(value, block), k = take(block, head),
             dk = take(block, head), dv = take(block, value), delta = take(1, n);
  for (Index i = 0; i < n; ++i) {
    const float *a = g.d_o.row_data(i), *b = g.o.row_data(i);
    float sum = 0;
    for (Index c = 0; c < value; ++c) sum = std::fma(a[c], b[c], sum);
    delta.row_data(0)[i] = sum;
    std::fill_n(g.dq.row_data(i), head, 0.0f);
  }
  for (Index k0 = 0; k0 < n; k0 += block) {
    const Index keys = std::min(block, n - k0);
    for (Index j = 0; j < block; ++j) {  // zero-pad the last block, so that tiles are whole
      float* row = k.row_data(j);
      if (j < keys) {
        std::copy_n(g.k.row_data(k0 + j), nope, row);
        if (head > nope) std::copy_n(g.k_pe.row_data(k0 + j), head - nope, row + nope);
      } else {
        std::fill_n(row, head, 0.0f);
      }
      for (Index c = 0; c < head; ++c) k_t.row_data(c)[j] = row[c];
      for (Index c = 0; c < value; ++c) v_t.row_data(c)[j] = j < keys ? g.v.row_data(k0 + j)[c] : 0.0f;
    }
    for (Index q0 = k0; q0 < n; q0 += block) {
      const Index rows = std::min(block, n - q0);
      const auto q = g.q.slice(q0, rows), d_o = g.d_o.slice(q0, rows);
      const auto s = p.slice(0, rows), d = ds.slice(0, rows);
      multiply_add<Arch>({as_is(q), k_t, s, true}, products);
      multiply_add<Arch>({as_is(d_o), v_t, d, true}, products);
      for (Index i = 0; i < rows; ++i) {
        const Index seen = std::min(q0 + i - k0 + 1, keys);  // keys of this block that the row sees
        float *si = s.row_data(i), *di = d.row_data(i);
        const Floats shift(g.lse[(q0 + i) * g.lse_stride]), row_delta(delta.row_data(0)[q0 + i]), factor(scale);
        Index j = 0;
        for (; j < seen; j += simd::width<Arch>) {
          const Floats weight = xsimd::exp(simd::load<Arch>(si + j) * factor - shift);
          ((simd::load<Arch>(di + j) - row_delta) * weight * factor).store_unaligned(di + j);
          weight.store_unaligned(si + j);
        }
        std::fill(si + seen, si + block, 0.0f);
        std::fill(di + seen, di + block, 0.0f);
      }
      multiply_add<Arch>({as_is(d), k, g.dq.slice(q0, rows), false}, products);
      multiply_add<Arch>({transposed(d), q, dk, q0 == k0}, products);
      multiply_add<Arch>({transposed(s), d_o, dv, q0 == k0}, products);
    }
    for (Index j = 0; j < keys; ++j) {
      std::copy_n(dk.row_data(j), nope, g.dk.row_data(k0 + j));
      if (head > nope) std::copy_n(dk.row_data(j) + nope, head - nope, g.dk_pe.row_data(k0 + j));
      std::copy_n(dv.row_data(j), value, g.dv.row_data(k0 + j));
    }
  }
}

}  // namespace detail

/// Backward of every head in `heads`, one task each. About n^2 (3 (N + R) + 2 V) FLOP each.
template <class Arch = simd::DefaultArch>
void attention_backward(Context& ctx, std::span<const AttentionGradient> heads, float scale) {
  constexpr Index block = detail::gradient_block;
  Index floats = 0, work = 0;
  for (const auto& g : heads) {
    const Index head = g.q.cols(), value = g.v.cols(), n = g.q.rows();
    floats = std::max(floats, block * (2 * block + 3 * head + 2 * value) + n + multiply_add_scratch<Arch>);
    work += n * n * (3 * head + 2 * value) / 2;
  }
  auto scope = ctx.scratch();
  constexpr Index line = 16;  // floats of a cache line
  auto scratch = scope.matrix<float>(ctx.workers(), (floats + line - 1) / line * line);
  ctx.parallel_for(std::ssize(heads), work, [&](Index i, int worker) {
    detail::attention_backward<Arch>(heads[static_cast<std::size_t>(i)], scale, scratch.row_data(worker));
  });
}

}  // namespace dsv3::inline DSV3_ISA::train
