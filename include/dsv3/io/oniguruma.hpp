// Floor 6. Tokenizer files write patterns for Oniguruma; this carries them over to PCRE2.
//
// The two agree on the constructs that published tokenizers use, except for \s. What they read differently, or what no tokenizer needs
// (named groups, back references, nested classes, \w, \b, scripts), is refused: a pattern must not change its meaning in silence.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <string_view>

#include "dsv3/core/error.hpp"
#include "dsv3/io/json.hpp"

namespace dsv3::inline DSV3_ISA::io {

namespace detail {

/// The length of the escape at the start of `text` that both dialects read alike, 0 if there is none.
inline std::size_t common_escape_length(std::string_view text) {
  const char letter = text.size() > 1 ? text[1] : '\0';
  const auto is_between = [](char c, char low, char high) { return low <= c && c <= high; };
  if (letter == 'p' || letter == 'P') {  // a general category, \p{L} or \p{Lu}
    const std::size_t close = text.find('}');
    if (close == text.npos || text[2] != '{') return 0;
    const std::string_view name = text.substr(3, close - 3);
    const bool is_category = !name.empty() && std::string_view("LMNPSZC").find(name[0]) != name.npos &&
                             (name.size() == 1 || (name.size() == 2 && is_between(name[1], 'a', 'z')));
    return is_category ? close + 1 : 0;
  }
  if (letter == 'x') {  // without braces it is a byte for one and a code point for the other
    const std::size_t close = text.find('}');
    return close == text.npos || text[2] != '{' ? 0 : close + 1;
  }
  const bool is_word = is_between(letter, 'a', 'z') || is_between(letter, 'A', 'Z') || is_between(letter, '0', '9') || letter == '_';
  if (is_word) return std::string_view("dDrntf").find(letter) != std::string_view::npos ? 2 : 0;
  return letter == '\0' ? 0 : 2;
}

}  // namespace detail

/// `pattern` as PCRE2 reads it under UTF, UCP, MULTILINE and newline LF; `where` opens the error message.
///
/// Throws: Error naming the first construct that is not carried over. Other mistakes are left to pcre2_compile.
inline std::string pcre2_from_oniguruma(std::string_view pattern, std::string_view where) {
  // The Unicode property White_Space. PCRE2's own \s has U+180E besides.
  static constexpr std::string_view space_class = "\\p{Z}\\x{85}\\t-\\r";  // at either end a hyphen next to it is literal
  static constexpr std::array<std::string_view, 7> group_openers{"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"};
  std::string out;
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const std::string_view rest = pattern.substr(i);
    const auto refuse_if = [&](bool bad, std::size_t length) {
      require(!bad, where, ": ", quote(rest.substr(0, length)), " at byte ", i, " of the pattern ", quote(pattern), " is not supported");
    };
    const auto starts_group = [&](std::string_view group) { return rest.starts_with(group); };
    if (rest[0] == '\\') {
      if (rest.starts_with("\\s") || (rest.starts_with("\\S") && !in_class)) {
        out += in_class ? "" : rest[1] == 's' ? "[" : "[^";
        out += space_class;
        out += in_class ? "" : "]";
        ++i;
        continue;
      }
      const std::size_t length = detail::common_escape_length(rest);
      refuse_if(length == 0, 2);
      out += rest.substr(0, length);
      i += length - 1;
      continue;
    }
    if (in_class) {
      refuse_if(rest[0] == '[', 1);
      refuse_if(rest.starts_with("&&"), 2);
      in_class = rest[0] != ']';
    } else {
      refuse_if(rest.starts_with("[]") || rest.starts_with("[^]"), 3);
      refuse_if(rest.starts_with("(*") || (rest.starts_with("(?") && std::ranges::none_of(group_openers, starts_group)), 4);
      refuse_if(rest.starts_with("{,") || rest.starts_with("}+") || rest.starts_with("}?"), 2);
      in_class = rest[0] == '[';
    }
    out += rest[0];
  }
  return out;
}

}  // namespace dsv3::inline DSV3_ISA::io
