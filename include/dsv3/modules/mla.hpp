// Floor 4. Multi-head latent attention (eq. 1-11), absorbed and expanded.
//
// Absorbed: queries are carried into the latent space by W_UK and results out of it by W_UV, so that attention runs on the cache as it is.
// Expanded: keys and values of every head are computed from the cache first. Both give the same result up to rounding; absorbed is cheaper
// for few rows, expanded for many. W_UK and W_UV are rows of kv_b_proj and never stored a second time.
#pragma once

#include <array>
#include <limits>
#include <optional>

#include "dsv3/kernels/rope.hpp"
#include "dsv3/modules/latent_cache.hpp"
#include "dsv3/modules/linear.hpp"
#include "dsv3/modules/mla_attention.hpp"
#include "dsv3/modules/norm.hpp"

namespace dsv3::inline DSV3_ISA {

namespace mla {
/// Which of the two forms a call computes. `automatic`: absorbed for segments of at most 16 rows, else expanded; then a row's bits depend
/// on the size of its segment, as they do not under the other two.
enum class Form { absorbed, expanded, automatic };
inline constexpr Index automatic_rows = 16;
}  // namespace mla

/// Latent attention of a policy bundle P: H heads with N no-position and R rotary channels, values of V, query rank Q (or none), cache rank
/// C.
template <class P>
class Mla {
 public:
  using Cache = LatentCache<typename P::CacheFormat>;
  using Norm = typename P::template Norm<P>;

  explicit Mla(const Config& c)
      : heads_(c.num_attention_heads),
        nope_(c.qk_nope_head_dim),
        rope_dim_(c.qk_rope_head_dim),
        value_(c.v_head_dim),
        rank_(c.kv_lora_rank),
        rotation_({c.qk_rope_head_dim, c.rope_theta, c.rope_scaling}),
        scale_(static_cast<float>(P::RopeScaling::softmax_factor({c.qk_rope_head_dim, c.rope_theta, c.rope_scaling}) /
                                  std::sqrt(static_cast<double>(nope_ + rope_dim_)))),
        q_proj_(heads_ * (nope_ + rope_dim_), c.q_lora_rank.value_or(c.hidden_size)),
        kv_a_proj_(rank_ + rope_dim_, c.hidden_size),
        kv_a_norm_(rank_, c.inner_norm_eps),
        kv_b_proj_(heads_ * (nope_ + value_), rank_),
        o_proj_(c.hidden_size, heads_ * value_) {
    if (c.q_lora_rank) query_rank_.emplace(Linear<P>(*c.q_lora_rank, c.hidden_size), Norm(*c.q_lora_rank, c.inner_norm_eps));
  }

  /// Absorbed, so that a row's bits do not depend on its segment, unless the compute policy makes passes of many rows differ anyway.
  mla::Form form = in_tiles ? mla::Form::automatic : mla::Form::absorbed;

  /// x [T, D] -> y [T, D], y overwritten; writes the segments' rows of their caches.
  void forward(Context& ctx, ConstMatrixView<float> x, std::span<const Segment<Cache>> segments, MatrixView<float> y) const {
    auto scope = ctx.scratch();
    auto q = scope.matrix<float>(x.rows(), heads_ * (nope_ + rope_dim_));
    auto o = scope.matrix<float>(x.rows(), heads_ * value_);
    auto kv = scope.matrix<float>(x.rows(), rank_ + rope_dim_);
    project(ctx, x, q, kv);
    append_to_caches(ctx, kv, segments, q);
    const auto absorbed = [&](const Segment<Cache>& s) {
      return form == mla::Form::absorbed || (form == mla::Form::automatic && s.count <= mla::automatic_rows);
    };
    for (auto s = segments.begin(); s != segments.end();) {
      auto end = s + 1;
      if (absorbed(*s)) {
        while (end != segments.end() && absorbed(*end) && end->begin == (end - 1)->begin + (end - 1)->count) ++end;
        attend_absorbed(ctx, {s, end}, q, o);
      } else if (s->count > 0) {
        attend_expanded(ctx, x.rows(), *s, q.slice(s->begin, s->count), o.slice(s->begin, s->count));
      }
      s = end;
    }
    o_proj_.forward(ctx, o, y);
  }

