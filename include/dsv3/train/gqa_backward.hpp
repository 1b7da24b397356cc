// Floor 6. Backward of grouped-query attention.
#pragma once

#include "dsv3/modules/gqa.hpp"
#include "dsv3/train/attention_backward.hpp"
#include "dsv3/train/linear_backward.hpp"

namespace dsv3::inline DSV3_ISA::train {

/// x [T, D] is the attention's input; dy [T, D] -> dx [T, D], overwritten. A key head's gradient is the sum over the query heads that share
/// it.
template <class P, class B>
void backward(const B& b, const Gqa<P>& gqa, ConstMatrixView<float> x, ConstMatrixView<float> dy, MatrixView<float> dx) {
  static_assert(std::is_same_v<typename P::template AttentionVariant<P>, attention::Full>,
                "dsv3: attention with P::AttentionVariant does not train: backward is written for attention::Full");
  using Arch = typename P::Arch;
  const auto [heads, key_heads, nope, head, value] = gqa.sizes();
  const LayerRecord& kept = b.kept;
  require(kept.query.size() > 0, "train: grouped-query attention needs its queries kept: train::keep::everything or train::keep::blocks");
  const Index rows = x.rows(), group = heads / key_heads;
  Context& ctx = b.ctx;
  auto scope = ctx.scratch();
  auto d_o = scope.template matrix<float>(rows, heads * value), dq = scope.template matrix<float>(rows, heads * head);
  auto dk_each = scope.template matrix<float>(rows, heads * head), dv_each = scope.template matrix<float>(rows, heads * value);
  auto dk = scope.template matrix<float>(rows, key_heads * head), dv = scope.template matrix<float>(rows, key_heads * value);
  backward(b, gqa.o_proj(), view(kept.heads), dy, d_o);

  const auto jobs = scope.template array<AttentionGradient>(std::ssize(b.rows.segments) * heads);
  std::size_t n = 0;
  for (const auto& s : b.rows.segments)
    for (Index h = 0; h < heads; ++h) {
      const auto part = [&, begin = s.begin, count = s.count](const auto& m, Index i, Index width) {
        return m.slice(begin, count).columns(i * width, width);
      };
      const ConstMatrixView<float> q = view(kept.query), k = view(kept.keys), v = view(kept.values), o = view(kept.heads);
      std::construct_at(&jobs[n++], AttentionGradient{part(q, h, head),
                                                      part(k, h / group, head),
                                                      {},
                                                      part(v, h / group, value),
                                                      part(o, h, value),
                                                      part(d_o, h, value),
                                                      view(kept.log_sum_exp).row_data(s.begin) + h,
                                                      heads,
                                                      part(dq, h, head),
                                                      part(dk_each, h, head),
                                                      {},
                                                      part(dv_each, h, value)});
    }
  attention_backward<Arch>(ctx, jobs, gqa.scale());
  for (Index h = 0; h < heads; ++h) {
    auto key = dk.columns(h / group * head, head);
    auto values = dv.columns(h / group * value, value);
    if (h % group == 0) {
      key = dk_each.columns(h * head, head);
      values = dv_each.columns(h * value, value);
    } else {
      kernels::add<Arch>(ctx, dk_each.columns(h * head, head), key);
      kernels::add<Arch>(ctx, dv_each.columns(h * value, value), values);
    }
  }
  for (const auto& s : b.rows.segments) {
    rotate_back(ctx, gqa.rotation(), s.position, dq.slice(s.begin, s.count).columns(nope, dq.cols() - nope), heads, head);
    rotate_back(ctx, gqa.rotation(), s.position, dk.slice(s.begin, s.count).columns(nope, dk.cols() - nope), key_heads, head);
  }
  backward(b, gqa.q_proj(), x, dq, dx);
  input_gradient(b, gqa.k_proj(), dk, dx, true);
  weight_gradient(b, gqa.k_proj(), x, dk);
  input_gradient(b, gqa.v_proj(), dv, dx, true);
  weight_gradient(b, gqa.v_proj(), x, dv);
}

}  // namespace dsv3::inline DSV3_ISA::train
