// Floor 6. Strings of JSON schemas as expressions of GBNF: format, and pattern for the part of regular expressions that a grammar can
// express.
//
// Both describe a string's value; the expressions match it as JSON writes it between the quotes, without the quotes. Patterns cover
// characters, classes, ., groups, |, quantifiers, and ^ and $ at the ends of a pattern.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dsv3/core/error.hpp"
#include "dsv3/io/utf8.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// The expression of a format; nothing for other formats, which only describe. Dates are only those that exist in every year: 29 February
/// is left out.
inline std::optional<std::string> format_expression(std::string_view name) {
  static const std::string
      date =
          "[0-9] [0-9] [0-9] [0-9] \"-\" (((\"0\" [13578]) | (\"1\" [02])) \"-\" ((\"0\" [1-9]) | ([12] [0-9]) | (\"3\" [01])) | "
          "((\"0\" [469]) | \"11\") \"-\" ((\"0\" [1-9]) | ([12] [0-9]) | \"30\") | \"02-\" ((\"0\" [1-9]) | (\"1\" [0-9]) | (\"2\" "
          "[0-8])))",
      hour = "(([01] [0-9]) | (\"2\" [0-3]))", time_of_day = hour + " \":\" [0-5] [0-9] \":\" [0-5] [0-9] (\".\" [0-9]{1,6})?",
      time = time_of_day + " (\"Z\" | ([+\\-] " + hour + " \":\" [0-5] [0-9]))", hex = "[0-9a-f]",
      octet = "((\"25\" [0-5]) | (\"2\" [0-4] [0-9]) | (\"1\" [0-9] [0-9]) | ([1-9] [0-9]) | [0-9])",
      host = "([A-Za-z0-9]{1,40} \".\"){1,4} [A-Za-z]{2,10}";
  static const std::map<std::string_view, std::string> known{
      {"date", date},
      {"time", time},
      {"date-time", date + " \"T\" " + time},
      {"duration", "\"P\" (([0-9]{1,5} \"D\" (\"T\" [0-9]{1,3} \"H\")?) | (\"T\" [0-9]{1,5} [HMS]))"},
      {"uuid", hex + "{8} \"-\" " + hex + "{4} \"-\" " + hex + "{4} \"-\" " + hex + "{4} \"-\" " + hex + "{12}"},
      {"ipv4", octet + " \".\" " + octet + " \".\" " + octet + " \".\" " + octet},
      {"email", "[A-Za-z0-9] [A-Za-z0-9_+\\-]{0,40} \"@\" " + host},
      {"hostname", host},
      {"uri", "\"http\" \"s\"? \"://\" " + host + " (\"/\" [A-Za-z0-9._~\\-]{0,80}){0,20}"}};
  const auto found = known.find(name);
  return found == known.end() ? std::nullopt : std::optional(found->second);
}

namespace detail {

/// A parser by recursive descent.
class PatternParser {
 public:
  explicit PatternParser(std::string_view pattern) : text_(pattern) {}

  std::string parse() {
    const std::string all = alternatives(0);
    if (at_ < text_.size()) wrong("no ')'");
    return all;
  }

 private:
  using Range = std::pair<std::uint32_t, std::uint32_t>;
  static constexpr int max_depth = 50;
  static constexpr std::uint32_t last_character = 0x10FFFF;

