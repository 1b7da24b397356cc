// Floor 6. The byte-level alphabet of GPT-2: how vocabulary files write tokens that are arbitrary bytes as printable text.
//
// Only reading is here: nothing in dsv3 writes a vocabulary.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "dsv3/core/error.hpp"

namespace dsv3::inline DSV3_ISA::io {

namespace detail {

/// The byte that each code point stands for, -1 for none. Printable Latin-1 stands for itself, the other 68 bytes are U+0100 onwards.
inline constexpr auto byte_of_code_point = [] {
  std::array<std::int16_t, 256 + 68> table{};
  table.fill(-1);
  std::size_t next = 256;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    table[printable ? byte : next++] = static_cast<std::int16_t>(byte);
  }
  return table;
}();

}  // namespace detail

/// The bytes that `token`, valid UTF-8, stands for; nothing if it has a character outside the byte-level alphabet.
inline std::optional<std::string> bytes_of_byte_level(std::string_view token) {
  std::string bytes;
  for (std::size_t i = 0; i < token.size(); ++i) {
    std::size_t code_point = static_cast<unsigned char>(token[i]);
    if (code_point >= 0xE0) return std::nullopt;  // three bytes or more: above U+07FF
    if (code_point >= 0x80) {
      if (++i == token.size()) return std::nullopt;
      code_point = (code_point & 0x1F) << 6 | (static_cast<unsigned char>(token[i]) & 0x3F);
    }
    if (code_point >= detail::byte_of_code_point.size() || detail::byte_of_code_point[code_point] < 0) return std::nullopt;
    bytes += static_cast<char>(detail::byte_of_code_point[code_point]);
  }
  return bytes;
}

}  // namespace dsv3::inline DSV3_ISA::io
