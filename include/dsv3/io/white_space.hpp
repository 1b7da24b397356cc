// Floor 6. The characters with the Unicode property White_Space at either end of a text.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>

#include "dsv3/core/isa.hpp"

namespace dsv3::inline DSV3_ISA::io {

namespace detail {

/// All of them in UTF-8. None begins or ends another one.
inline constexpr std::array<std::string_view, 25> white_spaces{
    "\t",           "\n",           "\v",           "\f",           "\r",           " ",
    "\xC2\x85",     "\xC2\xA0",     "\xE1\x9A\x80", "\xE2\x80\x80", "\xE2\x80\x81", "\xE2\x80\x82",
    "\xE2\x80\x83", "\xE2\x80\x84", "\xE2\x80\x85", "\xE2\x80\x86", "\xE2\x80\x87", "\xE2\x80\x88",
    "\xE2\x80\x89", "\xE2\x80\x8A", "\xE2\x80\xA8", "\xE2\x80\xA9", "\xE2\x80\xAF", "\xE2\x81\x9F",
    "\xE3\x80\x80"};

}  // namespace detail

/// How many bytes of white space `text`, valid UTF-8, begins with.
inline std::size_t leading_space(std::string_view text) {
  std::size_t length = 0;
  for (;;) {
    const auto found = std::ranges::find_if(detail::white_spaces, [&](auto space) { return text.substr(length).starts_with(space); });
    if (found == detail::white_spaces.end()) return length;
    length += found->size();
  }
}

/// How many bytes of white space `text`, valid UTF-8, ends with.
inline std::size_t trailing_space(std::string_view text) {
  const std::size_t whole = text.size();
  for (;;) {
    const auto found = std::ranges::find_if(detail::white_spaces, [&](auto space) { return text.ends_with(space); });
    if (found == detail::white_spaces.end()) return whole - text.size();
    text.remove_suffix(found->size());
  }
}

}  // namespace dsv3::inline DSV3_ISA::io
