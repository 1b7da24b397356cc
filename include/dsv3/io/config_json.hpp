// Floor 6. Config from config.json, for DeepSeek-V2, V3 and what was built on them (spec B4, E). config_writer.hpp writes one.
//
// Reading is tolerant about how a setting is written and strict about what it means: a field that nobody reads is an error unless it is
// known to be harmless (config_fields.hpp). Absent fields get Hugging Face's defaults for the model type. A variant's own configuration
// derives from Config and reads its own fields too.
#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "dsv3/core/config.hpp"
#include "dsv3/core/error.hpp"
#include "dsv3/core/validate.hpp"
#include "dsv3/io/config_fields.hpp"
#include "dsv3/io/json.hpp"
#include "dsv3/io/json_fields.hpp"
#include "dsv3/io/text_bounds.hpp"

namespace dsv3::inline DSV3_ISA::io {

namespace detail {

enum class Family { v2, v3, glm };

/// Which of Hugging Face's three implementations the file belongs to; sets `model_type`.
inline Family parse_family(const Fields& root, std::string& model_type) {
  model_type = root.text("model_type", "");
  std::string architecture;
  if (const auto* list = root.find("architectures")) {
    root.expect(list->is_array() && (list->empty() || list->front().is_string()), "architectures", "a list of strings");
    if (!list->empty()) architecture = list->front().get<std::string>();
  }
  const auto is = [&](std::string_view type, std::string_view name) {
    const bool yes = model_type == type || (model_type.empty() && architecture == name);
    if (yes) model_type = type;
    return yes;
  };
  if (is("deepseek_v2", "DeepseekV2ForCausalLM")) return Family::v2;
  if (is("glm4_moe_lite", "Glm4MoeLiteForCausalLM")) return Family::glm;
  const bool v3 = is("deepseek_v3", "DeepseekV3ForCausalLM") || model_type == "kimi_k2" || architecture == "DeepseekV3ForCausalLM";
  root.expect(v3, "model_type", "deepseek_v2, deepseek_v3, kimi_k2, glm4_moe_lite or the architecture DeepseekV3ForCausalLM");
  return Family::v3;
}

/// Hugging Face's defaults; V3's own published values are Config's, and V2 has none for num_experts_per_tok.
inline Config family_defaults(Family family) {
  Config c;
  c.num_nextn_predict_layers = 0;  // Hugging Face says 1, but files without the field have no such layer
  c.rope_scaling.reset();
  c.max_position_embeddings = 4096;
  c.fp8 = false;
  if (family == Family::v2) {
    c.vocab_size = 102400, c.hidden_size = 4096, c.intermediate_size = 11008, c.moe_intermediate_size = 1407;
    c.num_hidden_layers = 32, c.first_k_dense_replace = 0, c.num_attention_heads = 32, c.n_routed_experts = 64, c.n_shared_experts = 2;
    c.n_group = c.topk_group = 1, c.routed_scaling_factor = 1, c.scoring_func = router::Score::softmax;
    c.max_position_embeddings = 2048, c.bos_token_id = 1, c.eos_token_id = {2};
  } else if (family == Family::glm) {
    c.vocab_size = 154880, c.hidden_size = 2048, c.intermediate_size = 10240, c.moe_intermediate_size = 1536;
    c.num_hidden_layers = 47, c.first_k_dense_replace = 1, c.num_attention_heads = 20, c.n_routed_experts = 64;
    c.q_lora_rank = 768, c.qk_nope_head_dim = 192, c.v_head_dim = 256, c.num_experts_per_tok = 4;
    c.n_group = c.topk_group = 1, c.routed_scaling_factor = 1.8, c.rms_norm_eps = 1e-5, c.max_position_embeddings = 202752;
  }
  return c;
}

inline void parse_router(const Fields& root, Family family, Config& c) {
  c.n_routed_experts = root.integer("n_routed_experts", c.n_routed_experts);
  c.n_shared_experts = root.integer("n_shared_experts", c.n_shared_experts);
  c.num_experts_per_tok = root.integer("num_experts_per_tok", family == Family::v2 ? std::nullopt : std::optional(c.num_experts_per_tok));
  c.n_group = root.integer("n_group", c.n_group);
  c.topk_group = root.integer("topk_group", c.topk_group);
  c.norm_topk_prob = root.boolean("norm_topk_prob", c.norm_topk_prob);
  c.routed_scaling_factor = root.number("routed_scaling_factor", c.routed_scaling_factor);

  const auto score = root.text("scoring_func", c.scoring_func == router::Score::softmax ? "softmax" : "sigmoid");
  root.expect(score == "sigmoid" || score == "softmax", "scoring_func", "sigmoid or softmax");
  // Hugging Face computes softmax for V2 and sigmoid for the others whatever the file says.
  root.expect((score == "softmax") == (family == Family::v2), "scoring_func", family == Family::v2 ? "softmax" : "sigmoid");
  if (family == Family::v2) {
    const auto method = root.text("topk_method", "greedy");
    root.expect(method == "greedy" || method == "group_limited_greedy", "topk_method", "greedy or group_limited_greedy");
    if (method == "greedy") c.n_group = c.topk_group = 1;
    c.norm_topk_prob = false;  // never normalised (spec A16)
  } else {
    root.expect(root.text("topk_method", "noaux_tc") == "noaux_tc", "topk_method", "noaux_tc");
  }
}

inline void parse_rope(const Fields& root, Config& c) {
  const bool old_name = !root.object("rope_scaling").empty();  // wins if both are there, as in transformers
  const Fields rope = root.object(old_name ? "rope_scaling" : "rope_parameters");
  root.find("rope_parameters");  // if the old name wins, its contents are ignored
  for (const char* field :
       {"rope_type", "type", "factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"})
    rope.find(field);  // without YaRN they have no meaning
  root.find("original_max_position_embeddings");
  c.rope_theta = rope.number("rope_theta", root.number("rope_theta", c.rope_theta));
  root.expect(root.number("partial_rotary_factor", 1) == 1, "partial_rotary_factor", "1");
  rope.expect(rope.number("partial_rotary_factor", 1) == 1, "partial_rotary_factor", "1");
  c.rope_interleave = root.boolean("rope_interleave", c.rope_interleave);
  // Hugging Face rotates neighbours in V2 whatever the file says.
  root.expect(c.rope_interleave || c.scoring_func == router::Score::sigmoid, "rope_interleave", "true");

  const char* const key = rope.find("rope_type") != nullptr ? "rope_type" : "type";
  const auto type = rope.text(key, "default");
  rope.expect(type == "default" || type == "yarn", key, "default or yarn");
  if (type == "default") {
    rope.expect(rope.find(key) != nullptr || rope.find("factor") == nullptr, "rope_type", "a type beside the factor");
    return;
  }
  rope::Yarn yarn;
  // Hugging Face prefers the field beside the object to the one in it (modeling_rope_utils.py, standardize_rope_params).
  yarn.original_max_position_embeddings =
      root.integer("original_max_position_embeddings", rope.integer("original_max_position_embeddings", c.max_position_embeddings));
  yarn.factor = rope.number("factor", static_cast<double>(c.max_position_embeddings) /
                                          static_cast<double>(std::max<Index>(yarn.original_max_position_embeddings, 1)));
  const auto or_default = [](double value, double other) { return value == 0 ? other : value; };  // zero means absent, as in transformers
  yarn.beta_fast = or_default(rope.number("beta_fast", 0), yarn.beta_fast);
  yarn.beta_slow = or_default(rope.number("beta_slow", 0), yarn.beta_slow);
  yarn.mscale = rope.number("mscale", 0);
  yarn.mscale_all_dim = rope.number("mscale_all_dim", 0);
  rope.expect(rope.find("attention_factor") == nullptr, "attention_factor", "none (it follows from mscale)");
  rope.expect(rope.boolean("truncate", true), "truncate", "true");
  c.rope_scaling = yarn;
}

inline void parse_quantization(const Fields& root, Config& c) {
  root.expect(root.find("quantization") == nullptr, "quantization", "no such field",
              " (it marks a checkpoint that was converted for MLX: use the model's original release)");
  if (root.find("quantization_config") == nullptr) return;
  const Fields quant = root.object("quantization_config");
  quant.expect(quant.text("quant_method", "") == "fp8", "quant_method", "fp8",
               " (weights of NVFP4, AWQ, GPTQ and other packed formats are not read: use the model's FP8 or bf16 release)");
  quant.expect(quant.text("fmt", "e4m3") == "e4m3", "fmt", "e4m3");
  const auto* block = quant.find("weight_block_size");
  const auto is_128 = [](const nlohmann::json& size) { return Fields::as_integer(size) == 128; };
  quant.expect(block != nullptr && block->is_array() && block->size() == 2 && std::ranges::all_of(*block, is_128), "weight_block_size",
               "[128, 128]");
  quant.expect(quant.text("activation_scheme", "dynamic") == "dynamic", "activation_scheme", "dynamic");
  const auto scales = quant.text("scale_fmt", "float");
  quant.expect(scales == "float" || scales == "ue8m0", "scale_fmt", "float or ue8m0");
  c.fp8 = true;
  c.fp8_power_of_two_scales = scales == "ue8m0";
}

inline void parse_tokens(const Fields& root, Config& c) {
  const auto token = [&](const char* field, const nlohmann::json& value) {
    const auto id = Fields::as_integer(value);
    root.expect(id && *id >= 0 && *id <= std::numeric_limits<int>::max(), field, "token ids");
    return static_cast<int>(*id);
  };
  // Unlike elsewhere, null means that there is no such token.
  if (root.contains("bos_token_id")) {
    const auto* bos = root.find("bos_token_id");
    c.bos_token_id = bos == nullptr ? std::nullopt : std::optional(token("bos_token_id", *bos));
  }
  if (root.contains("eos_token_id")) {
    c.eos_token_id.clear();
    const auto* eos = root.find("eos_token_id");
    if (eos == nullptr) return;
    if (!eos->is_array()) c.eos_token_id.push_back(token("eos_token_id", *eos));
    if (eos->is_array())
      std::ranges::transform(*eos, std::back_inserter(c.eos_token_id), [&](const auto& id) { return token("eos_token_id", id); });
  }
}

}  // namespace detail

namespace detail {

/// All fields that Config has.
inline Config parse_known(const Fields& root) {
  std::string model_type;
  const auto family = parse_family(root, model_type);
  Config c = family_defaults(family);
  c.model_type = model_type;
  for (const auto& [field, size] : {std::pair{"vocab_size", &c.vocab_size},
                                    {"hidden_size", &c.hidden_size},
                                    {"intermediate_size", &c.intermediate_size},
                                    {"moe_intermediate_size", &c.moe_intermediate_size},
                                    {"num_hidden_layers", &c.num_hidden_layers},
                                    {"first_k_dense_replace", &c.first_k_dense_replace},
                                    {"num_nextn_predict_layers", &c.num_nextn_predict_layers},
                                    {"num_attention_heads", &c.num_attention_heads},
                                    {"kv_lora_rank", &c.kv_lora_rank},
                                    {"qk_nope_head_dim", &c.qk_nope_head_dim},
                                    {"qk_rope_head_dim", &c.qk_rope_head_dim},
                                    {"v_head_dim", &c.v_head_dim},
                                    {"max_position_embeddings", &c.max_position_embeddings}}) {
    *size = root.integer(field, *size);
  }
  c.num_key_value_heads = root.integer("num_key_value_heads", c.num_attention_heads);
  if (root.contains("q_lora_rank")) {
    const Index rank = root.integer("q_lora_rank", 0);
    c.q_lora_rank = rank == 0 ? std::nullopt : std::optional(rank);  // null and 0 both mean none
  }
  c.rms_norm_eps = root.number("rms_norm_eps", c.rms_norm_eps);
  c.tie_word_embeddings = root.boolean("tie_word_embeddings", c.tie_word_embeddings);
  if (const auto* types = root.find("mlp_layer_types"); family == Family::glm && types != nullptr) {
    Index dense = 0;
    root.expect(types->is_array() && std::cmp_equal(types->size(), c.num_hidden_layers), "mlp_layer_types", "an entry for each layer");
    for (const auto& entry : *types) {
      const std::string_view type = entry.is_string() ? entry.get_ref<const std::string&>() : std::string_view();
      const bool first = std::cmp_equal(dense, &entry - &types->front());
      root.expect(type == "sparse" || (type == "dense" && first), "mlp_layer_types", "\"dense\" layers first, then \"sparse\" ones");
      if (type == "dense") ++dense;
    }
    c.first_k_dense_replace = dense;
  }

  const auto activation = root.text("hidden_act", "silu");
  root.expect(activation == "silu" || activation == "swish", "hidden_act", "silu");  // two names of one function
  root.expect(!root.boolean("attention_bias", false), "attention_bias", "false");
  root.expect(!root.boolean("mlp_bias", false), "mlp_bias", "false");
  root.expect(root.integer("moe_layer_freq", 1) == 1, "moe_layer_freq", "1");
  parse_router(root, family, c);
  parse_rope(root, c);
  parse_quantization(root, c);
  parse_tokens(root, c);
  // Sizes that follow from others, under the names that Hugging Face's classes write.
  for (const auto& [field, size] : {std::pair{"head_dim", c.qk_rope_head_dim},
                                    {"qk_head_dim", c.qk_nope_head_dim + c.qk_rope_head_dim},
                                    {"num_local_experts", c.n_routed_experts}})
    root.expect(root.integer(field, size) == size, field, std::to_string(size));
  return c;
}

inline void check_all_read(const Fields& root, std::string_view where) {
  std::string unknown;
  for (const auto& field : root.unread())
    if (!is_harmless_field(field)) unknown += (unknown.empty() ? "" : ", ") + field;
  require(unknown.empty(), where, ": fields that change the model in ways that this library or policy does not know: ", unknown);
}

}  // namespace detail

/// Reads the text of a config.json; `where` begins every error message. The result has passed validate(). C is Config, or derives from it
/// and may have a function read(const Fields&) that reads its own fields after Config's.
///
/// Throws: Error naming the field, what was expected and what was found; or naming all fields that were not read.
template <class C = Config>
[[nodiscard]] C parse_config(std::string_view json, std::string_view where) {
  const auto document = parse_json(json, where);
  require(document.is_object(), where, ": expected an object, found ", document.type_name());
  const Fields root(document, std::string(where));
  C c;
  static_cast<Config&>(c) = detail::parse_known(root);
  if constexpr (requires { c.read(root); }) c.read(root);
  validate(c, where);
  detail::check_all_read(root, where);
  return c;
}

/// Reads `folder`/config.json. End tokens of `folder`/generation_config.json take precedence over those in it, as in transformers.
template <class C = Config>
[[nodiscard]] C read_config(const std::filesystem::path& folder) {
  constexpr std::size_t max_bytes = 16'000'000;
  const auto path = folder / "config.json";
  C c = parse_config<C>(read_text_file(path, max_bytes), path.string());
  if (auto ends = read_generation_config(folder, c).eos_token_id) c.eos_token_id = std::move(*ends);
  return c;
}

}  // namespace dsv3::inline DSV3_ISA::io
