// Floor 4. The stages of multi-head latent attention (eq. 1-11) as functions of its weights: project, append, attend (absorbed or
// expanded). Mla calls them in order; backward, sparse attention and ranks with some of the heads call the stages that they need.
#pragma once

#include <array>
#include <limits>

#include "dsv3/modules/latent_cache.hpp"
#include "dsv3/modules/mla_weights.hpp"

namespace dsv3::inline DSV3_ISA::mla {

/// Whether attention of the bundle P runs in bf16 tiles, if the build has them.
template <class P>
inline constexpr bool in_tiles = in_bf16<typename P::Compute>(std::numeric_limits<Index>::max());

/// eq. 1 and 6-9, without the norm of the latents and without rotation: x [T, D] -> q [T, H (N + R)], kv [T, C + R].
template <class P, class Cache, class T>
void project(Context& ctx, const Weights<P>& w, ConstMatrixView<float> x, const Rows<Cache, T>& rows, MatrixView<float> q,
             MatrixView<float> kv) {
  using Job = typename Linear<P>::Job;
  auto scope = ctx.scratch();
  auto c_q = w.query_rank ? scope.matrix<float>(x.rows(), w.q_proj.in_features()) : q;
  const std::array jobs{Job{w.query_rank ? &w.query_rank->a_proj : &w.q_proj, c_q}, Job{&w.kv_a_proj, kv}};
  Linear<P>::forward_group(ctx, x, rows, jobs);
  record(rows, point::Latent{}, kv);
  if (!w.query_rank) return;
  record(rows, point::QueryLatent{}, c_q);
  w.query_rank->a_norm.forward(ctx, c_q, c_q);
  w.q_proj.forward(ctx, c_q, rows, q);
}

/// eq. 1-3: normalises c_kv and rotates k_pe and the queries of every row, in place, and writes c_kv and k_pe to the segment's cache, if it
/// has one: kv [T, C + R], q [T, H (N + R)].
template <class P, class Cache, class T>
void append(Context& ctx, const Weights<P>& w, const Rows<Cache, T>& rows, MatrixView<float> q, MatrixView<float> kv) {
  const Heads& heads = w.heads;
  auto scope = ctx.scratch();
  w.kv_a_norm.forward(ctx, kv.columns(0, heads.rank), kv.columns(0, heads.rank));
  auto angles = scope.matrix<float>(ctx.workers(), heads.rope);
  const auto owner = scope.array<const Segment<Cache>*>(kv.rows());
  for (const auto& s : rows.segments) {
    if (s.cache != nullptr) s.cache->open(s.position, s.count);
    std::fill_n(owner.begin() + s.begin, s.count, &s);
  }
  ctx.parallel_for(kv.rows(), kv.rows() * (heads.count * heads.rope + heads.rank) * 4, [&](Index t, int worker) {
    const Segment<Cache>* s = owner[static_cast<std::size_t>(t)];
    if (s == nullptr) return;
    const Index position = s->position + t - s->begin;
    float* cos_sin = angles.row_data(worker);
    w.rotation.angles(position, cos_sin);
    float* query = q.row_data(t) + heads.nope;
    for (Index h = 0; h < heads.count; ++h, query += heads.query()) w.rotation.apply(query, cos_sin, query);
    float *c_kv = kv.row_data(t), *k_pe = c_kv + heads.rank;
    w.rotation.apply(k_pe, cos_sin, k_pe);
    if (s->cache != nullptr) s->cache->write(position, c_kv, k_pe);
  });
  record(rows, point::Query{}, q);
  record(rows, point::CachedLatent{}, kv);
}

/// Absorbed attention (spec A11) of segments with caches and contiguous rows: q~_h = W_UK,h^T q_nope; o_h = W_UV,h (sum over tokens of p
/// c_kv). q [T, H (N + R)] -> the segments' rows of o [T, H V]. W_UK and W_UV are read once for all segments.
template <class P, class Cache>
void attend_absorbed(Context& ctx, const Weights<P>& w, std::span<const Segment<Cache>> segments, MatrixView<float> q,
                     MatrixView<float> o) {
  using Arch = typename P::Arch;
  using View = typename P::Storage::View;
  const auto [count, nope, rope, value, rank, scale] = w.heads;
  auto scope = ctx.scratch();
  const Index begin = segments.front().begin, rows = segments.back().begin + segments.back().count - begin, head = w.heads.query();
  auto latent_q = scope.template matrix<float>(rows, count * rank);
  auto latent_o = scope.template matrix<float>(rows, count * rank);
  const auto products = scope.template array<kernels::Product<View>>(count);
  for (Index h = 0; h < count; ++h)
    std::construct_at(&products[static_cast<std::size_t>(h)],
                      kernels::Product<View>{q.slice(begin, rows).columns(h * head, nope), w.w_uk(h), latent_q.columns(h * rank, rank)});
  kernels::grouped_linear_transposed<Arch, View>(ctx, products);

  attend_latents<in_tiles<P>, Arch>(ctx, w.heads, segments, latent_q, q, latent_o, w.variant);

  for (Index h = 0; h < count; ++h)
    std::construct_at(&products[static_cast<std::size_t>(h)],
                      kernels::Product<View>{latent_o.columns(h * rank, rank), w.w_uv(h), o.slice(begin, rows).columns(h * value, value)});
  kernels::grouped_linear<Arch, View>(ctx, products);
}

/// Expanded attention (eq. 4, 5, 10) of some texts: q [T, H (N + R)], o [T, H V], latents [S, C + R] of all tokens that they see. `lse`
/// [T, H], if it has rows, receives the log-sum-exp of each row and head. Expands a few heads at a time, so that scratch memory stays small
/// for long contexts.
template <class P>
void attend_expanded(Context& ctx, const Weights<P>& w, const Pass& pass, std::span<const Text> texts, ConstMatrixView<float> latents,
                     MatrixView<float> q, MatrixView<float> o, MatrixView<float> lse = {}) {
  constexpr Index expanded_floats = Index{1} << 23;  // 32 MiB of expanded keys and values at a time
  using View = typename P::Storage::View;
  const Heads& heads = w.heads;
  auto scope = ctx.scratch();
  const Index tokens = latents.rows(), width = heads.nope + heads.value;
  const View& weight = w.kv_b_proj.weight();
  const ConstMatrixView<float> k_pe = latents.columns(heads.rank, heads.rope);
  const auto c_kv = P::Compute::prepare(ctx, scope, latents.columns(0, heads.rank), weight);
  const Index head_batch = std::clamp(expanded_floats / (tokens * width), Index{1}, heads.count);
  auto expanded = scope.template matrix<float>(tokens, head_batch * width);
  for (Index first = 0; first < heads.count; first += head_batch) {
    const Index count = std::min(head_batch, heads.count - first);
    const kernels::Product<View> product{c_kv, slice_rows(weight, first * width, count * width), expanded.columns(0, count * width)};
    multiply<P>(ctx, pass, pass.rows, {&product, 1});
    attend_expanded<in_tiles<P>, typename P::Arch>(ctx, heads, first, count, texts, product.y, k_pe, q, o, w.variant, lse);
  }
}

/// The tokens [0, tokens) of a cache as floats [tokens, C + R].
template <class Arch, class Cache>
void read_latents(Context& ctx, const Cache& cache, MatrixView<float> latents) {
  ctx.parallel_for(latents.rows(), latents.size(), [&](Index t, int) { cache.template read<Arch>(t, latents.row_data(t)); });
}

}  // namespace dsv3::inline DSV3_ISA::mla
