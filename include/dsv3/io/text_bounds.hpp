// Floor 6. Where a text begins and ends, and how its tokens are chosen by default: what a checkpoint says about that beside config.json.
//
// generation_config.json has end tokens and default sampling (Hugging Face's GenerationConfig), tokenizer_config.json may ask for a begin
// token, and so may a TemplateProcessing post-processor in tokenizer.json, the only place where transformers 5 keeps it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "dsv3/core/config.hpp"
#include "dsv3/core/error.hpp"
#include "dsv3/io/json.hpp"
#include "dsv3/io/json_fields.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// What generation_config.json says; nothing where it is silent or the file is missing.
struct GenerationConfig {
  std::optional<std::vector<int>> eos_token_id;
  std::optional<double> temperature, top_p;  ///< temperature 0: do_sample is false
  std::optional<Index> top_k;
};

namespace detail {

inline nlohmann::json read_settings(const std::filesystem::path& file) {
  if (!std::filesystem::exists(file)) return nlohmann::json::object();
  auto json = parse_json(read_text_file(file, std::size_t{64} << 20), file.string());
  require(json.is_object(), file.string(), ": expected an object, found ", describe(json));
  return json;
}

inline int text_bound_id(const nlohmann::json& value, const Config& config, const std::string& where) {
  const auto id = Fields::as_integer(value);
  require(id && *id >= 0 && *id < config.vocab_size, where, ": expected ids of tokens below ", config.vocab_size, ", found ",
          describe(value));
  return static_cast<int>(*id);
}

/// The ids that a post-processor puts before the text.
inline std::vector<int> template_begin(const nlohmann::json& processor, const Config& config, const std::string& where) {
  if (processor.is_null()) return {};
  const std::string& type = json_string(processor, "type", where);
  std::vector<int> ids;
  if (type == "Sequence") {
    const auto& parts = json_member(processor, "processors", where);
    require(parts.is_array(), where, ".processors: expected an array, found ", describe(parts));
    for (const auto& part : parts) {
      // A sequence may not hold a sequence, so that files of any depth cannot fill the stack.
      require(part.is_object() && part.value("type", nlohmann::json()) != "Sequence", where, ".processors: expected steps, found ",
              describe(part));
      const auto begin = template_begin(part, config, where + ".processors");
      ids.insert(ids.begin(), begin.begin(), begin.end());
    }
    return ids;
  }
  if (type == "ByteLevel") return {};  // it moves offsets, not tokens
  require(type == "TemplateProcessing", where, ".type: expected TemplateProcessing, ByteLevel or Sequence, found ", quote(type),
          " (not supported)");
  const auto& single = json_member(processor, "single", where);
  require(single.is_array(), where, ".single: expected an array, found ", describe(single));
  for (const auto& part : single) {
    require(part.is_object(), where, ".single: expected objects, found ", describe(part));
    if (part.contains("Sequence")) break;
    const std::string& name = json_string(json_member(part, "SpecialToken", where + ".single"), "id", where + ".single.SpecialToken");
    const auto& token = json_member(json_member(processor, "special_tokens", where), name.c_str(), where + ".special_tokens");
    const auto& values = json_member(token, "ids", where + ".special_tokens");
    require(values.is_array(), where, ".special_tokens: expected an array of ids, found ", describe(values));
    for (const auto& value : values) ids.push_back(text_bound_id(value, config, where + ".special_tokens"));
  }
  return ids;
}

}  // namespace detail

/// Reads `folder`/generation_config.json, if it is there. Throws: Error naming the field, what was expected and what was found.
[[nodiscard]] inline GenerationConfig read_generation_config(const std::filesystem::path& folder, const Config& config) {
  const auto file = folder / "generation_config.json";
  const auto json = detail::read_settings(file);
  const Fields fields(json, file.string());
  GenerationConfig g;
  if (const auto* eos = fields.find("eos_token_id")) {
    g.eos_token_id.emplace();
    const std::string where = file.string() + ": eos_token_id";
    if (eos->is_array())
      for (const auto& id : *eos) g.eos_token_id->push_back(detail::text_bound_id(id, config, where));
    else
      g.eos_token_id->push_back(detail::text_bound_id(*eos, config, where));
  }
  const auto number = [&](const char* field, double high) -> std::optional<double> {
    if (fields.find(field) == nullptr) return std::nullopt;
    const double value = fields.number(field, 0);
    fields.expect(value >= 0 && value <= high, field, "a number from 0 to " + std::to_string(static_cast<long>(high)));
    return value;
  };
  g.temperature = number("temperature", 1e6);
  g.top_p = number("top_p", 1);
  if (fields.find("top_k") != nullptr) {
    g.top_k = fields.integer("top_k", 0);
    fields.expect(*g.top_k >= -1, "top_k", "a number of tokens, or 0 or -1 for no limit");
    g.top_k = std::max(*g.top_k, Index{0});
  }
  if (fields.contains("do_sample") && !fields.boolean("do_sample", true)) g.temperature = 0;
  return g;
}

/// The ids that begin every text; `tokenizer`, an io::Tokenizer, is that of `folder`. (A template, for readers of config.json include this
/// header and shall not need PCRE2.) An add_bos_token in tokenizer_config.json counts before the
/// post-processor, as transformers' tokenizer classes write the one by the other.
///
/// Throws: Error naming file and field.
template <class Tokenizer>
[[nodiscard]] std::vector<int> read_begin(const std::filesystem::path& folder, const Config& config, const Tokenizer& tokenizer) {
  const auto settings_file = folder / "tokenizer_config.json";
  const auto settings = detail::read_settings(settings_file);
  const Fields fields(settings, settings_file.string());
  if (fields.find("add_bos_token") != nullptr) {
    const bool wanted = fields.boolean("add_bos_token", false);
    return wanted && config.bos_token_id ? std::vector<int>{*config.bos_token_id} : std::vector<int>{};
  }
  return detail::template_begin(tokenizer.post_processor(), config, tokenizer.name() + ": post_processor");
}

/// `ids` of a text, begun by `begin` unless its author has begun it so: no begin token is doubled.
[[nodiscard]] inline std::vector<int> begin_text(const std::vector<int>& begin, std::vector<int> ids) {
  if (ids.size() < begin.size() || !std::equal(begin.begin(), begin.end(), ids.begin()))
    ids.insert(ids.begin(), begin.begin(), begin.end());
  return ids;
}

}  // namespace dsv3::inline DSV3_ISA::io