  [[noreturn]] void wrong(std::string_view expected) const {
    fail("pattern: expected ", expected, " at byte ", at_, ": only a part of regular expressions is supported");
  }
  bool more() const { return at_ < text_.size(); }
  bool take(char c) {
    if (!more() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  std::string alternatives(int depth) {
    if (depth > max_depth) wrong("groups nested less deep");
    std::string out = "(";
    do {
      if (out.size() > 1) out += " | ";
      const bool from_start = depth == 0 && take('^');
      if (depth == 0 && !from_start) out += "char* ";
      std::string sequence = "\"\" ";
      while (more() && text_[at_] != '|' && text_[at_] != ')' && text_[at_] != '$') {
        sequence += item(depth);
        sequence += quantifier() + " ";
      }
      out += sequence;
      const bool to_end = depth == 0 && take('$');
      if (depth == 0 && !to_end) out += "char* ";
    } while (take('|'));
    if (more() && text_[at_] == '$') wrong("'$' at the end of the pattern");
    return out + ")";
  }

  std::string item(int depth) {
    if (take('(')) {
      if (take('?') && !take(':')) wrong("'(?:', and no other '(?'");
      std::string group = alternatives(depth + 1);
      if (!take(')')) wrong("')'");
      return group;
    }
    if (take('[')) return bracket();
    if (take('.')) return characters({{'\n', '\n'}}, true);
    if (text_[at_] == '\\') {
      const auto [ranges, negated] = escape();
      return characters(ranges, negated);
    }
    if (std::string_view("^*+?{}").find(text_[at_]) != std::string_view::npos) wrong("a character, a class or a group");
    const std::uint32_t c = character();
    return characters({{c, c}}, false);
  }

  std::string quantifier() {
    std::string out;
    if (more() && std::string_view("*+?").find(text_[at_]) != std::string_view::npos) {
      out = text_[at_++];
    } else if (take('{')) {
      const auto end = text_.find('}', at_);
      if (end == text_.npos) wrong("'}'");
      out = "{" + std::string(text_.substr(at_, end - at_)) + "}";
      if (out.size() == 2 || out[1] == ',' || out.find_first_not_of("0123456789,", 1) != out.size() - 1) wrong("'{n}', '{n,}' or '{n,m}'");
      at_ = end + 1;
    }
    if (!out.empty()) take('?');  // lazy quantifiers match the same strings
    if (more() && !out.empty() && std::string_view("*+?{").find(text_[at_]) != std::string_view::npos) wrong("no second quantifier");
    return out;
  }

  std::string bracket() {
    const bool negated = take('^');
    std::vector<Range> ranges;
    for (bool first = true; first || !(more() && text_[at_] == ']'); first = false) {
      if (!more()) wrong("']'");
      if (text_[at_] == '\\') {
        const auto [some, inverse] = escape();
        if (inverse) wrong("no negated class in a class");
        ranges.insert(ranges.end(), some.begin(), some.end());
        if (some.size() != 1 || some[0].first != some[0].second) continue;
      } else {
        const std::uint32_t c = character();
        ranges.emplace_back(c, c);
      }
      if (at_ + 1 < text_.size() && text_[at_] == '-' && text_[at_ + 1] != ']') {
        ++at_;
        if (text_[at_] == '\\') {
          const auto [end, inverse] = escape();
          if (inverse || end.size() != 1 || end[0].first != end[0].second) wrong("a character at the end of a range");
          ranges.back().second = end[0].first;
        } else {
          ranges.back().second = character();
        }
        if (ranges.back().second < ranges.back().first) wrong("a range from a lower to a higher character");
      }
    }
    ++at_;
    return characters(ranges, negated);
  }

  std::pair<std::vector<Range>, bool> escape() {
    ++at_;
    if (!more()) wrong("a character behind '\\'");
    const char c = text_[at_++];
    switch (c) {
      case 'd':
      case 'D':
        return {{{'0', '9'}}, c == 'D'};
      case 'w':
      case 'W':
        return {{{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}, c == 'W'};
      case 's':
      case 'S':
        return {{{'\t', '\r'}, {' ', ' '}}, c == 'S'};
      case 'n':
        return {{{'\n', '\n'}}, false};
      case 'r':
        return {{{'\r', '\r'}}, false};
      case 't':
        return {{{'\t', '\t'}}, false};
      default:
        break;
    }
    const auto code = static_cast<unsigned char>(c);
    if (code >= 0x80 || (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z')) {
      --at_;
      wrong("an escape of \\d \\w \\s \\n \\r \\t or a sign");
    }
    return {{{code, code}}, false};
  }

  /// Takes one character of UTF-8.
  std::uint32_t character() {
    const std::string_view rest = std::string_view(text_).substr(at_);
    const Utf8Sequence sequence = utf8_sequence(rest);
    if (sequence.kind != Utf8Sequence::complete) wrong("UTF-8");
    at_ += sequence.length;
    return utf8_code_point(rest.substr(0, sequence.length));
  }

  /// One of the characters, as JSON writes it: some need a backslash.
  static std::string characters(std::vector<Range> ranges, bool negated) {
    static constexpr std::array<std::pair<char, char>, 7> escaped{
        {{'"', '"'}, {'\\', '\\'}, {'\n', 'n'}, {'\r', 'r'}, {'\t', 't'}, {'\b', 'b'}, {'\f', 'f'}}};
    const auto contains = [&](std::uint32_t c) {
      for (const auto& [low, high] : ranges)
        if (c >= low && c <= high) return !negated;
      return negated;
    };
    std::string backslashed;
    for (const auto& [c, name] : escaped)
      if (contains(static_cast<unsigned char>(c)))
        backslashed += name == '"' || name == '\\' ? std::string("\\") + name : std::string(1, name);
    // The other characters: those asked for, without controls, quote and backslash.
    std::vector<Range> plain;
    if (negated) {
      ranges.insert(ranges.end(), {{0, 0x1F}, {'"', '"'}, {'\\', '\\'}});
      plain = std::move(ranges);
    } else {
      for (const auto& [low, high] : ranges)
        for (const auto& [from, to] : {Range{0x20, 0x21}, Range{0x23, 0x5B}, Range{0x5D, last_character}})
          if (std::max(low, from) <= std::min(high, to)) plain.emplace_back(std::max(low, from), std::min(high, to));
    }
    std::string out;
    if (!plain.empty()) {
      out = negated ? "[^" : "[";
      for (const auto& [low, high] : plain) out += code(low) + "-" + code(high);
      out += "]";
    }
    if (!backslashed.empty()) out += (out.empty() ? "" : " | ") + std::string("\"\\\\\" [") + backslashed + "]";
    return "(" + out + ")";
  }

  static std::string code(std::uint32_t c) {
    std::string out = "\\U00000000";
    for (std::size_t i = out.size() - 1; c > 0; --i, c >>= 4) out[i] = "0123456789ABCDEF"[c & 15];
    return out;
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace detail

/// A pattern as an expression; it uses the rule `char`, any character of a JSON string.
/// Throws: Error that names the place if the pattern is malformed or not covered.
inline std::string pattern_expression(std::string_view pattern) { return detail::PatternParser(pattern).parse(); }

}  // namespace dsv3::inline DSV3_ISA::io
