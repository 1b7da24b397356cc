// Floor 0. Config: the sizes and settings of a model, named as in the checkpoint's config.json, and the small aggregates its parts take.
//
// io/config_json.hpp reads config.json; model/presets.hpp has the published models.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dsv3/core/error.hpp"

namespace dsv3::inline DSV3_ISA {

/// Sizes and positions: signed, as Eigen's.
using Index = std::ptrdiff_t;

namespace rope {

/// YaRN context extension (spec A8, A9). `mscale` and `mscale_all_dim` are 0 when the checkpoint does not give them.
struct Yarn {
  double factor = 1;
  Index original_max_position_embeddings = 4096;
  double beta_fast = 32, beta_slow = 1;
  double mscale = 0, mscale_all_dim = 0;
  bool operator==(const Yarn&) const = default;
};

/// Rotary embedding of `dim` channels: f_j = theta^(-2j/dim).
struct Config {
  Index dim = 64;
  double theta = 10000;
  std::optional<Yarn> yarn;
  bool operator==(const Config&) const = default;
};

}  // namespace rope

namespace router {

enum class Score { sigmoid, softmax };

// Upper limits, which size a router's arrays: experts per token, routed experts, groups of experts.
inline constexpr Index max_choices = 64, max_experts = 1024, max_groups = 256;

/// What a router needs to choose `top_k` of `experts` (spec A12 to A16).
struct Config {
  Index experts = 256, top_k = 8;
  Index groups = 8, top_groups = 4;
  bool normalize = true;  ///< divide the gates by their sum
  double scale = 2.5;     ///< routed_scaling_factor
};

}  // namespace router

/// A model of the DeepSeek-V3 family. Defaults are those of DeepSeek-V3 itself.
struct Config {
  std::string model_type = "deepseek_v3";
  Index vocab_size = 129280;
  Index hidden_size = 7168;
  Index intermediate_size = 18432;
  Index moe_intermediate_size = 2048;
  Index num_hidden_layers = 61;
  Index first_k_dense_replace = 3;
  Index num_nextn_predict_layers = 1;
  Index num_attention_heads = 128;
  Index num_key_value_heads = 128;
  std::optional<Index> q_lora_rank = 1536;
  Index kv_lora_rank = 512;
  Index qk_nope_head_dim = 128;
  Index qk_rope_head_dim = 64;
  Index v_head_dim = 128;
  Index n_routed_experts = 256;
  Index n_shared_experts = 1;
  Index num_experts_per_tok = 8;
  Index n_group = 8;
  Index topk_group = 4;
  bool norm_topk_prob = true;
  double routed_scaling_factor = 2.5;
  router::Score scoring_func = router::Score::sigmoid;
  double rms_norm_eps = 1e-6;
  double inner_norm_eps = 1e-6;  ///< epsilon of q_a_layernorm and kv_a_layernorm; no checkpoint has this field (spec A3)
  double rope_theta = 10000;
  std::optional<rope::Yarn> rope_scaling = rope::Yarn{40, 4096, 32, 1, 1, 1};
  bool rope_interleave = true;  ///< pairs are neighbours (2j, 2j+1), as in every published checkpoint (spec A7)
  Index max_position_embeddings = 163840;
  bool tie_word_embeddings = false;
  bool fp8 = true;                       ///< projections are stored as e4m3 with 128x128 block scales
  bool fp8_power_of_two_scales = false;  ///< scales of weights and activations are powers of two ("scale_fmt": "ue8m0", DeepSeek-V3.1)
  std::optional<int> bos_token_id = 0;
  std::vector<int> eos_token_id = {1};

  bool operator==(const Config&) const = default;
};

}  // namespace dsv3::inline DSV3_ISA
