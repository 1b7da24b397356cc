// Floor 0. validate(Config): checks the range of every field and the relations between fields before anything is allocated or multiplied.
//
// The upper limits are far above any model and low enough that the bytes of all weights, or of a full cache, fit into an Index. The loader
// checks that a checkpoint's tensors agree with the configuration.
#pragma once

#include <algorithm>
#include <cmath>
#include <string_view>

#include "dsv3/core/config.hpp"
#include "dsv3/core/error.hpp"

namespace dsv3::inline DSV3_ISA {

/// Checks that `config` describes a model that can be built; `where` (a file name) opens every message.
///
/// Throws: Error naming the field, its value and what was expected.
inline void validate(const Config& config, std::string_view where) {
  const Config& c = config;
  const auto in_range = [where](const char* field, Index value, Index low, Index high) {
    require(value >= low && value <= high, where, ": ", field, ": expected a value in [", low, ", ", high, "], found ", value);
  };
  // Written so that NaN fails.
  const auto check = [where](const char* field, double value, bool good, const char* expected) {
    require(good && std::isfinite(value), where, ": ", field, ": expected ", expected, ", found ", value);
  };
  constexpr Index vocab_limit = Index{1} << 24, width_limit = Index{1} << 17, wide_width_limit = Index{1} << 20, head_limit = 4096,
                  count_limit = 4096, layers_limit = 2048, positions_limit = Index{1} << 30;

  in_range("vocab_size", c.vocab_size, 1, vocab_limit);
  in_range("hidden_size", c.hidden_size, 1, width_limit);
  in_range("intermediate_size", c.intermediate_size, 1, wide_width_limit);
  in_range("moe_intermediate_size", c.moe_intermediate_size, 1, width_limit);
  in_range("num_hidden_layers", c.num_hidden_layers, 1, layers_limit);
  in_range("first_k_dense_replace", c.first_k_dense_replace, 0, c.num_hidden_layers);
  in_range("num_nextn_predict_layers", c.num_nextn_predict_layers, 0, 64);
  in_range("max_position_embeddings", c.max_position_embeddings, 1, positions_limit);

  in_range("num_attention_heads", c.num_attention_heads, 1, count_limit);
  in_range("num_key_value_heads", c.num_key_value_heads, 1, c.num_attention_heads);
  require(c.num_attention_heads % c.num_key_value_heads == 0, where, ": num_key_value_heads: expected a divisor of num_attention_heads ",
          c.num_attention_heads, ", found ", c.num_key_value_heads);
  if (c.q_lora_rank) in_range("q_lora_rank", *c.q_lora_rank, 1, width_limit);
  in_range("kv_lora_rank", c.kv_lora_rank, 1, width_limit);
  in_range("qk_nope_head_dim", c.qk_nope_head_dim, 1, head_limit);
  in_range("qk_rope_head_dim", c.qk_rope_head_dim, 2, head_limit);
  require(c.qk_rope_head_dim % 2 == 0, where, ": qk_rope_head_dim: expected an even number, found ", c.qk_rope_head_dim);
  in_range("v_head_dim", c.v_head_dim, 1, head_limit);

  in_range("n_routed_experts", c.n_routed_experts, 1, router::max_experts);
  in_range("n_shared_experts", c.n_shared_experts, 0, 256);
  in_range("n_group", c.n_group, 1, std::min(c.n_routed_experts, router::max_groups));
  require(c.n_routed_experts % c.n_group == 0, where, ": n_group: expected a divisor of n_routed_experts ", c.n_routed_experts, ", found ",
          c.n_group);
  const Index in_group = c.n_routed_experts / c.n_group;
  // A sigmoid router ranks groups by the sum of their two best experts (spec A13).
  require(c.scoring_func != router::Score::sigmoid || c.n_group == 1 || in_group >= 2, where,
          ": n_group: expected groups of at least 2 experts, found ", c.n_group, " groups of ", c.n_routed_experts, " experts");
  in_range("topk_group", c.topk_group, 1, c.n_group);
  in_range("num_experts_per_tok", c.num_experts_per_tok, 1, router::max_choices);
  require(c.num_experts_per_tok <= in_group * c.topk_group, where, ": num_experts_per_tok: expected at most the ", in_group * c.topk_group,
          " experts of topk_group ", c.topk_group, " groups, found ", c.num_experts_per_tok);
  check("routed_scaling_factor", c.routed_scaling_factor, c.routed_scaling_factor > 0, "a positive number");

  check("rms_norm_eps", c.rms_norm_eps, c.rms_norm_eps >= 0 && c.rms_norm_eps < 1, "a number in [0, 1)");
  check("inner_norm_eps", c.inner_norm_eps, c.inner_norm_eps >= 0 && c.inner_norm_eps < 1, "a number in [0, 1)");
  check("rope_theta", c.rope_theta, c.rope_theta > 0, "a positive number");
  if (c.rope_scaling) {
    const rope::Yarn& yarn = *c.rope_scaling;
    check("rope_theta", c.rope_theta, c.rope_theta > 1, "a number above 1 with yarn");  // YaRN divides by its logarithm
    check("rope_scaling.factor", yarn.factor, yarn.factor >= 1, "a number of at least 1");
    in_range("rope_scaling.original_max_position_embeddings", yarn.original_max_position_embeddings, 1, positions_limit);
    check("rope_scaling.beta_slow", yarn.beta_slow, yarn.beta_slow > 0, "a positive number");
    check("rope_scaling.beta_fast", yarn.beta_fast, yarn.beta_fast >= yarn.beta_slow, "a number not below beta_slow");
    check("rope_scaling.mscale", yarn.mscale, yarn.mscale >= 0, "a number of at least 0");
    check("rope_scaling.mscale_all_dim", yarn.mscale_all_dim, yarn.mscale_all_dim >= 0, "a number of at least 0");
  }

  if (c.bos_token_id) in_range("bos_token_id", *c.bos_token_id, 0, c.vocab_size - 1);
  for (const int id : c.eos_token_id) in_range("eos_token_id", id, 0, c.vocab_size - 1);
}

}  // namespace dsv3::inline DSV3_ISA
