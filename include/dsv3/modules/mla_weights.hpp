// Floor 4. The weights of multi-head latent attention, and the sizes and rotation that its configuration gives.
#pragma once

#include <optional>

#include "dsv3/kernels/rope.hpp"
#include "dsv3/modules/linear.hpp"
#include "dsv3/modules/mla_attention.hpp"
#include "dsv3/modules/norm.hpp"

namespace dsv3::inline DSV3_ISA::mla {

/// H heads with N no-position and R rotary channels, values of V, query rank Q (or none), cache rank C. A tensor-parallel rank with some of
/// the heads is made from a configuration with that number of heads.
template <class P>
struct Weights {
  using Norm = typename P::template Norm<P>;
  using View = typename P::Storage::View;

  using Variant = typename P::template AttentionVariant<P>;

  Weights(const typename P::Config& c, Index layer)
      : heads{c.num_attention_heads,
              c.qk_nope_head_dim,
              c.qk_rope_head_dim,
              c.v_head_dim,
              c.kv_lora_rank,
              static_cast<float>(P::RopeScaling::softmax_factor({c.qk_rope_head_dim, c.rope_theta, c.rope_scaling}) /
                                 std::sqrt(static_cast<double>(c.qk_nope_head_dim + c.qk_rope_head_dim)))},
        rotation({c.qk_rope_head_dim, c.rope_theta, c.rope_scaling}),
        q_proj(heads.count * heads.query(), c.q_lora_rank.value_or(c.hidden_size)),
        kv_a_proj(heads.rank + heads.rope, c.hidden_size),
        kv_a_norm(heads.rank, c.inner_norm_eps),
        kv_b_proj(heads.count * (heads.nope + heads.value), heads.rank),
        o_proj(c.hidden_size, heads.count * heads.value),
        variant(make_variant<Variant>(c, layer)) {
    if (c.q_lora_rank) query_rank.emplace(Linear<P>(*c.q_lora_rank, c.hidden_size), Norm(*c.q_lora_rank, c.inner_norm_eps));
  }

  /// W_UK [N, C] and W_UV [V, C] of head h, rows of kv_b_proj.
  View w_uk(Index h) const { return slice_rows(kv_b_proj.weight(), h * (heads.nope + heads.value), heads.nope); }
  View w_uv(Index h) const { return slice_rows(kv_b_proj.weight(), h * (heads.nope + heads.value) + heads.nope, heads.value); }

  template <class Self, class Visit>
  static void for_each_tensor(Self& self, const std::string& prefix, Visit&& visit) {
    if (self.query_rank) {
      Linear<P>::for_each_tensor(self.query_rank->a_proj, prefix + "q_a_proj.", visit);
      Norm::for_each_tensor(self.query_rank->a_norm, prefix + "q_a_layernorm.", visit);
    }
    Linear<P>::for_each_tensor(self.q_proj, prefix + (self.query_rank ? "q_b_proj." : "q_proj."), visit);
    Linear<P>::for_each_tensor(self.kv_a_proj, prefix + "kv_a_proj_with_mqa.", visit);
    Norm::for_each_tensor(self.kv_a_norm, prefix + "kv_a_layernorm.", visit);
    Linear<P>::for_each_tensor(self.kv_b_proj, prefix + "kv_b_proj.", visit);
    Linear<AfterAttention<P>>::for_each_tensor(self.o_proj, prefix + "o_proj.", visit);
    if constexpr (HasTensors<Variant>) Variant::for_each_tensor(self.variant, prefix, visit);
  }

  struct QueryRank {
    QueryRank(Linear<P> p, Norm n) : a_proj(std::move(p)), a_norm(std::move(n)) {}
    Linear<P> a_proj;
    Norm a_norm;
  };

  Heads heads;
  rope::Rotation<typename P::RopePairing, typename P::RopeScaling> rotation;
  std::optional<QueryRank> query_rank;
  Linear<P> q_proj;  ///< q_b_proj where there is a query rank
  Linear<P> kv_a_proj;
  Norm kv_a_norm;
  Linear<P> kv_b_proj;
  Linear<AfterAttention<P>> o_proj;
  [[no_unique_address]] Variant variant;
};

}  // namespace dsv3::inline DSV3_ISA::mla
