// Floor 6. Walking UTF-8 one sequence at a time. Leaves out everything that needs Unicode data: categories, case, normal forms.
#pragma once

#include <cstddef>
#include <string_view>

#include "dsv3/core/error.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// The sequence at the start of a text.
struct Utf8Sequence {
  enum Kind { complete, cut, invalid };  ///< cut: the text ends inside a sequence that was valid so far
  Kind kind;
  std::size_t length;  ///< in bytes; of an invalid sequence, the part to replace by one U+FFFD
};

/// Looks at the first sequence of `text`, which must not be empty.
///
/// Overlong forms, surrogates and code points above U+10FFFF are invalid.
inline Utf8Sequence utf8_sequence(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {Utf8Sequence::complete, 1};
  if (lead < 0xC2 || lead > 0xF4) return {Utf8Sequence::invalid, 1};
  const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  for (std::size_t i = 1; i < length; ++i) {
    if (i == text.size()) return {Utf8Sequence::cut, i};
    unsigned low = 0x80, high = 0xBF;
    if (i == 1) {  // the second byte reveals overlong forms, surrogates and too large code points
      if (lead == 0xE0) low = 0xA0;
      if (lead == 0xED) high = 0x9F;
      if (lead == 0xF0) low = 0x90;
      if (lead == 0xF4) high = 0x8F;
    }
    if (byte(i) < low || byte(i) > high) return {Utf8Sequence::invalid, i};
  }
  return {Utf8Sequence::complete, length};
}

/// The code point of `sequence`, one complete sequence.
inline char32_t utf8_code_point(std::string_view sequence) {
  const auto byte = [&](std::size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(sequence[i])); };
  if (sequence.size() == 1) return byte(0);
  char32_t code = byte(0) & (0xFFu >> (sequence.size() + 1));
  for (std::size_t i = 1; i < sequence.size(); ++i) code = code << 6 | (byte(i) & 0x3F);
  return code;
}

/// Appends the UTF-8 of a code point.
inline void append_utf8(std::string& text, char32_t c) {
  const auto put = [&](char32_t byte) { text += static_cast<char>(byte); };
  const auto rest = [&](unsigned shift) { put(0x80 | (c >> shift & 0x3F)); };
  if (c < 0x80) return put(c);
  if (c < 0x800) {
    put(0xC0 | c >> 6);
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    rest(6);
  } else {
    put(0xF0 | c >> 18);
    rest(12);
    rest(6);
  }
  rest(0);
}

/// The number of bytes of `text` before the first invalid or cut sequence; text.size() if there is none.
[[nodiscard]] inline std::size_t valid_utf8_prefix(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const Utf8Sequence sequence = utf8_sequence(text.substr(at));
    if (sequence.kind != Utf8Sequence::complete) break;
    at += sequence.length;
  }
  return at;
}

}  // namespace dsv3::inline DSV3_ISA::io
