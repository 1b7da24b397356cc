// Floor 6. What is done to text before it is cut: the "normalizer" of a tokenizer.json.
//
// Supported are NFC, NFD, Prepend, Replace, Strip, and Sequences of them; what is left out (other normal forms, case, accents) needs tables
// that no relative of DeepSeek-V3 asks for.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dsv3/core/error.hpp"
#include "dsv3/io/json.hpp"
#include "dsv3/io/normal_form.hpp"
#include "dsv3/io/regex.hpp"
#include "dsv3/io/white_space.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// The steps of a normalizer; constant once read.
class Normalizer {
 public:
  /// No steps: text stays as it is.
  Normalizer() = default;

  /// Reads the value of "normalizer", null for none; `where` names it in messages.
  ///
  /// Throws: Error naming a step that is not supported, or the field that is missing or of a wrong type.
  Normalizer(const nlohmann::json& json, const std::string& where) {
    if (!json.is_null()) add(json, where);
  }

  /// `text`, valid UTF-8, after all steps: `text` itself, or what is now in `storage`.
  ///
  /// Throws: Error if a pattern backtracks, or the text grows, out of proportion to the text.
  std::string_view apply(std::string_view text, std::string& storage) const {
    const std::size_t max_bytes = 16 * text.size() + (std::size_t{1} << 20);  // steps that double the text may be many
    for (const Step& step : steps_) {
      if (text.empty()) break;
      std::string next;
      switch (step.kind) {
        case Kind::compose:
        case Kind::decompose:
          next = normal_form(text, step.kind == Kind::compose);
          break;
        case Kind::prepend:
          next = step.content + std::string(text);
          break;
        case Kind::replace:
          next = replace(step, text, max_bytes);
          break;
        case Kind::strip:
          if (step.left) text.remove_prefix(leading_space(text));
          if (step.right) text.remove_suffix(trailing_space(text));
          next = text;
          break;
      }
      check_size(next.size(), max_bytes);
      storage = std::move(next);
      text = storage;
    }
    return text;
  }

 private:
  enum class Kind { compose, decompose, prepend, replace, strip };
  struct Step {
    Kind kind;
    std::string content = {};           // to prepend, or to put in place of a match
    std::optional<Regex> pattern = {};  // of replace
    bool left = false, right = false;   // of strip
  };
  static constexpr std::size_t max_steps = 32;

  static void check_size(std::size_t bytes, std::size_t max_bytes) {
    require(bytes <= max_bytes, "normalizer: expected at most ", max_bytes, " bytes of normalized text, found more");
  }

  static std::string replace(const Step& step, std::string_view text, std::size_t max_bytes) {
    std::string out;
    std::size_t done = 0;
    step.pattern->each_match(text, Regex::Limits(text.size()), [&](std::size_t begin, std::size_t end) {
      out.append(text.substr(done, begin - done)).append(step.content);
      check_size(out.size(), max_bytes);
      done = end;
    });
    return out.append(text.substr(done));
  }

  void add(const nlohmann::json& json, const std::string& where) {
    require(steps_.size() < max_steps, where, ": expected at most ", max_steps, " steps, found more");
    const std::string type = json_string(json, "type", where);
    if (type == "Sequence") {
      const nlohmann::json& parts = json_member(json, "normalizers", where);
      require(parts.is_array(), where, ".normalizers: expected an array, found ", describe(parts));
      for (std::size_t i = 0; i < parts.size(); ++i) add(parts[i], where + ".normalizers[" + std::to_string(i) + "]");
    } else if (type == "NFC" || type == "NFD") {
      steps_.push_back({type == "NFC" ? Kind::compose : Kind::decompose});
    } else if (type == "Prepend") {
      steps_.push_back({Kind::prepend, json_string(json, "prepend", where)});
    } else if (type == "Replace") {
      Regex pattern = read_pattern(json_member(json, "pattern", where), where);
      require(!pattern.matches_empty(), where, ".pattern: expected one that cannot match nothing, found one that can (not supported)");
      steps_.push_back({Kind::replace, json_string(json, "content", where), std::move(pattern)});
    } else if (type == "Strip") {
      steps_.push_back({Kind::strip, {}, {}, json_bool(json, "strip_left", where), json_bool(json, "strip_right", where)});
    } else {
      fail(where, ".type: expected NFC, NFD, Prepend, Replace, Strip or Sequence, found ", quote(type), " (not supported)");
    }
  }

  std::vector<Step> steps_;
};

}  // namespace dsv3::inline DSV3_ISA::io
