// Floor 5. Presets: the configurations of published models, as in their config.json (spec E).
//
// For building, counting and testing without a checkpoint; a checkpoint brings its own config.json. Base and chat variants of a model
// differ at most in their end-of-text tokens.
#pragma once

#include <array>
#include <optional>
#include <string_view>

#include "dsv3/core/config.hpp"

namespace dsv3::inline DSV3_ISA::presets {

/// DeepSeek-V3: 671 billion parameters, 37 billion active per token, and one MTP module besides.
inline Config deepseek_v3() { return {}; }

/// DeepSeek-R1: V3's architecture.
inline Config deepseek_r1() { return deepseek_v3(); }

/// DeepSeek-V3.1: V3's architecture; its FP8 scales are powers of two.
inline Config deepseek_v31() { return deepseek_v3(); }

/// DeepSeek-V2: 236 billion parameters, 21 billion active per token.
inline Config deepseek_v2() {
  Config c;
  c.model_type = "deepseek_v2";
  c.vocab_size = 102400;
  c.hidden_size = 5120;
  c.intermediate_size = 12288;
  c.moe_intermediate_size = 1536;
  c.num_hidden_layers = 60;
  c.first_k_dense_replace = 1;
  c.num_nextn_predict_layers = 0;
  c.n_routed_experts = 160;
  c.n_shared_experts = 2;
  c.num_experts_per_tok = 6;
  c.n_group = 8;
  c.topk_group = 3;
  c.norm_topk_prob = false;
  c.routed_scaling_factor = 16;
  c.scoring_func = router::Score::softmax;
  c.rope_scaling->mscale = 0.707;
  c.rope_scaling->mscale_all_dim = 0.707;
  c.fp8 = false;
  c.bos_token_id = 100000;
  c.eos_token_id = {100001};
  return c;
}

/// DeepSeek-V2.5: V2's architecture with another softmax scale.
inline Config deepseek_v25() {
  Config c = deepseek_v2();
  c.rope_scaling->mscale = 1;
  c.rope_scaling->mscale_all_dim = 1;
  return c;
}

/// DeepSeek-V2-Lite: 15.7 billion parameters, 2.4 billion active per token.
inline Config deepseek_v2_lite() {
  Config c = deepseek_v2();
  c.hidden_size = 2048;
  c.intermediate_size = 10944;
  c.moe_intermediate_size = 1408;
  c.num_hidden_layers = 27;
  c.num_attention_heads = 16;
  c.num_key_value_heads = 16;
  c.q_lora_rank = std::nullopt;
  c.n_routed_experts = 64;
  c.n_group = 1;
  c.topk_group = 1;
  c.routed_scaling_factor = 1;
  return c;
}

/// Moonlight-16B-A3B: 16 billion parameters, 3 billion active per token.
inline Config moonlight_16b_a3b() {
  Config c;
  c.vocab_size = 163840;
  c.hidden_size = 2048;
  c.intermediate_size = 11264;
  c.moe_intermediate_size = 1408;
  c.num_hidden_layers = 27;
  c.first_k_dense_replace = 1;
  c.num_nextn_predict_layers = 0;
  c.num_attention_heads = 16;
  c.num_key_value_heads = 16;
  c.q_lora_rank = std::nullopt;
  c.n_routed_experts = 64;
  c.n_shared_experts = 2;
  c.num_experts_per_tok = 6;
  c.n_group = 1;
  c.topk_group = 1;
  c.routed_scaling_factor = 2.446;
  c.rms_norm_eps = 1e-5;
  c.rope_theta = 50000;
  c.rope_scaling.reset();
  c.max_position_embeddings = 8192;
  c.fp8 = false;
  c.bos_token_id = 163584;
  c.eos_token_id = {163585};
  return c;
}

/// Kimi-K2 (the first Base and Instruct): 1026 billion parameters, 32 billion active per token.
inline Config kimi_k2() {
  Config c;
  c.model_type = "kimi_k2";
  c.vocab_size = 163840;
  c.first_k_dense_replace = 1;
  c.num_nextn_predict_layers = 0;
  c.num_attention_heads = 64;
  c.num_key_value_heads = 64;
  c.n_routed_experts = 384;
  c.n_group = 1;
  c.topk_group = 1;
  c.routed_scaling_factor = 2.827;
  c.rope_theta = 50000;
  c.rope_scaling = rope::Yarn{32, 4096, 1, 1, 1, 1};
  c.max_position_embeddings = 131072;
  c.bos_token_id = 163584;
  c.eos_token_id = {163585};
  return c;
}

/// GLM-4.7-Flash: 30 billion parameters, 3 billion active per token, and one MTP module besides.
inline Config glm_4_7_flash() {
  Config c;
  c.model_type = "glm4_moe_lite";
  c.vocab_size = 154880;
  c.hidden_size = 2048;
  c.intermediate_size = 10240;
  c.moe_intermediate_size = 1536;
  c.num_hidden_layers = 47;
  c.first_k_dense_replace = 1;
  c.num_attention_heads = 20;
  c.num_key_value_heads = 20;
  c.q_lora_rank = 768;
  c.qk_nope_head_dim = 192;
  c.v_head_dim = 256;
  c.n_routed_experts = 64;
  c.num_experts_per_tok = 4;
  c.n_group = 1;
  c.topk_group = 1;
  c.routed_scaling_factor = 1.8;
  c.rms_norm_eps = 1e-5;
  c.rope_theta = 1e6;
  c.rope_scaling.reset();
  c.max_position_embeddings = 202752;
  c.fp8 = false;
  c.eos_token_id = {154820, 154827, 154829};
  return c;
}

/// A published model's short name and its configuration.
struct Preset {
  std::string_view name;
  Config (*config)();
};

inline constexpr std::array<Preset, 9> all{{{"deepseek-v3", deepseek_v3},
                                            {"deepseek-v3.1", deepseek_v31},
                                            {"deepseek-r1", deepseek_r1},
                                            {"deepseek-v2", deepseek_v2},
                                            {"deepseek-v2.5", deepseek_v25},
                                            {"deepseek-v2-lite", deepseek_v2_lite},
                                            {"moonlight-16b-a3b", moonlight_16b_a3b},
                                            {"kimi-k2", kimi_k2},
                                            {"glm-4.7-flash", glm_4_7_flash}}};

/// The configuration named `name` in `all`, if there is one; the prefix "deepseek-" may be left out.
[[nodiscard]] inline std::optional<Config> find(std::string_view name) {
  constexpr std::string_view maker = "deepseek-";
  for (const Preset& preset : all) {
    const bool short_name = preset.name.starts_with(maker) && preset.name.substr(maker.size()) == name;
    if (preset.name == name || short_name) return preset.config();
  }
  return std::nullopt;
}

}  // namespace dsv3::inline DSV3_ISA::presets
