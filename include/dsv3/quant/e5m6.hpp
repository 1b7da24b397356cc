// Floor 2. E5M6: the 12-bit float in which the report caches the output of attention (section 3.3.3).
#pragma once

#include "dsv3/quant/float16.hpp"

namespace dsv3::inline DSV3_ISA::codec {

/// float16 with its mantissa cut to 6 bits (spec T46): bias 15, subnormals to 2^-20, largest 65024. The report gives only the numbers of
/// bits. A code is the upper 12 bits of a float16. encode rounds to nearest even and saturates; NaN stays NaN.
struct E5m6 {
  using Code = std::uint16_t;
  static constexpr float largest = 65024;
  static constexpr int mantissa_bits = 6, min_exponent = -14;
  static constexpr bool exact_in_bf16 = true;

  static constexpr float decode(Code c) { return Float16::decode(static_cast<std::uint16_t>(c << 4)); }

  static constexpr Code encode(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    const auto sign = static_cast<std::uint32_t>((bits >> 20) & 0x800u);
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<Code>(sign | 0x7e0u);
    if (magnitude >= std::bit_cast<std::uint32_t>(largest)) return static_cast<Code>(sign | 0x7bfu);
    return static_cast<Code>(sign | detail::nearest<mantissa_bits, min_exponent>(magnitude));
  }

  /// Two codes in three bytes.
  static constexpr Index packed_bytes(Index n) { return (n + 1) / 2 * 3; }
  /// Writes packed_bytes(n) bytes.
  static void pack(const Code* codes, Index n, std::uint8_t* to) {
    for (Index k = 0; k < n; k += 2, to += 3) {
      const unsigned low = codes[k], high = k + 1 < n ? codes[k + 1] : 0u;
      to[0] = static_cast<std::uint8_t>(low), to[1] = static_cast<std::uint8_t>(low >> 8 | (high & 15) << 4);
      to[2] = static_cast<std::uint8_t>(high >> 4);
    }
  }
  /// Reads n codes that pack() wrote.
  static void unpack(const std::uint8_t* from, Index n, Code* codes) {
    for (Index k = 0; k < n; k += 2, from += 3) {
      codes[k] = static_cast<Code>(from[0] | (from[1] & 15) << 8);
      if (k + 1 < n) codes[k + 1] = static_cast<Code>(from[1] >> 4 | from[2] << 4);
    }
  }

  template <class Arch>
  static simd::Floats<Arch> load(const Code* p) {
    alignas(64) std::array<std::uint16_t, static_cast<std::size_t>(simd::width<Arch>)> halves;
    for (std::size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<std::uint16_t>(p[i] << 4);
    return Float16::load<Arch>(halves.data());
  }
};

}  // namespace dsv3::inline DSV3_ISA::codec
