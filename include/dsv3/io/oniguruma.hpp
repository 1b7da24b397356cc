// Floor 6. Tokenizer files write patterns for Oniguruma; this carries them over to PCRE2.
//
// The two agree on the constructs that published tokenizers use, except for \s, scripts, and what may stand in a class of characters:
// PCRE2 has no classes in classes and no intersections (&&), which become lookaheads and alternatives here. What they read differently, or
// what no tokenizer needs (named groups, back references, POSIX brackets, \w, \b), is refused: a pattern must not change its meaning in
// silence.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dsv3/core/error.hpp"
#include "dsv3/io/json.hpp"

namespace dsv3::inline DSV3_ISA::io {

namespace detail {

/// Goes through one pattern from its first to its last byte.
class OnigurumaReader {
 public:
  OnigurumaReader(std::string_view pattern, std::string_view script_prefix, std::string_view where)
      : pattern_(pattern), script_prefix_(script_prefix), where_(where) {}

  std::string translate() {
    static constexpr std::array<std::string_view, 7> group_openers{"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"};
    std::string out;
    while (at_ < pattern_.size()) {
      const std::string_view next = rest();
      if (next[0] == '\\') {
        out += escape(false);
      } else if (next[0] == '[') {
        out += read_class(1);
      } else {
        const auto opens = [&](std::string_view group) { return next.starts_with(group); };
        refuse_if(next.starts_with("(*") || (next.starts_with("(?") && std::ranges::none_of(group_openers, opens)), 4);
        refuse_if(next.starts_with("{,") || next.starts_with("}+") || next.starts_with("}?"), 2);
        out += next[0];
        ++at_;
      }
    }
    return out;
  }

 private:
  static constexpr int max_class_depth = 16;  // classes nest on the stack
  // The Unicode property White_Space. PCRE2's own \s has U+180E besides. At either end a hyphen next to it is literal.
  static constexpr std::string_view space_class = "\\p{Z}\\x{85}\\t-\\r";

  std::string_view rest() const { return pattern_.substr(at_); }

  void refuse_if(bool bad, std::size_t length) const {
    require(!bad, where_, ": ", quote(rest().substr(0, length)), " at byte ", at_, " of the pattern ", quote(pattern_),
            " is not supported");
  }

  /// Reads a backslash and what belongs to it.
  std::string escape(bool in_class) {
    const std::string_view text = rest();
    const char letter = text.size() > 1 ? text[1] : '\0';
    const auto is_between = [](char c, char low, char high) { return low <= c && c <= high; };
    const auto take = [&](std::size_t length) {
      at_ += length;
      return std::string(text.substr(0, length));
    };
    if (letter == 's' || letter == 'S') {
      at_ += 2;
      return in_class ? std::string(space_class) : (letter == 's' ? "[" : "[^") + std::string(space_class) + "]";
    }
    if (letter == 'p' || letter == 'P') return property();
    if (letter == 'x') {  // without braces it is a byte for one and a code point for the other
      const std::size_t close = text.find('}');
      refuse_if(close == text.npos || text[2] != '{', 2);
      return take(close + 1);
    }
    const bool is_word = is_between(letter, 'a', 'z') || is_between(letter, 'A', 'Z') || is_between(letter, '0', '9') || letter == '_';
    refuse_if(letter == '\0' || (is_word && std::string_view("dDrntf").find(letter) == text.npos), 2);
    return take(2);
  }

  /// A general category, \p{L} or \p{Lu}, or a script, \p{Han}; names that PCRE2 does not know are left to pcre2_compile.
  std::string property() {
    const std::string_view text = rest();
    const std::size_t close = text.find('}');
    refuse_if(close == text.npos || text[2] != '{', 2);
    const std::string_view name = text.substr(3, close - 3);
    const auto is_lower = [](char c) { return 'a' <= c && c <= 'z'; };
    const auto is_upper = [](char c) { return 'A' <= c && c <= 'Z'; };
    const auto may_follow = [&](char c) { return is_lower(c) || is_upper(c) || c == '_'; };
    const bool is_category = !name.empty() && name.size() <= 2 && std::string_view("LMNPSZC").find(name[0]) != text.npos &&
                             std::ranges::all_of(name.substr(1), is_lower);
    const bool is_script =
        name.size() > 2 && name.size() < 40 && is_upper(name[0]) && std::ranges::all_of(name, may_follow) && name != "Any";
    refuse_if(!is_category && !is_script, close + 1);
    at_ += close + 1;
    return std::string(text.substr(0, 3)).append(is_script ? script_prefix_ : "").append(name) + "}";
  }

