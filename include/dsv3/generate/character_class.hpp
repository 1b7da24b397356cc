// Floor 6. Sets of Unicode characters, as sequences of ranges of their UTF-8 bytes.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "dsv3/generate/grammar.hpp"

namespace dsv3::inline DSV3_ISA::grammar {

using Character = std::uint32_t;
/// First and last character.
using CharacterRange = std::pair<Character, Character>;

inline constexpr Character last_character = 0x10FFFF;

/// The ranges in order, without overlaps.
inline std::vector<CharacterRange> merged(std::vector<CharacterRange> ranges) {
  std::sort(ranges.begin(), ranges.end());
  std::vector<CharacterRange> out;
  for (const auto& [low, high] : ranges) {
    if (!out.empty() && low <= out.back().second + 1)
      out.back().second = std::max(out.back().second, high);
    else
      out.emplace_back(low, high);
  }
  return out;
}

/// All characters that are in none of `ranges`, which must be merged().
inline std::vector<CharacterRange> complement(const std::vector<CharacterRange>& ranges) {
  std::vector<CharacterRange> out;
  Character next = 0;
  for (const auto& [low, high] : ranges) {
    if (low > next) out.emplace_back(next, low - 1);
    next = high + 1;
  }
  if (next <= last_character) out.emplace_back(next, last_character);
  return out;
}

/// The UTF-8 bytes of a character, each as a range of one byte.
inline std::vector<Symbol> utf8_symbols(Character c) {
  const auto byte = [](Character b) { return Symbol::range(b, b); };
  const auto rest = [&](unsigned shift) { return byte(0x80 | ((c >> shift) & 0x3F)); };
  if (c < 0x80) return {byte(c)};
  if (c < 0x800) return {byte(0xC0 | (c >> 6)), rest(0)};
  if (c < 0x10000) return {byte(0xE0 | (c >> 12)), rest(6), rest(0)};
  return {byte(0xF0 | (c >> 18)), rest(12), rest(6), rest(0)};
}

/// Calls emit(std::vector<Symbol>) for sequences of byte ranges that match exactly the UTF-8 of the characters from low to high;
/// surrogates, which UTF-8 does not have, are left out.
template <class Emit>
void utf8_ranges(Character low, Character high, Emit&& emit) {
  if (low > high) return;
  for (const Character last : {Character{0x7F}, Character{0x7FF}, Character{0xD7FF}, Character{0xDFFF}, Character{0xFFFF}})
    if (low <= last && last < high) {
      utf8_ranges(low, last, emit);
      utf8_ranges(last + 1, high, emit);
      return;
    }
  if (low >= 0xD800 && high <= 0xDFFF) return;
  // A sequence of ranges matches all combinations of its bytes, so after the first byte that differs every byte must span its whole range.
  for (const unsigned bits : {6u, 12u, 18u}) {
    const Character below = (Character{1} << bits) - 1;
    if (low <= 0x7F || (low | below) >= high) break;
    if ((low & below) != 0) {
      utf8_ranges(low, low | below, emit);
      utf8_ranges((low | below) + 1, high, emit);
      return;
    }
    if ((high & below) != below) {
      utf8_ranges(low, (high & ~below) - 1, emit);
      utf8_ranges(high & ~below, high, emit);
      return;
    }
  }
  std::vector<Symbol> ranges = utf8_symbols(low);
  const std::vector<Symbol> highs = utf8_symbols(high);
  for (std::size_t i = 0; i < ranges.size(); ++i) ranges[i].high = highs[i].high;
  emit(std::move(ranges));
}

}  // namespace dsv3::inline DSV3_ISA::grammar
