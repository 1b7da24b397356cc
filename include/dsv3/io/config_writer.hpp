// Floor 6. Writing a config.json. config_json.hpp reads one.
#pragma once

#include <concepts>
#include <nlohmann/json.hpp>
#include <string>

#include "dsv3/core/config.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// A config.json that Hugging Face's transformers and parse_config() read back.
///
/// Kimi-K2 is written as deepseek_v3, which transformers knows and which computes the same. A configuration that derives from Config may
/// add fields of its own with a function write(json).
template <std::derived_from<Config> C>
[[nodiscard]] std::string config_to_json(const C& c) {
  using Json = nlohmann::ordered_json;
  const bool v2 = c.scoring_func == router::Score::softmax, glm = c.model_type == "glm4_moe_lite";
  const auto id_or_null = [](const auto& id) { return id ? Json(*id) : Json(nullptr); };
  const char* const architecture = v2 ? "DeepseekV2ForCausalLM" : glm ? "Glm4MoeLiteForCausalLM" : "DeepseekV3ForCausalLM";
  const char* const method = !v2 ? "noaux_tc" : c.n_group == 1 ? "greedy" : "group_limited_greedy";
  Json j{{"architectures", Json::array({architecture})},
         {"model_type", v2    ? "deepseek_v2"
                        : glm ? "glm4_moe_lite"
                              : "deepseek_v3"},
         {"vocab_size", c.vocab_size},
         {"hidden_size", c.hidden_size},
         {"intermediate_size", c.intermediate_size},
         {"moe_intermediate_size", c.moe_intermediate_size},
         {"num_hidden_layers", c.num_hidden_layers},
         {"first_k_dense_replace", c.first_k_dense_replace},
         {"num_nextn_predict_layers", c.num_nextn_predict_layers},
         {"num_attention_heads", c.num_attention_heads},
         {"num_key_value_heads", c.num_key_value_heads},
         {"q_lora_rank", id_or_null(c.q_lora_rank)},
         {"kv_lora_rank", c.kv_lora_rank},
         {"qk_nope_head_dim", c.qk_nope_head_dim},
         {"qk_rope_head_dim", c.qk_rope_head_dim},
         {"v_head_dim", c.v_head_dim},
         {"n_routed_experts", c.n_routed_experts},
         {"n_shared_experts", c.n_shared_experts},
         {"num_experts_per_tok", c.num_experts_per_tok},
         {"n_group", c.n_group},
         {"topk_group", c.topk_group},
         {"topk_method", method},
         {"scoring_func", v2 ? "softmax" : "sigmoid"},
         {"norm_topk_prob", c.norm_topk_prob},
         {"routed_scaling_factor", c.routed_scaling_factor},
         {"moe_layer_freq", 1},
         {"hidden_act", "silu"},
         {"attention_bias", false},
         {"rms_norm_eps", c.rms_norm_eps},
         {"rope_theta", c.rope_theta},
         {"rope_scaling", nullptr},
         {"rope_interleave", c.rope_interleave},
         {"max_position_embeddings", c.max_position_embeddings},
         {"tie_word_embeddings", c.tie_word_embeddings},
         {"bos_token_id", id_or_null(c.bos_token_id)},
         {"eos_token_id", c.eos_token_id.size() == 1 ? Json(c.eos_token_id.front()) : Json(c.eos_token_id)}};
  if (c.rope_scaling) {
    const rope::Yarn& yarn = *c.rope_scaling;
    Json& scaling = j["rope_scaling"] = {{"type", "yarn"},
                                         {"factor", yarn.factor},
                                         {"original_max_position_embeddings", yarn.original_max_position_embeddings},
                                         {"beta_fast", yarn.beta_fast},
                                         {"beta_slow", yarn.beta_slow}};
    if (yarn.mscale != 0) scaling["mscale"] = yarn.mscale;
    if (yarn.mscale_all_dim != 0) scaling["mscale_all_dim"] = yarn.mscale_all_dim;
  }
  if (glm) {  // transformers reads this list instead of first_k_dense_replace
    for (Index i = 0; i < c.num_hidden_layers; ++i) j["mlp_layer_types"].push_back(i < c.first_k_dense_replace ? "dense" : "sparse");
  }
  if (c.fp8) {
    j["quantization_config"] = {
        {"activation_scheme", "dynamic"}, {"fmt", "e4m3"}, {"quant_method", "fp8"}, {"weight_block_size", {128, 128}}};
    if (c.fp8_power_of_two_scales) j["quantization_config"]["scale_fmt"] = "ue8m0";
  }
  if constexpr (requires { c.write(j); }) c.write(j);
  return j.dump(2) + '\n';
}

}  // namespace dsv3::inline DSV3_ISA::io
