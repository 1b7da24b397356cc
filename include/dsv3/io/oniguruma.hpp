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
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
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
        out += read_class(1).text;
      } else {
        const auto opens = [&](std::string_view group) { return next.starts_with(group); };
        refuse_if(next.starts_with("(*") || (next.starts_with("(?") && std::ranges::none_of(group_openers, opens)), 4);
        refuse_if(next.starts_with("{,") || next.starts_with("}+") || next.starts_with("}?"), 2);
        if (next[0] == '(') caseless_.push_back(is_caseless() || next.starts_with("(?i:"));
        if (next[0] == ')' && !caseless_.empty()) caseless_.pop_back();
        out += next[0];
        ++at_;
      }
    }
    return out;
  }

 private:
  /// A class of characters as PCRE2 takes it, and the items between its brackets if it is [^items].
  struct Class {
    std::string text, excluded;
  };

  /// What stands on one side of && in a class: a union of items and of other classes.
  struct Side {
    bool is_empty() const { return items.empty() && classes.empty(); }

    /// Alternatives of which the first that matches counts: one after the other would double the work with each character.
    std::string text() const {
      std::string out = items.empty() ? "" : "[" + items + "]";
      for (const Class& c : classes) out += (out.empty() ? "" : "|") + c.text;
      return classes.size() + !items.empty() == 1 ? out : "(?>" + out + ")";
    }

    std::string items = {};
    std::vector<Class> classes = {};
    std::uint32_t categories = 0;  // of the items
    bool is_categories = true;     // the items are nothing else
  };

  static constexpr std::array<std::string_view, 30> category_names{"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl",
                                                                   "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc",
                                                                   "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn"};
  static constexpr std::uint32_t all_categories = (std::uint32_t{1} << category_names.size()) - 1;
  static constexpr int max_class_depth = 16;  // classes nest on the stack
  // The Unicode property White_Space. PCRE2's own \s has U+180E besides. At either end a hyphen next to it is literal.
  static constexpr std::string_view space_class = "\\p{Z}\\x{85}\\t-\\r";

  std::string_view rest() const { return pattern_.substr(at_); }

  bool is_caseless() const { return !caseless_.empty() && caseless_.back(); }

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
    refuse_if(close == text.npos || text[2] != '{' || is_caseless(), 2);  // PCRE2 takes \p{Lu} in (?i: for any case
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
  Class read_class(int depth) {
    refuse_if(depth > max_class_depth, 1);
    refuse_if(rest().starts_with("[]") || rest().starts_with("[^]"), 3);
    const std::size_t begin = at_++;
    const bool negated = rest().starts_with("^");
    at_ += negated;
    std::vector<Side> sides(1);
    while (at_ < pattern_.size() && rest()[0] != ']') {
      const std::string_view next = rest();
      Side& side = sides.back();
      if (next.starts_with("&&")) {
        refuse_if(side.is_empty(), 2);
        at_ += 2;
        refuse_if(rest().starts_with("&") || rest().starts_with("-"), 1);
        sides.emplace_back();
      } else if (next[0] == '[') {
        refuse_if(next.starts_with("[:"), 2);
        side.classes.push_back(read_class(depth + 1));
        refuse_if(rest().starts_with("-") && !rest().starts_with("-]"), 2);
      } else if (next.starts_with("\\S")) {  // beside other items a class of its own
        at_ += 2;
        side.classes.push_back({"[^" + std::string(space_class) + "]", std::string(space_class)});
        refuse_if(rest().starts_with("-") && !rest().starts_with("-]"), 2);
      } else if (next[0] == '\\') {
        const std::string item = escape(true);
        const auto found = categories_of(item);
        side.categories |= found.value_or(0);
        side.is_categories = side.is_categories && found.has_value();
        side.items += item;
      } else {
        // A hyphen before a class is read by one as itself, by the other as the middle of a range.
        refuse_if(next.starts_with("-[") || next.starts_with("-&&") || next.starts_with("-\\S"), 2);
        if (std::string_view(".:=").find(next[0]) != next.npos) side.items += '\\';  // not next to a bracket of PCRE2's
        side.items += next[0];
        side.is_categories = false;
        ++at_;
      }
    }
    require(at_ < pattern_.size(), where_, ": \"[\" at byte ", begin, " of the pattern ", quote(pattern_), " is not closed");
    refuse_if(sides.back().is_empty(), 1);
    ++at_;
    if (sides.size() == 1 && sides[0].classes.empty())
      return {(negated ? "[^" : "[") + sides[0].items + "]", negated ? sides[0].items : ""};
    if (const std::string one = as_one_class(sides, negated); !one.empty()) return {one, ""};
    std::string all;  // every side looks at the same character, which the last one takes
    for (const Side& side : sides) all += &side == &sides.back() ? side.text() : "(?=" + side.text() + ")";
    return {negated ? "(?:(?!" + all + ")[\\x{0}-\\x{10FFFF}])" : "(?:" + all + ")", ""};
  }

  /// Categories less what one negated class excludes, as in the pattern of Moonlight and Kimi: everything but the other categories and
  /// that. PCRE2 repeats a class faster than a group, and without memory for each repetition. Empty if the sides are others.
  static std::string as_one_class(const std::vector<Side>& sides, bool negated) {
    std::uint32_t kept = all_categories;
    std::string excluded;
    for (const Side& side : sides) {
      if (side.classes.empty() && side.is_categories) {
        kept &= side.categories;
      } else {
        if (!side.items.empty() || side.classes.size() != 1 || !excluded.empty()) return "";
        excluded = side.classes[0].excluded;
        if (excluded.empty() || excluded[0] == '-') return "";
      }
    }
    if (kept == all_categories) return "";
    std::string out = negated ? "[" : "[^";
    for (std::size_t i = 0; i < category_names.size(); ++i)
      if ((kept >> i & 1) == 0) out.append("\\p{").append(category_names[i]).append("}");
    return out + excluded + "]";
  }

  /// The set of general categories that an item is, a bit for each; nothing if it is something else.
  static std::optional<std::uint32_t> categories_of(std::string_view item) {
    const std::string_view name = item.substr(0, item.size() - 1).substr(std::min<std::size_t>(item.size() - 1, 3));
    if (!(item.starts_with("\\p{") || item.starts_with("\\P{")) || name.size() > 2) return std::nullopt;
    std::uint32_t found = 0;
    for (std::size_t i = 0; i < category_names.size(); ++i)
      if (category_names[i].starts_with(name)) found |= std::uint32_t{1} << i;
    if (found == 0) return std::nullopt;
    return item[1] == 'p' ? found : ~found & all_categories;
  }

  std::string_view pattern_, script_prefix_, where_;
  std::size_t at_ = 0;
  std::vector<bool> caseless_;  // of the open groups
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