  template <class Self, class Visit>
  static void for_each_tensor(Self& self, const std::string& prefix, Visit&& visit) {
    if (self.query_rank_) {
      Linear<P>::for_each_tensor(self.query_rank_->a_proj, prefix + "q_a_proj.", visit);
      Norm::for_each_tensor(self.query_rank_->a_norm, prefix + "q_a_layernorm.", visit);
    }
    Linear<P>::for_each_tensor(self.q_proj_, prefix + (self.query_rank_ ? "q_b_proj." : "q_proj."), visit);
    Linear<P>::for_each_tensor(self.kv_a_proj_, prefix + "kv_a_proj_with_mqa.", visit);
    Norm::for_each_tensor(self.kv_a_norm_, prefix + "kv_a_layernorm.", visit);
    Linear<P>::for_each_tensor(self.kv_b_proj_, prefix + "kv_b_proj.", visit);
    Linear<P>::for_each_tensor(self.o_proj_, prefix + "o_proj.", visit);
  }

 private:
  using View = typename P::Storage::View;
  using Arch = typename P::Arch;

  struct QueryRank {
    QueryRank(Linear<P> p, Norm n) : a_proj(std::move(p)), a_norm(std::move(n)) {}
    Linear<P> a_proj;
    Norm a_norm;
  };

  mla::Heads widths() const { return {heads_, nope_, rope_dim_, value_, rank_, scale_}; }
  View w_uk(Index h) const { return slice_rows(kv_b_proj_.weight(), h * (nope_ + value_), nope_); }
  View w_uv(Index h) const { return slice_rows(kv_b_proj_.weight(), h * (nope_ + value_) + nope_, value_); }

  // eq. 1, 6-9 without norm of the latents and rotation: kv [T, C + R], q [T, H (N + R)].
  void project(Context& ctx, ConstMatrixView<float> x, MatrixView<float> q, MatrixView<float> kv) const {
    using Job = typename Linear<P>::Job;
    auto scope = ctx.scratch();
    auto c_q = query_rank_ ? scope.matrix<float>(x.rows(), q_proj_.in_features()) : q;
    const std::array jobs{Job{query_rank_ ? &query_rank_->a_proj : &q_proj_, c_q}, Job{&kv_a_proj_, kv}};
    Linear<P>::forward_group(ctx, x, jobs);
    if (!query_rank_) return;
    query_rank_->a_norm.forward(ctx, c_q, c_q);
    q_proj_.forward(ctx, c_q, q);
  }

  // eq. 1-3: c_kv and rotated k_pe of every row into its cache; rotates the queries of the same row as well.
  void append_to_caches(Context& ctx, MatrixView<float> kv, std::span<const Segment<Cache>> segments, MatrixView<float> q) const {
    auto scope = ctx.scratch();
    kv_a_norm_.forward(ctx, kv.columns(0, rank_), kv.columns(0, rank_));
    auto angles = scope.matrix<float>(ctx.workers(), rope_dim_);
    for (const auto& s : segments) {
      s.cache->open(s.position, s.count);
      ctx.parallel_for(s.count, s.count * (heads_ * rope_dim_ + rank_) * 4, [&](Index i, int worker) {
        float* cos_sin = angles.row_data(worker);
        rotation_.angles(s.position + i, cos_sin);
        float* query = q.row_data(s.begin + i) + nope_;
        for (Index h = 0; h < heads_; ++h, query += nope_ + rope_dim_) rotation_.apply(query, cos_sin, query);
        float *c_kv = kv.row_data(s.begin + i), *k_pe = c_kv + rank_;
        rotation_.apply(k_pe, cos_sin, k_pe);
        s.cache->write(s.position + i, c_kv, k_pe);
      });
    }
  }

