// Floor 4. Grouped-query attention, the drop-in alternative to latent attention, with a cache of its own.
//
// Heads have qk_nope_head_dim + qk_rope_head_dim channels, of which the last qk_rope_head_dim are rotated, and values of v_head_dim, as in
// Mla; num_key_value_heads of them are stored, each shared by the same number of query heads.
#pragma once

#include <array>

#include "dsv3/kernels/attention.hpp"
#include "dsv3/kernels/rope.hpp"
#include "dsv3/modules/attention_concept.hpp"
#include "dsv3/modules/linear.hpp"

namespace dsv3::inline DSV3_ISA {

/// Keys [max_tokens, G * (N + R)] and values [max_tokens, G * V] of one layer of one sequence with G key-value heads.
struct KeyValueCache {
  KeyValueCache(const Config& c, Index max_tokens)
      : keys(max_tokens, c.num_key_value_heads * (c.qk_nope_head_dim + c.qk_rope_head_dim)),
        values(max_tokens, c.num_key_value_heads * c.v_head_dim) {}

  Index max_tokens() const { return keys.rows(); }

  Matrix<float> keys, values;
};

template <class P>
class Gqa {
 public:
  using Cache = KeyValueCache;
  using Variant = typename P::template AttentionVariant<P>;

  /// Throws: Error if num_attention_heads is not a multiple of num_key_value_heads.
  explicit Gqa(const typename P::Config& c, Index layer = 0)
      : heads_(c.num_attention_heads),
        key_heads_(c.num_key_value_heads),
        nope_(c.qk_nope_head_dim),
        head_(c.qk_nope_head_dim + c.qk_rope_head_dim),
        value_(c.v_head_dim),
        rotation_({c.qk_rope_head_dim, c.rope_theta, c.rope_scaling}),
        scale_(static_cast<float>(P::RopeScaling::softmax_factor({c.qk_rope_head_dim, c.rope_theta, c.rope_scaling}) /
                                  std::sqrt(static_cast<double>(head_)))),
        q_proj_(heads_ * head_, c.hidden_size),
        k_proj_(key_heads_ * head_, c.hidden_size),
        v_proj_(key_heads_ * value_, c.hidden_size),
        o_proj_(c.hidden_size, heads_ * value_),
        variant_(make_variant<Variant>(c, layer)) {
    require(key_heads_ > 0 && heads_ % key_heads_ == 0, "Gqa: num_attention_heads ", heads_, " is not a multiple of num_key_value_heads ",
            key_heads_);
  }

  /// x [T, D] -> y [T, D], y overwritten; the segments' keys and values are written to their caches. A segment without a cache attends to
  /// its own rows only.
  template <class T>
  void forward(Context& ctx, ConstMatrixView<float> x, const Rows<Cache, T>& rows, MatrixView<float> y) const {
    auto scope = ctx.scratch();
    auto q = scope.matrix<float>(x.rows(), heads_ * head_);
    auto k = scope.matrix<float>(x.rows(), key_heads_ * head_);
    auto v = scope.matrix<float>(x.rows(), key_heads_ * value_);
    auto o = scope.matrix<float>(x.rows(), heads_ * value_);
    auto lse = records<T, point::LogSumExp> ? scope.matrix<float>(x.rows(), heads_) : MatrixView<float>();
    auto angles = scope.matrix<float>(ctx.workers(), rotation_.dim());
    auto scratch = scope.matrix<float>(ctx.workers(), kernels::attend_scratch(value_));
    using Job = typename Linear<P>::Job;
    const std::array projections{Job{&q_proj_, q}, Job{&k_proj_, k}, Job{&v_proj_, v}};
    Linear<P>::forward_group(ctx, x, rows, projections);
    for (const auto& s : rows.segments) {
      ctx.parallel_for(s.count, s.count * (heads_ + key_heads_) * rotation_.dim() * 4, [&](Index i, int worker) {
        const Index t = s.begin + i;
        rotation_.angles(s.position + i, angles.row_data(worker));
        rotate_heads(q.row_data(t), heads_, angles.row_data(worker));
        rotate_heads(k.row_data(t), key_heads_, angles.row_data(worker));
        if (s.cache == nullptr) return;
        std::copy_n(k.row_data(t), k.cols(), view(s.cache->keys).row_data(s.position + i));
        std::copy_n(v.row_data(t), v.cols(), view(s.cache->values).row_data(s.position + i));
      });
      if (s.cache == nullptr)
        attend(ctx, s, k.slice(s.begin, s.count), v.slice(s.begin, s.count), 0, q, o, lse, scratch);
      else
        attend(ctx, s, view(s.cache->keys), view(s.cache->values), s.position, q, o, lse, scratch);
    }
    record(rows, point::Query{}, q);
    record(rows, point::Keys{}, k);
    record(rows, point::Values{}, v);
    record(rows, point::LogSumExp{}, lse);
    record(rows, point::HeadsOutput{}, o);
    o_proj_.forward(ctx, o, rows, y);
  }

