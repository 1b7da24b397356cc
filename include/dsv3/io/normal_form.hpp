// Floor 6. Unicode's normal forms C and D of a text (UAX 15): characters with marks as one code point, or taken apart.
//
// Leaves out the forms KC and KD, which change what characters mean and need a table several times as large.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "dsv3/core/error.hpp"
#include "dsv3/io/canonical_forms.hpp"
#include "dsv3/io/utf8.hpp"

namespace dsv3::inline DSV3_ISA::io {

namespace detail {

/// The tables of canonical_forms.hpp in an order to search in.
class CanonicalTables {
 public:
  struct Decomposition {
    char32_t whole, first, second;  ///< second: 0 for none
  };

  static const CanonicalTables& get() {
    static const CanonicalTables tables;
    return tables;
  }

  /// Null if `c` is not taken apart. What comes first may be taken apart again.
  const Decomposition* decomposition(char32_t c) const {
    const auto found = std::ranges::lower_bound(by_whole_, c, {}, &Decomposition::whole);
    return found == by_whole_.end() || found->whole != c ? nullptr : &*found;
  }

  /// 0 if `first` and `second` do not compose.
  char32_t composition(char32_t first, char32_t second) const {
    if (first - hangul_l < 19 && second - hangul_v < 21) return hangul + (21 * (first - hangul_l) + second - hangul_v) * 28;
    if (first - hangul < 11172 && (first - hangul) % 28 == 0 && second - hangul_t - 1 < 27) return first + (second - hangul_t);
    const auto found = std::ranges::lower_bound(by_parts_, key(first, second), {}, parts_key);
    return found == by_parts_.end() || parts_key(*found) != key(first, second) ? 0 : found->whole;
  }

  std::uint8_t combining_class(char32_t c) const {
    const auto after = std::ranges::upper_bound(classes_, c, {}, &ClassRange::first);
    return after == classes_.begin() || c - std::prev(after)->first >= std::prev(after)->count ? 0 : std::prev(after)->rank;
  }

  static constexpr char32_t hangul = 0xAC00, hangul_l = 0x1100, hangul_v = 0x1161, hangul_t = 0x11A7;  // t: one before the first

 private:
  struct ClassRange {
    char32_t first, count;
    std::uint8_t rank;
  };

  CanonicalTables() {
    std::int32_t c = 0;
    for (std::size_t i = 0; i < std::size(canonical_pairs); i += 3) {
      const std::int32_t first = canonical_pairs[i + 1], second = canonical_pairs[i + 2];
      c += canonical_pairs[i];
      const char32_t parts[] = {static_cast<char32_t>(first), static_cast<char32_t>(second < 0 ? -second : second)};
      by_whole_.push_back({static_cast<char32_t>(c), parts[0], parts[1]});
      if (second > 0) by_parts_.push_back(by_whole_.back());
    }
    c = 0;
    for (std::size_t i = 0; i < std::size(canonical_singles); i += 2) {
      c += canonical_singles[i];
      by_whole_.push_back({static_cast<char32_t>(c), static_cast<char32_t>(canonical_singles[i + 1]), 0});
    }
    c = 0;
    for (std::size_t i = 0; i < std::size(combining_classes); i += 3) {
      c += combining_classes[i];
      classes_.push_back(
          {static_cast<char32_t>(c), static_cast<char32_t>(combining_classes[i + 1]), static_cast<std::uint8_t>(combining_classes[i + 2])});
    }
    std::ranges::sort(by_whole_, {}, &Decomposition::whole);
    std::ranges::sort(by_parts_, {}, parts_key);
  }

  static std::uint64_t key(char32_t first, char32_t second) { return std::uint64_t{first} << 32 | second; }
  static std::uint64_t parts_key(const Decomposition& d) { return key(d.first, d.second); }

  std::vector<Decomposition> by_whole_, by_parts_;
  std::vector<ClassRange> classes_;
};

struct ClassedCharacter {
  char32_t code;
  std::uint8_t rank;  // combining class
};

inline void decompose(char32_t c, std::vector<ClassedCharacter>& out) {
  using Tables = CanonicalTables;
  const Tables& tables = Tables::get();
  if (c - Tables::hangul < 11172) {
    const char32_t s = c - Tables::hangul;
    out.push_back({Tables::hangul_l + s / 588, 0});
    out.push_back({Tables::hangul_v + s % 588 / 28, 0});
    if (s % 28 != 0) out.push_back({Tables::hangul_t + s % 28, 0});
    return;
  }
  const auto* parts = c < 0xC0 ? nullptr : tables.decomposition(c);
  if (parts == nullptr) return out.push_back({c, c < 0x300 ? std::uint8_t{0} : tables.combining_class(c)});
  decompose(parts->first, out);  // at most four deep
  if (parts->second != 0) decompose(parts->second, out);
}

}  // namespace detail

/// `text`, valid UTF-8, in normal form C if `compose`, else in form D.
///
/// Cost: n log n, whatever the text.
inline std::string normal_form(std::string_view text, bool compose) {
  // Below U+00C0 nothing changes in either form, and below U+0300 nothing does in form C.
  const unsigned char unchanged = compose ? 0xCC : 0xC3;
  if (std::ranges::all_of(text, [&](char byte) { return static_cast<unsigned char>(byte) < unchanged; })) return std::string(text);
  std::vector<detail::ClassedCharacter> characters;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_sequence(text.substr(i)).length;
    detail::decompose(utf8_code_point(text.substr(i, length)), characters);
    i += length;
  }
  // Marks behind a character come in the order of their classes.
  for (auto at = characters.begin(); at != characters.end();) {
    at = std::find_if(at, characters.end(), [](const auto& c) { return c.rank != 0; });
    const auto end = std::find_if(at, characters.end(), [](const auto& c) { return c.rank == 0; });
    std::stable_sort(at, end, [](const auto& a, const auto& b) { return a.rank < b.rank; });
    at = end;
  }
  if (compose) {
    std::size_t starter = 0, size = 0;  // the last character of class 0, and how many of the result are written, in place
    bool has_starter = false;
    for (const auto c : characters) {
      // A mark does not reach the starter over one of the same class or a higher one.
      if (has_starter && (size == starter + 1 || characters[size - 1].rank < c.rank)) {
        if (const char32_t whole = detail::CanonicalTables::get().composition(characters[starter].code, c.code)) {
          characters[starter].code = whole;
          continue;
        }
      }
      if (c.rank == 0) {
        starter = size;
        has_starter = true;
      }
      characters[size++] = c;
    }
    characters.resize(size);
  }
  std::string out;
  out.reserve(text.size());
  for (const auto& c : characters) append_utf8(out, c.code);
  return out;
}

}  // namespace dsv3::inline DSV3_ISA::io
