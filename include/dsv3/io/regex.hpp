// Floor 6. One compiled pattern of a tokenizer: PCRE2 reads it as Oniguruma, for which tokenizer files are written, would.
//
// Categories and scripts of characters are those of the PCRE2 found on the machine: characters newer than its Unicode version may match
// otherwise.
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

#include "dsv3/core/error.hpp"
#include "dsv3/io/json.hpp"
#include "dsv3/io/oniguruma.hpp"
#include "dsv3/io/utf8.hpp"

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8
#elif PCRE2_CODE_UNIT_WIDTH != 8
#error "dsv3/io/regex.hpp needs PCRE2_CODE_UNIT_WIDTH 8"
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

/// How the PCRE2 that the program runs with writes the property "script": since 10.40, \p{Han} alone means "used with Han" as well.
inline std::string_view pcre2_script_prefix() {
  std::array<char, 64> version{};
  pcre2_config(PCRE2_CONFIG_VERSION, version.data());
  return std::string_view(version.data()) < "10.40" ? "" : "sc:";
}

}  // namespace detail

/// A pattern; constant once compiled, so threads may share one.
class Regex {
 public:
  /// Limits of the work on one text. Not shared by threads.
  class Limits {
   public:
    explicit Limits(std::size_t text_bytes) : context_(pcre2_match_context_create(nullptr)) {
      require(context_ != nullptr, "regular expressions: out of memory");
      // Published patterns go over a run of white space a few times, which is the most they backtrack.
      const std::uint64_t match_limit = 1'000'000 + 16 * std::uint64_t{text_bytes};
      pcre2_set_match_limit(context_.get(), static_cast<std::uint32_t>(std::min<std::uint64_t>(match_limit, UINT32_MAX)));
      pcre2_set_heap_limit(context_.get(), 256 * 1024);  // KiB
    }

   private:
    friend class Regex;
    detail::Pcre2MatchContext context_;
  };

  /// Compiles a pattern in Oniguruma's dialect, or with `literal` a plain string.
  ///
  /// Throws: Error, opened by `where`, if the pattern is not valid or uses a construct that is not supported.
  Regex(std::string_view pattern, bool literal, std::string where) : where_(std::move(where) + ": pattern " + quote(pattern)) {
    const std::string translated = literal ? std::string(pattern) : pcre2_from_oniguruma(pattern, detail::pcre2_script_prefix(), where_);
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

  /// Whether the pattern may match no characters at all.
  bool matches_empty() const {
    std::uint32_t empty = 0;
    pcre2_pattern_info(code_.get(), PCRE2_INFO_MATCHEMPTY, &empty);
    return empty != 0;
  }

  /// Calls `found(begin, end)` with the matches in `text`, valid UTF-8, from left to right. They do not overlap.
  ///
  /// Throws: Error if matching exceeds `limits`.
  template <class Found>
  void each_match(std::string_view text, const Limits& limits, Found&& found) const {
    const detail::Pcre2MatchData match(pcre2_match_data_create_from_pattern(code_.get(), nullptr));
    require(match != nullptr, where_, ": out of memory");
    std::size_t last_end = text.npos;
    for (std::size_t from = 0; from <= text.size();) {
      if (!find(text, from, limits, match.get())) return;
      const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(match.get());
      const std::size_t begin = ends[0], end = ends[1];
      if (begin == end && end == last_end) {  // an empty match right behind the last one does not count
        from += from < text.size() ? utf8_sequence(text.substr(from)).length : 1;
        continue;
      }
      found(begin, end);
      last_end = from = end;
    }
  }

 private:
  bool find(std::string_view text, std::size_t from, const Limits& limits, pcre2_match_data* match) const {
    const auto run = [&](std::uint32_t options) {
      return pcre2_match(code_.get(), detail::pcre2_text(text), text.size(), from, PCRE2_NO_UTF_CHECK | options, match,
                         limits.context_.get());
    };
    int found = run(0);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = run(PCRE2_NO_JIT);  // the interpreter keeps its stack on the heap
    require(found >= 0 || found == PCRE2_ERROR_NOMATCH, where_, ": matching gave up: ", detail::pcre2_message(found));
    return found >= 0;
  }

  std::string where_;
  std::shared_ptr<const pcre2_code> code_;  // shared by copies, never changed
};

/// Reads a "pattern" of a tokenizer.json, {"Regex": ...} or {"String": ...}; `where` names the object that it belongs to.
///
/// Throws: Error as the constructor of Regex, or naming the field that is missing or of a wrong type.
inline Regex read_pattern(const nlohmann::json& pattern, const std::string& where) {
  const bool literal = pattern.is_object() && pattern.contains("String");
  return Regex(json_string(pattern, literal ? "String" : "Regex", where + ".pattern"), literal, where);
}

}  // namespace dsv3::inline DSV3_ISA::io
