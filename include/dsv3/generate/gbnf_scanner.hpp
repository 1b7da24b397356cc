// Floor 6. The lexer of GBNF: names, numbers, characters and their escapes, with errors that name the line.
//
// gbnf.hpp is the parser.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

#include "dsv3/generate/character_class.hpp"

namespace dsv3::inline DSV3_ISA::grammar::detail {

/// A position in a text; every take function moves it past what it takes.
class GbnfScanner {
 public:
  explicit GbnfScanner(std::string_view text) : text_(text) {}

 protected:
  static constexpr std::size_t max_count = 100'000;  // largest count of a repetition

  [[noreturn]] void wrong(std::string_view expected) const {
    const auto line = 1 + std::count(text_.begin(), text_.begin() + static_cast<std::ptrdiff_t>(std::min(at_, text_.size())), '\n');
    std::string found(text_.substr(std::min(at_, text_.size()), 20));
    fail("grammar: line ", line, ": expected ", expected, ", found ", found.empty() ? "the end" : "'" + found + "'");
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool take(std::string_view token) {
    if (!text_.substr(at_).starts_with(token)) return false;
    at_ += token.size();
    skip_space();
    return true;
  }
  void skip_space() {
    while (at_ < text_.size()) {
      if (text_[at_] == '#')
        at_ = std::min(text_.find('\n', at_), text_.size());
      else if (std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos)
        ++at_;
      else
        break;
    }
  }
  static bool in_name(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_'; }
  std::string_view take_name() {
    const std::size_t from = at_;
    while (at_ < text_.size() && in_name(text_[at_])) ++at_;
    const auto name = text_.substr(from, at_ - from);
    skip_space();
    return name;
  }
  bool starts_rule() {
    const std::size_t here = at_;
    const bool yes = !take_name().empty() && text_.substr(at_).starts_with("::=");
    at_ = here;
    return yes;
  }

  std::size_t take_count() {
    const std::size_t from = at_;
    std::size_t count = 0;
    for (; peek() >= '0' && peek() <= '9' && count <= max_count; ++at_) count = count * 10 + static_cast<std::size_t>(peek() - '0');
    if (at_ == from) wrong("a number");
    require(count <= max_count, "grammar: expected repetitions of at most ", max_count, ", got ", count);
    skip_space();
    return count;
  }

  Character take_character() {
    if (at_ >= text_.size() || peek() == '\n') wrong("']'");
    if (peek() == '\\') return take_escape();
    const auto byte = [&](std::size_t i) { return static_cast<Character>(static_cast<unsigned char>(text_[at_ + i])); };
    const Character lead = byte(0);
    const std::size_t length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (length > text_.size() - at_ || (lead >= 0x80 && lead < 0xC2) || lead > 0xF4) wrong("UTF-8");
    Character c = length == 1 ? lead : lead & (0xFFu >> (length + 1));
    for (std::size_t i = 1; i < length; ++i) {
      if ((byte(i) & 0xC0) != 0x80) wrong("UTF-8");
      c = c << 6 | (byte(i) & 0x3F);
    }
    if (c > last_character) wrong("UTF-8");
    at_ += length;
    return c;
  }

  Character take_escape() {
    ++at_;
    const char kind = peek();
    const std::size_t digits = kind == 'x' ? 2 : kind == 'u' ? 4 : kind == 'U' ? 8 : 0;
    if (digits > 0) {
      Character c = 0;
      for (std::size_t i = 0; i < digits; ++i) {
        ++at_;
        const auto digit =
            std::string_view("0123456789abcdef").find(static_cast<char>(peek() >= 'A' && peek() <= 'F' ? peek() + 32 : peek()));
        if (at_ >= text_.size() || digit == std::string_view::npos) wrong("a hexadecimal digit");
        c = c << 4 | static_cast<Character>(digit);
      }
      if (c > last_character || (c >= 0xD800 && c <= 0xDFFF)) wrong("an escaped character of Unicode");
      ++at_;
      return c;
    }
    constexpr std::string_view names = "nrt\\\"[]-^", values = "\n\r\t\\\"[]-^";
    const auto at = at_ < text_.size() ? names.find(kind) : names.npos;
    if (at == names.npos) wrong("an escape: \\n \\r \\t \\\\ \\\" \\[ \\] \\- \\^ \\xHH \\uHHHH \\UHHHHHHHH");
    ++at_;
    return static_cast<Character>(values[at]);
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace dsv3::inline DSV3_ISA::grammar::detail
