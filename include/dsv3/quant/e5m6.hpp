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
    if (magnitude < (113u << 23)) {
      const float shifted = std::bit_cast<float>(magnitude) + 0x1p3f;  // multiples of 2^-20 move into the low bits
      return static_cast<Code>(sign | (std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(0x1p3f)));
    }
    const std::uint32_t rounded = magnitude + 0xffffu + ((magnitude >> 17) & 1u) - (112u << 23);
    return static_cast<Code>(sign | (rounded >> 17));
  }

  template <class Arch>
  static simd::Floats<Arch> load(const Code* p) {
    alignas(64) std::array<std::uint16_t, static_cast<std::size_t>(simd::width<Arch>)> halves;
    for (std::size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<std::uint16_t>(p[i] << 4);
    return Float16::load<Arch>(halves.data());
  }
};

}  // namespace dsv3::inline DSV3_ISA::codec
