// Floor 6. Cuts text into the pieces that byte-pair encoding then treats one by one: the "pre_tokenizer" of a tokenizer.json.
//
// Supported are the steps that published byte-level tokenizers use: Split, Digits, and ByteLevel as the last. What is between the pieces
// may be dropped (Split with behavior Removed), and a space may be put before a piece (ByteLevel with add_prefix_space).
#pragma once

#include <array>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dsv3/core/error.hpp"
#include "dsv3/io/json.hpp"
#include "dsv3/io/regex.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// A pattern, and what becomes of its matches and of the text between them.
class Splitter {
 public:
  /// What "behavior" says of a match: it is dropped, is a piece, joins the text before or after it, or the matches beside it.
  enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

  /// `invert`: the text between the matches counts as matches, and these as the text between.
  explicit Splitter(Regex regex, Behavior behavior = Behavior::isolated, bool invert = false)
      : regex_(std::move(regex)), behavior_(behavior), invert_(invert) {}

  /// Calls `emit(std::string_view)` with the pieces of `text`, valid UTF-8, in order; none is empty.
  ///
  /// Throws: Error if matching exceeds `limits`.
  template <class Emit>
  void split(std::string_view text, const Regex::Limits& limits, Emit&& emit) const {
    // A part waits until it is known what follows joins it. The rules are those of Hugging Face, empty matches included: they are no
    // pieces, but they count as matches between two texts.
    std::size_t begin = 0, end = 0;
    bool waits = false, was_match = false;
    const auto flush = [&] {
      if (waits && end > begin) emit(text.substr(begin, end - begin));
      waits = false;
    };
    const auto part = [&](std::size_t from, std::size_t to, bool matched) {
      const bool is_match = matched != invert_;
      bool joins = false;
      switch (behavior_) {
        case Behavior::removed:
        case Behavior::isolated:
          break;
        case Behavior::merged_with_previous:
          joins = is_match && !was_match;
          break;
        case Behavior::merged_with_next:
          joins = was_match && !is_match;
          break;
        case Behavior::contiguous:
          joins = is_match == was_match;
          break;
      }
      was_match = is_match;
      if (!joins || !waits) {
        flush();
        if (behavior_ == Behavior::removed && is_match) return;
        begin = from;
        waits = true;
      }
      end = to;
    };
    std::size_t done = 0;
    regex_.each_match(text, limits, [&](std::size_t from, std::size_t to) {
      if (from > done) part(done, from, false);
      part(from, to, true);
      done = to;
    });
    if (done < text.size()) part(done, text.size(), false);
    flush();
  }

 private:
  Regex regex_;
  Behavior behavior_;
  bool invert_;
};

/// The splitting steps of a tokenizer, applied one to the pieces of the other.
class PreTokenizer {
 public:
  /// Reads the value of "pre_tokenizer"; `where` names it in messages.
  ///
  /// Throws: Error naming a step or a setting that is not supported, or the field that is missing or of a wrong type.
  PreTokenizer(const nlohmann::json& json, const std::string& where) {
    add(json, where);
    require(is_byte_level_, where, ": expected ByteLevel as the last step, found none (only byte-level tokenizers are supported)");
  }

  /// One step: matches of `regex` and the text between them are the pieces.
  explicit PreTokenizer(Regex regex) : is_byte_level_(true) { steps_.emplace_back(std::move(regex)); }

  /// Calls `emit(std::string_view)` with the pieces of `text`, valid UTF-8, in order; none is empty. They live as long as the call.
  ///
  /// Throws: Error if a pattern backtracks out of proportion to the text.
  template <class Emit>
  void split(std::string_view text, Emit&& emit) const {
    split_from(0, text, Regex::Limits(text.size()), emit);
  }

 private:
  static constexpr std::size_t max_steps = 32;  // they nest on the stack
  static constexpr std::string_view gpt2_pattern = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

  template <class Emit>
  void split_from(std::size_t step, std::string_view text, const Regex::Limits& limits, Emit& emit) const {
    if (step == prefix_space_before_ && !text.empty() && text[0] != ' ')
      apply(step, std::string(1, ' ').append(text), limits, emit);
    else
      apply(step, text, limits, emit);
  }

  template <class Emit>
  void apply(std::size_t step, std::string_view text, const Regex::Limits& limits, Emit& emit) const {
    if (step < steps_.size())
      steps_[step].split(text, limits, [&](std::string_view piece) { split_from(step + 1, piece, limits, emit); });
    else if (!text.empty())
      emit(text);
  }

  void add(const nlohmann::json& json, const std::string& where) {
    require(!is_byte_level_, where, ": expected nothing after ByteLevel, found another step");
    require(steps_.size() < max_steps, where, ": expected at most ", max_steps, " steps, found more");
    const std::string type = json_string(json, "type", where);
    if (type == "Sequence") {
      const nlohmann::json& parts = json_member(json, "pretokenizers", where);
      require(parts.is_array(), where, ".pretokenizers: expected an array, found ", describe(parts));
      for (std::size_t i = 0; i < parts.size(); ++i) add(parts[i], where + ".pretokenizers[" + std::to_string(i) + "]");
    } else if (type == "Split") {
      add_split(json, where);
    } else if (type == "Digits") {
      steps_.emplace_back(Regex(json_bool(json, "individual_digits", where) ? "\\p{N}" : "\\p{N}+", false, where));
    } else if (type == "ByteLevel") {
      if (json_bool(json, "add_prefix_space", where)) prefix_space_before_ = steps_.size();
      const bool use_regex = !json.contains("use_regex") || json_bool(json, "use_regex", where);
      if (use_regex) steps_.emplace_back(Regex(gpt2_pattern, false, where));
      is_byte_level_ = true;
    } else {
      fail(where, ".type: expected Sequence, Split, Digits or ByteLevel, found ", quote(type), " (not supported)");
    }
  }

  void add_split(const nlohmann::json& json, const std::string& where) {
    static constexpr std::array<std::string_view, 5> behaviors{"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const std::string behavior = json_string(json, "behavior", where);
    std::size_t which = 0;
    while (which < behaviors.size() && behaviors[which] != behavior) ++which;
    require(which < behaviors.size(), where,
            ".behavior: expected Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous, found ", quote(behavior));
    const bool invert = json_bool(json, "invert", where);
    steps_.emplace_back(read_pattern(json_member(json, "pattern", where), where), static_cast<Splitter::Behavior>(which), invert);
  }

  std::vector<Splitter> steps_;
  std::optional<std::size_t> prefix_space_before_;  // the number of a step, or of steps: before the last piece is handed on
  bool is_byte_level_ = false;
};

}  // namespace dsv3::inline DSV3_ISA::io
