// Floor 4. Grouped-query attention, the drop-in alternative to latent attention, with a cache of its own.
//
// Heads have qk_nope_head_dim + qk_rope_head_dim channels, of which the last qk_rope_head_dim are rotated, and values of v_head_dim, as in
// Mla; num_key_value_heads of them are stored, each shared by the same number of query heads.
#pragma once

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

  /// Throws: Error if num_attention_heads is not a multiple of num_key_value_heads.
  explicit Gqa(const Config& c)
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
        o_proj_(c.hidden_size, heads_ * value_) {
    require(key_heads_ > 0 && heads_ % key_heads_ == 0, "Gqa: num_attention_heads ", heads_, " is not a multiple of num_key_value_heads ",
            key_heads_);
  }

  /// x [T, D] -> y [T, D], y overwritten; writes the segments' rows of their caches.
  void forward(Context& ctx, ConstMatrixView<float> x, const auto& rows, MatrixView<float> y) const {
    auto scope = ctx.scratch();
    auto q = scope.matrix<float>(x.rows(), heads_ * head_);
    auto o = scope.matrix<float>(x.rows(), heads_ * value_);
    auto angles = scope.matrix<float>(ctx.workers(), rotation_.dim());
    auto scratch = scope.matrix<float>(ctx.workers(), kernels::attend_scratch(value_));
    q_proj_.forward(ctx, x, rows, q);
    for (const auto& s : rows.segments) {
      auto keys = view(s.cache->keys).slice(s.position, s.count), values = view(s.cache->values).slice(s.position, s.count);
      k_proj_.forward(ctx, x.slice(s.begin, s.count), rows, keys);
      v_proj_.forward(ctx, x.slice(s.begin, s.count), rows, values);
      ctx.parallel_for(s.count, s.count * (heads_ + key_heads_) * rotation_.dim() * 4, [&](Index i, int worker) {
        rotation_.angles(s.position + i, angles.row_data(worker));
        rotate_heads(q.row_data(s.begin + i), heads_, angles.row_data(worker));
        rotate_heads(keys.row_data(i), key_heads_, angles.row_data(worker));
      });
      attend(ctx, s, q, o, scratch);
    }
    o_proj_.forward(ctx, o, rows, y);
  }

  template <class Self, class Visit>
  static void for_each_tensor(Self& self, const std::string& prefix, Visit&& visit) {
    Linear<P>::for_each_tensor(self.q_proj_, prefix + "q_proj.", visit);
    Linear<P>::for_each_tensor(self.k_proj_, prefix + "k_proj.", visit);
    Linear<P>::for_each_tensor(self.v_proj_, prefix + "v_proj.", visit);
    Linear<P>::for_each_tensor(self.o_proj_, prefix + "o_proj.", visit);
  }

 private:
  void rotate_heads(float* row, Index heads, const float* cos_sin) const {
    for (Index h = 0; h < heads; ++h) rotation_.apply(row + h * head_ + nope_, cos_sin, row + h * head_ + nope_);
  }

  // A tile is the query heads of one token that share a key head.
  void attend(Context& ctx, const Segment<Cache>& s, ConstMatrixView<float> q, MatrixView<float> o, MatrixView<float> scratch) const {
    const Index group = heads_ / key_heads_, tiles = (group + kernels::attention_tile - 1) / kernels::attention_tile,
                tokens = s.position + s.count;
    const Index work = s.count * heads_ * tokens * (head_ + value_);
    ctx.parallel_for(s.count * key_heads_ * tiles, work, [&](Index task, int worker) {
      const Index i = task / (key_heads_ * tiles), g = task / tiles % key_heads_, first = task % tiles * kernels::attention_tile;
      const Index rows = std::min(kernels::attention_tile, group - first), h = g * group + first, t = s.begin + i;
      const ConstMatrixView<float> keys = view(s.cache->keys), values = view(s.cache->values);
      const kernels::KeysValues kv{
          keys.slice(0, tokens).columns(g * head_, head_), {}, values.slice(0, tokens).columns(g * value_, value_)};
      kernels::attend<typename P::Arch>({{q.row_data(t) + h * head_, rows, head_}, {}, s.position + i + 1, 0}, kv, scale_,
                                        {o.row_data(t) + h * value_, rows, value_}, scratch.data() + worker * scratch.outerStride());
    });
  }

  Index heads_, key_heads_, nope_, head_, value_;
  rope::Rotation<typename P::RopePairing, typename P::RopeScaling> rotation_;
  float scale_;
  Linear<P> q_proj_, k_proj_, v_proj_, o_proj_;
};

}  // namespace dsv3::inline DSV3_ISA
