// Floor 6. What is done to the bytes of tokens once they are joined: the "decoder" of a tokenizer.json.
//
// Supported are ByteLevel, alone or as the first step of a Sequence, and behind it Fuse (for nothing is left to fuse), Replace and Strip.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "dsv3/core/error.hpp"
#include "dsv3/io/json.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// The steps behind ByteLevel; constant once read.
class Decoder {
 public:
  /// Bytes stay as they are.
  Decoder() = default;

  /// Reads the value of "decoder"; `where` names it in messages.
  ///
  /// Throws: Error naming a step that is not supported, or the field that is missing or of a wrong type.
  Decoder(const nlohmann::json& json, const std::string& where) {
    const std::string& type = json_string(json, "type", where);
    if (type == "ByteLevel") return;
    require(type == "Sequence", where, ".type: expected \"ByteLevel\" or \"Sequence\", found ", quote(type), " (not supported)");
    const nlohmann::json& parts = json_member(json, "decoders", where);
    require(parts.is_array() && !parts.empty(), where, ".decoders: expected an array that begins with ByteLevel, found ", describe(parts));
    for (std::size_t i = 0; i < parts.size(); ++i) add(parts[i], i == 0, where + ".decoders[" + std::to_string(i) + "]");
  }

  /// Throws: Error if the text grows out of proportion.
  std::string apply(std::string text) const {
    const std::size_t max_bytes = 16 * text.size() + (std::size_t{1} << 20);  // steps that double the text may be many
    for (const Step& step : steps_) text = step.is_strip ? strip(step, text) : replace(step, text, max_bytes);
    return text;
  }

 private:
  struct Step {
    bool is_strip;
    std::string from, to;             // of replace; from: of strip, the text to take away
    std::size_t start = 0, stop = 0;  // of strip: how often at most at either end
  };
  static constexpr std::size_t max_steps = 32;

  static std::string strip(const Step& step, std::string_view text) {
    for (std::size_t i = 0; i < step.start && text.starts_with(step.from); ++i) text.remove_prefix(step.from.size());
    for (std::size_t i = 0; i < step.stop && text.ends_with(step.from); ++i) text.remove_suffix(step.from.size());
    return std::string(text);
  }

  static std::string replace(const Step& step, std::string_view text, std::size_t max_bytes) {
    std::string out;
    for (std::size_t done = 0;;) {
      const std::size_t found = text.find(step.from, done);
      out.append(text.substr(done, found - done));
      if (found == text.npos) return out;
      out += step.to;
      require(out.size() <= max_bytes, "decoder: expected at most ", max_bytes, " bytes of text, found more");
      done = found + step.from.size();
    }
  }

  void add(const nlohmann::json& json, bool is_first, const std::string& where) {
    require(steps_.size() < max_steps, where, ": expected at most ", max_steps, " steps, found more");
    const std::string& type = json_string(json, "type", where);
    require((type == "ByteLevel") == is_first, where, ".type: expected ", is_first ? "ByteLevel" : "Fuse, Replace or Strip", ", found ",
            quote(type), " (not supported)");
    if (type == "ByteLevel" || type == "Fuse") return;
    require(type == "Replace" || type == "Strip", where, ".type: expected Fuse, Replace or Strip, found ", quote(type), " (not supported)");
    Step step{type == "Strip", {}, {}};
    if (step.is_strip) {
      step.from = json_string(json, "content", where);
      step.start = count(json, "start", where);
      step.stop = count(json, "stop", where);
    } else {
      step.from = json_string(json_member(json, "pattern", where), "String", where + ".pattern");
      step.to = json_string(json, "content", where);
    }
    require(!step.from.empty(), where, step.is_strip ? ".content" : ".pattern.String", ": expected text, found \"\"");
    steps_.push_back(step);
  }

  static std::size_t count(const nlohmann::json& json, const char* key, const std::string& where) {
    const nlohmann::json& value = json_member(json, key, where);
    require(value.is_number_unsigned(), where, ".", key, ": expected a whole number, found ", describe(value));
    return value.get<std::size_t>();
  }

  std::vector<Step> steps_;
};

}  // namespace dsv3::inline DSV3_ISA::io