  // spec A11: q~_h = W_UK,h^T q_nope; o_h = W_UV,h (sum over tokens of p c_kv). The segments' rows follow one another, so that W_UK and
  // W_UV are read once for all of them.
  void attend_absorbed(Context& ctx, std::span<const Segment<Cache>> segments, MatrixView<float> q, MatrixView<float> o) const {
    auto scope = ctx.scratch();
    const Index begin = segments.front().begin, rows = segments.back().begin + segments.back().count - begin, head = nope_ + rope_dim_;
    auto latent_q = scope.matrix<float>(rows, heads_ * rank_);
    auto latent_o = scope.matrix<float>(rows, heads_ * rank_);
    const auto products = scope.array<kernels::Product<View>>(heads_);
    for (Index h = 0; h < heads_; ++h)
      std::construct_at(&products[static_cast<std::size_t>(h)],
                        kernels::Product<View>{q.slice(begin, rows).columns(h * head, nope_), w_uk(h), latent_q.columns(h * rank_, rank_)});
    kernels::grouped_linear_transposed<Arch, View>(ctx, products);

    mla::attend_latents<in_tiles, Arch>(ctx, widths(), segments, latent_q, q, latent_o);

    for (Index h = 0; h < heads_; ++h)
      std::construct_at(&products[static_cast<std::size_t>(h)], kernels::Product<View>{latent_o.columns(h * rank_, rank_), w_uv(h),
                                                                                       o.slice(begin, rows).columns(h * value_, value_)});
    kernels::grouped_linear<Arch, View>(ctx, products);
  }

  // eq. 4, 5: keys and values of a few heads at a time, so that scratch stays small however long the context is.
  void attend_expanded(Context& ctx, Index pass, const Segment<Cache>& s, MatrixView<float> q, MatrixView<float> o) const {
    auto scope = ctx.scratch();
    const Index tokens = s.position + s.count, width = nope_ + value_;
    const auto& weight = kv_b_proj_.weight();
    auto cached = scope.matrix<float>(tokens, rank_ + rope_dim_);
    ctx.parallel_for(tokens, cached.size(), [&](Index t, int) { s.cache->template read<Arch>(t, cached.row_data(t)); });
    const ConstMatrixView<float> latents = cached, k_pe = latents.columns(rank_, rope_dim_);
    const auto c_kv = P::Compute::prepare(ctx, scope, latents.columns(0, rank_), weight);
    const Index together = std::clamp(expanded_floats / (tokens * width), Index{1}, heads_);
    auto expanded = scope.matrix<float>(tokens, together * width);
    for (Index first = 0; first < heads_; first += together) {
      const Index count = std::min(together, heads_ - first);
      const kernels::Product<View> product{c_kv, slice_rows(weight, first * width, count * width), expanded.columns(0, count * width)};
      multiply<P>(ctx, pass, {&product, 1});
      mla::attend_expanded<in_tiles, Arch>(ctx, widths(), first, count, s.position, product.y, k_pe, q, o);
    }
  }

  static constexpr bool in_tiles = in_bf16<typename P::Compute>(std::numeric_limits<Index>::max());
  static constexpr Index expanded_floats = Index{1} << 23;  // 32 MiB of expanded keys and values at a time

  Index heads_, nope_, rope_dim_, value_, rank_;
  rope::Rotation<typename P::RopePairing, typename P::RopeScaling> rotation_;
  float scale_;
  std::optional<QueryRank> query_rank_;
  Linear<P> q_proj_;  // q_b_proj where there is a query rank
  Linear<P> kv_a_proj_;
  Norm kv_a_norm_;
  Linear<P> kv_b_proj_;
  Linear<P> o_proj_;
};

}  // namespace dsv3::inline DSV3_ISA
