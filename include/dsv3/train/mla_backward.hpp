// Floor 6. Backward of multi-head latent attention (eq. 1-11, spec T19).
#pragma once

#include "dsv3/modules/mla.hpp"
#include "dsv3/train/attention_backward.hpp"
#include "dsv3/train/linear_backward.hpp"

namespace dsv3::inline DSV3_ISA::train {

/// x [T, D] is the attention's input; dy [T, D] -> dx [T, D], overwritten.
template <class P, class B>
void backward(const B& b, const Mla<P>& mla, ConstMatrixView<float> x, ConstMatrixView<float> dy, MatrixView<float> dx) {
  static_assert(std::is_same_v<typename P::template AttentionVariant<P>, attention::Full>,
                "dsv3: attention with P::AttentionVariant does not train: backward is written for attention::Full");
  using Arch = typename P::Arch;
  const mla::Weights<P>& w = mla.weights();
  const mla::Heads& heads = w.heads;
  const LayerRecord& kept = b.kept;
  const Index rows = x.rows(), rank = heads.rank, rope = heads.rope, width = heads.nope + heads.value, query = heads.query();
  Context& ctx = b.ctx;
  auto scope = ctx.scratch();

  // Recompute what was not kept.
  ConstMatrixView<float> latent = view(kept.latent), cached = view(kept.cached), q = view(kept.query), c_q = x;
  const Index query_rank = w.query_rank ? w.q_proj.in_features() : 0;
  if (w.query_rank) {
    auto normed = scope.template matrix<float>(rows, query_rank);
    w.query_rank->a_norm.forward(ctx, view(kept.query_latent), normed);
    std::construct_at(&c_q, normed);
  }
  if (kept.cached.size() == 0 || kept.query.size() == 0) {
    auto new_q = scope.template matrix<float>(rows, heads.count * query);
    auto new_kv = scope.template matrix<float>(rows, rank + rope);
    new_kv = latent;
    if (kept.query.size() == 0)
      w.q_proj.forward(ctx, c_q, b.rows, new_q);
    else
      new_q.setZero();
    const Rows<typename Mla<P>::Cache> quiet{b.rows, b.rows.ids, b.rows.positions, b.rows.segments, nullptr};
    mla::append(ctx, w, quiet, new_q, new_kv);
    std::construct_at(&cached, new_kv);
    if (kept.query.size() == 0) std::construct_at(&q, new_q);
  }

  // o_proj
  auto d_o = scope.template matrix<float>(rows, heads.count * heads.value);
  backward(b, w.o_proj, view(kept.heads), dy, d_o);

  // Attention over expanded keys and values. Each head gives its own gradient of k_pe; these are summed in the order of heads.
  auto dq = scope.template matrix<float>(rows, heads.count * query);
  auto d_kv = scope.template matrix<float>(rows, rank + rope);
  {
    auto inner = ctx.scratch();
    auto expanded = inner.template matrix<float>(rows, heads.count * width);
    auto d_expanded = inner.template matrix<float>(rows, heads.count * width);
    auto d_rope = inner.template matrix<float>(rows, heads.count * rope);
    w.kv_b_proj.forward(ctx, cached.columns(0, rank), b.rows, expanded);
    const auto jobs = inner.template array<AttentionGradient>(std::ssize(b.rows.segments) * heads.count);
    std::size_t n = 0;
    for (const auto& s : b.rows.segments)
      for (Index h = 0; h < heads.count; ++h) {
        const auto part = [&](const auto& m, Index begin, Index cols) { return m.slice(s.begin, s.count).columns(begin, cols); };
        std::construct_at(&jobs[n++],
                          AttentionGradient{part(q, h * query, query), part(expanded, h * width, heads.nope), part(cached, rank, rope),
                                            part(expanded, h * width + heads.nope, heads.value),
                                            part(ConstMatrixView<float>(view(kept.heads)), h * heads.value, heads.value),
                                            part(d_o, h * heads.value, heads.value), view(kept.log_sum_exp).row_data(s.begin) + h,
                                            heads.count, part(dq, h * query, query), part(d_expanded, h * width, heads.nope),
                                            part(d_rope, h * rope, rope), part(d_expanded, h * width + heads.nope, heads.value)});
      }
    attention_backward<Arch>(ctx, jobs, heads.scale);
    auto d_pe = d_kv.columns(rank, rope);
    d_pe = d_rope.columns(0, rope);
    for (Index h = 1; h < heads.count; ++h) kernels::add<Arch>(ctx, d_rope.columns(h * rope, rope), d_pe);
    for (const auto& s : b.rows.segments) {
      rotate_back(ctx, w.rotation, s.position, d_pe.slice(s.begin, s.count), 1, 0);
      rotate_back(ctx, w.rotation, s.position, dq.slice(s.begin, s.count).columns(heads.nope, dq.cols() - heads.nope), heads.count, query);
    }
    backward(b, w.kv_b_proj, cached.columns(0, rank), d_expanded, d_kv.columns(0, rank));
  }
  record(b.rows, point::Query{}, dq);
  backward(b, w.kv_a_norm, latent.columns(0, rank), d_kv.columns(0, rank), d_kv.columns(0, rank));
  record(b.rows, point::Latent{}, d_kv);

  // The projections of x.
  if (w.query_rank) {
    auto d_c_q = scope.template matrix<float>(rows, query_rank);
    backward(b, w.q_proj, c_q, dq, d_c_q);
    backward(b, w.query_rank->a_norm, view(kept.query_latent), d_c_q, d_c_q);
    backward(b, w.query_rank->a_proj, x, d_c_q, dx);
  } else {
    backward(b, w.q_proj, x, dq, dx);
  }
  input_gradient(b, w.kv_a_proj, d_kv, dx, true);
  weight_gradient(b, w.kv_a_proj, x, d_kv);
}

}  // namespace dsv3::inline DSV3_ISA::train
