// Floor 6. Cuts text into the pieces that byte-pair encoding then treats one by one: the "pre_tokenizer" of a tokenizer.json.
//
// Supported are the steps that published byte-level tokenizers use: Split with behavior Isolated, Digits, and ByteLevel as the last.
// Categories of characters are those of the PCRE2 found on the machine: characters newer than its Unicode version may be cut otherwise.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dsv3/core/error.hpp"
#include "dsv3/io/json.hpp"
#include "dsv3/io/oniguruma.hpp"
#include "dsv3/io/utf8.hpp"

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8
#elif PCRE2_CODE_UNIT_WIDTH != 8
#error "dsv3/io/pre_tokenizer.hpp needs PCRE2_CODE_UNIT_WIDTH 8"
#endif
#include <pcre2.h>

namespace dsv3::inline DSV3_ISA::io {

namespace detail {

/// Makes a unique_ptr deleter of one of PCRE2's functions.
template <auto Free>
struct Pcre2Free {
  template <class T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Pcre2Code = std::unique_ptr<pcre2_code, Pcre2Free<pcre2_code_free>>;
using Pcre2CompileContext = std::unique_ptr<pcre2_compile_context, Pcre2Free<pcre2_compile_context_free>>;
using Pcre2MatchContext = std::unique_ptr<pcre2_match_context, Pcre2Free<pcre2_match_context_free>>;
using Pcre2MatchData = std::unique_ptr<pcre2_match_data, Pcre2Free<pcre2_match_data_free>>;

inline std::string pcre2_message(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

inline PCRE2_SPTR pcre2_text(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

}  // namespace detail

/// One compiled pattern: its matches and the text between them become pieces.
class RegexSplitter {
 public:
  /// Compiles a pattern in Oniguruma's dialect, or with `literal` a plain string.
  ///
  /// Throws: Error, opened by `where`, if the pattern is not valid or uses a construct that is not supported.
  RegexSplitter(std::string_view pattern, bool literal, std::string where) : where_(std::move(where) + ": pattern " + quote(pattern)) {
    const std::string translated = literal ? std::string(pattern) : pcre2_from_oniguruma(pattern, where_);
    const detail::Pcre2CompileContext context(pcre2_compile_context_create(nullptr));
    require(context != nullptr, where_, ": out of memory");
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    const std::uint32_t options = literal ? PCRE2_UTF | PCRE2_LITERAL : PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE;
    int error = 0;
    PCRE2_SIZE at = 0;
    detail::Pcre2Code code(pcre2_compile(detail::pcre2_text(translated), translated.size(), options, &error, &at, context.get()));
    require(code != nullptr, where_, ": not a valid regular expression: ", detail::pcre2_message(error));
    pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);  // where there is no JIT, pcre2_match interprets
    code_ = std::move(code);
  }

  /// Calls `emit(std::string_view)` with the pieces of `text`, valid UTF-8, in order; none is empty.
  ///
  /// Throws: Error if matching exceeds the limits of `context`.
  template <class Emit>
  void split(std::string_view text, pcre2_match_context* context, Emit&& emit) const {
    const detail::Pcre2MatchData match(pcre2_match_data_create_from_pattern(code_.get(), nullptr));
    require(match != nullptr, where_, ": out of memory");
    std::size_t done = 0;
    for (std::size_t from = 0; from <= text.size();) {
      if (!find(text, from, context, match.get())) break;
      const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(match.get());
      const std::size_t begin = ends[0], end = ends[1];
      if (begin == end && end == done) {  // an empty match right behind the last one does not count
        from += from < text.size() ? utf8_sequence(text.substr(from)).length : 1;
        continue;
      }
      if (begin > done) emit(text.substr(done, begin - done));
      if (end > begin) emit(text.substr(begin, end - begin));
      done = from = end;
    }
    if (done < text.size()) emit(text.substr(done));
  }

 private:
  bool find(std::string_view text, std::size_t from, pcre2_match_context* context, pcre2_match_data* match) const {
    int found = pcre2_match(code_.get(), detail::pcre2_text(text), text.size(), from, PCRE2_NO_UTF_CHECK, match, context);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT)  // the interpreter keeps its stack on the heap
      found = pcre2_match(code_.get(), detail::pcre2_text(text), text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match, context);
    require(found >= 0 || found == PCRE2_ERROR_NOMATCH, where_, ": matching gave up: ", detail::pcre2_message(found));
    return found >= 0;
  }

  std::string where_;
  std::shared_ptr<const pcre2_code> code_;  // shared by copies, never changed
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

  /// Calls `emit(std::string_view)` with the pieces of `text`, valid UTF-8, in order; none is empty. The bytes are left as they are.
  ///
  /// Throws: Error if a pattern backtracks out of proportion to the text.
  template <class Emit>
  void split(std::string_view text, Emit&& emit) const {
    const detail::Pcre2MatchContext context(pcre2_match_context_create(nullptr));
    require(context != nullptr, "pre_tokenizer: out of memory");
    // Published patterns go over a run of white space a few times, which is the most they backtrack.
    const std::uint64_t match_limit = 1'000'000 + 16 * std::uint64_t{text.size()};
    pcre2_set_match_limit(context.get(), static_cast<std::uint32_t>(std::min<std::uint64_t>(match_limit, UINT32_MAX)));
    pcre2_set_heap_limit(context.get(), 256 * 1024);  // KiB
    split_from(0, text, context.get(), emit);
  }

 private:
  static constexpr std::size_t max_steps = 32;  // they nest on the stack
  static constexpr std::string_view gpt2_pattern = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

  template <class Emit>
  void split_from(std::size_t step, std::string_view text, pcre2_match_context* context, Emit& emit) const {
    if (step == steps_.size()) {
      if (!text.empty()) emit(text);
      return;
    }
    steps_[step].split(text, context, [&](std::string_view piece) { split_from(step + 1, piece, context, emit); });
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
      steps_.emplace_back(json_bool(json, "individual_digits", where) ? "\\p{N}" : "\\p{N}+", false, where);
    } else if (type == "ByteLevel") {
      require(!json_bool(json, "add_prefix_space", where), where, ".add_prefix_space: expected false, found true (not supported)");
      const bool use_regex = !json.contains("use_regex") || json_bool(json, "use_regex", where);
      if (use_regex) steps_.emplace_back(gpt2_pattern, false, where);
      is_byte_level_ = true;
    } else {
      fail(where, ".type: expected Sequence, Split, Digits or ByteLevel, found ", quote(type), " (not supported)");
    }
  }

  void add_split(const nlohmann::json& json, const std::string& where) {
    const std::string behavior = json_string(json, "behavior", where);
    require(behavior == "Isolated", where, ".behavior: expected \"Isolated\", found ", quote(behavior), " (not supported)");
    require(!json_bool(json, "invert", where), where, ".invert: expected false, found true (not supported)");
    const nlohmann::json& pattern = json_member(json, "pattern", where);
    const bool literal = pattern.is_object() && pattern.contains("String");
    steps_.emplace_back(json_string(pattern, literal ? "String" : "Regex", where + ".pattern"), literal, where);
  }

  std::vector<RegexSplitter> steps_;
  bool is_byte_level_ = false;
};

}  // namespace dsv3::inline DSV3_ISA::io
