// Floor 6. Pieces of text in GBNF, for programs that write grammars.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dsv3/core/isa.hpp"

namespace dsv3::inline DSV3_ISA::grammar {

/// `text` as a literal.
inline std::string literal(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    c == '\n' ? out += "\\n" : out += c;
  }
  return out + '"';
}

/// A group of alternatives; parts of `parts` may be empty.
inline std::string any_of(const std::vector<std::string>& parts) {
  std::string out = "(";
  for (std::size_t i = 0; i < parts.size(); ++i) out += (i == 0 ? "" : " | ") + parts[i];
  return out + ")";
}

/// A grammar that matches exactly `texts`.
inline std::string any_text(std::span<const std::string> texts) {
  std::string out = "root ::= ";
  for (std::size_t i = 0; i < texts.size(); ++i) out += (i == 0 ? "" : " | ") + literal(texts[i]);
  return out + "\n";
}

}  // namespace dsv3::inline DSV3_ISA::grammar