  /// Numbers of query heads and of key-value heads; channels of a head that are not rotated (nope), in all (head), and of its values
  /// (value).
  struct Sizes {
    Index heads, key_heads, nope, head, value;
  };
  Sizes sizes() const { return {heads_, key_heads_, nope_, head_, value_}; }
  const auto& rotation() const { return rotation_; }
  float scale() const { return scale_; }
  const Linear<P>& q_proj() const { return q_proj_; }
  const Linear<P>& k_proj() const { return k_proj_; }
  const Linear<P>& v_proj() const { return v_proj_; }
  const Linear<AfterAttention<P>>& o_proj() const { return o_proj_; }

  template <class Self, class Visit>
  static void for_each_tensor(Self& self, const std::string& prefix, Visit&& visit) {
    Linear<P>::for_each_tensor(self.q_proj_, prefix + "q_proj.", visit);
    Linear<P>::for_each_tensor(self.k_proj_, prefix + "k_proj.", visit);
    Linear<P>::for_each_tensor(self.v_proj_, prefix + "v_proj.", visit);
    Linear<AfterAttention<P>>::for_each_tensor(self.o_proj_, prefix + "o_proj.", visit);
    if constexpr (HasTensors<Variant>) Variant::for_each_tensor(self.variant_, prefix, visit);
  }

 private:
  void rotate_heads(float* row, Index heads, const float* cos_sin) const {
    for (Index h = 0; h < heads; ++h) rotation_.apply(row + h * head_ + nope_, cos_sin, row + h * head_ + nope_);
  }

  // Each row attends to the `earlier` keys and to the segment's rows up to itself. A tile holds query heads of one token that share a key
  // head.
  void attend(Context& ctx, const Segment<Cache>& s, ConstMatrixView<float> keys, ConstMatrixView<float> values, Index earlier,
              ConstMatrixView<float> q, MatrixView<float> o, MatrixView<float> lse, MatrixView<float> scratch) const {
    const Index group = heads_ / key_heads_, tiles = (group + kernels::attention_tile - 1) / kernels::attention_tile,
                tokens = earlier + s.count;
    const Index work = s.count * heads_ * tokens * (head_ + value_);
    ctx.parallel_for(s.count * key_heads_ * tiles, work, [&](Index task, int worker) {
      const Index i = task / (key_heads_ * tiles), g = task / tiles % key_heads_, first = task % tiles * kernels::attention_tile;
      const Index rows = std::min(kernels::attention_tile, group - first), h = g * group + first, t = s.begin + i;
      const kernels::KeysValues kv{
          keys.slice(0, tokens).columns(g * head_, head_), {}, values.slice(0, tokens).columns(g * value_, value_)};
      kernels::attend<typename P::Arch>({{q.row_data(t) + h * head_, rows, head_}, {}, earlier + i + 1, 0, h, 1}, kv, scale_,
                                        {o.row_data(t) + h * value_, rows, value_}, scratch.row_data(worker), variant_,
                                        lse.rows() > 0 ? lse.row_data(t) + h : nullptr);
    });
  }

  Index heads_, key_heads_, nope_, head_, value_;
  rope::Rotation<typename P::RopePairing, typename P::RopeScaling> rotation_;
  float scale_;
  Linear<P> q_proj_, k_proj_, v_proj_;
  Linear<AfterAttention<P>> o_proj_;
  [[no_unique_address]] Variant variant_;
};

}  // namespace dsv3::inline DSV3_ISA