  /// Reads a class from its opening bracket on. What it returns matches one character, as the class does.
  std::string read_class(int depth) {
    refuse_if(depth > max_class_depth, 1);
    refuse_if(rest().starts_with("[]") || rest().starts_with("[^]"), 3);
    const std::size_t begin = at_++;
    const bool negated = rest().starts_with("^");
    at_ += negated;
    std::vector<std::string> sides;  // of the && in it
    std::string items;               // of the side being read, as they stand between PCRE2's brackets
    std::vector<std::string> parts;  // of that side: classes in the class
    const auto end_side = [&] {
      refuse_if(items.empty() && parts.empty(), 2);
      const bool is_plain = parts.empty() && sides.empty() && !rest().starts_with("&&");
      if (!items.empty()) parts.insert(parts.begin(), std::string(negated && is_plain ? "[^" : "[") + items + "]");
      std::string side = parts[0];
      for (std::size_t i = 1; i < parts.size(); ++i) side += "|" + parts[i];
      sides.push_back(parts.size() == 1 ? side : "(?:" + side + ")");
      items.clear();
      parts.clear();
      return is_plain;
    };
    while (at_ < pattern_.size() && rest()[0] != ']') {
      const std::string_view next = rest();
      if (next.starts_with("&&")) {
        end_side();
        at_ += 2;
        refuse_if(rest().starts_with("&") || rest().starts_with("-"), 1);
      } else if (next[0] == '[') {
        refuse_if(next.starts_with("[:"), 2);
        parts.push_back(read_class(depth + 1));
        refuse_if(rest().starts_with("-") && !rest().starts_with("-]"), 2);
      } else if (next.starts_with("\\S")) {  // beside other items a class of its own
        at_ += 2;
        parts.push_back("[^" + std::string(space_class) + "]");
        refuse_if(rest().starts_with("-") && !rest().starts_with("-]"), 2);
      } else if (next[0] == '\\') {
        items += escape(true);
      } else {
        // A hyphen before a class is read by one as itself, by the other as the middle of a range.
        refuse_if(next.starts_with("-[") || next.starts_with("-&&") || next.starts_with("-\\S"), 2);
        items += next[0];
        ++at_;
      }
    }
    require(at_ < pattern_.size(), where_, ": \"[\" at byte ", begin, " of the pattern ", quote(pattern_), " is not closed");
    const bool is_plain = end_side();
    ++at_;
    if (is_plain) return sides[0];
    std::string one;  // every side looks at the same character, which the last one takes
    for (std::size_t i = 0; i + 1 < sides.size(); ++i) one += "(?=" + sides[i] + ")";
    one += sides.back();
    return negated ? "(?:(?!" + one + ")[\\x{0}-\\x{10FFFF}])" : "(?:" + one + ")";
  }

  std::string_view pattern_, script_prefix_, where_;
  std::size_t at_ = 0;
};

}  // namespace detail

/// `pattern` as PCRE2 reads it under UTF, UCP, MULTILINE and newline LF; `script_prefix` is what it puts before the name of a script, and
/// `where` opens the error message.
///
/// Throws: Error naming the first construct that is not carried over. Other mistakes are left to pcre2_compile.
inline std::string pcre2_from_oniguruma(std::string_view pattern, std::string_view script_prefix, std::string_view where) {
  return detail::OnigurumaReader(pattern, script_prefix, where).translate();
}

}  // namespace dsv3::inline DSV3_ISA::io
