// Floor 6. Fields of config.json that do not change what this library computes.
//
// Everything else must be read by the configuration or by the variant's own (config_json.hpp): a setting that is silently ignored gives
// other numbers than the model's.
#pragma once

#include <algorithm>
#include <array>
#include <string_view>

#include "dsv3/core/isa.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// Whether a field, named by its path ("rope_scaling.type"), is harmless whatever its value: names of files and classes, training
/// settings, how other programs generate and report.
inline bool is_harmless_field(std::string_view path) {
  static constexpr std::array names{
      // names and versions
      std::string_view("architectures"), std::string_view("auto_map"), std::string_view("dtype"), std::string_view("name_or_path"),
      std::string_view("tokenizer_class"), std::string_view("torch_dtype"), std::string_view("transformers_version"),
      std::string_view("unsloth_fixed"), std::string_view("unsloth_version"),
      // training
      std::string_view("attention_dropout"), std::string_view("aux_loss_alpha"), std::string_view("embd_pdrop"),
      std::string_view("ep_size"), std::string_view("gradient_checkpointing"), std::string_view("hidden_dropout"),
      std::string_view("initializer_range"), std::string_view("output_router_logits"), std::string_view("pretraining_tp"),
      std::string_view("router_aux_loss_coef"), std::string_view("seq_aux"),
      // other programs' generation, outputs and tasks
      std::string_view("chunk_size_feed_forward"), std::string_view("id2label"), std::string_view("is_decoder"),
      std::string_view("is_encoder_decoder"), std::string_view("label2id"), std::string_view("max_length"),
      std::string_view("output_attentions"), std::string_view("output_hidden_states"), std::string_view("pad_token_id"),
      std::string_view("problem_type"), std::string_view("return_dict"), std::string_view("use_cache"),
      // quantization: which modules were converted shows in the tensors
      std::string_view("quantization_config.ignored_layers"), std::string_view("quantization_config.modules_to_not_convert")};
  return path.starts_with('_') || std::ranges::find(names, path) != names.end();
}

}  // namespace dsv3::inline DSV3_ISA::io
