// Floor 2. The 8-bit floats: e4m3 (weights and activations), e5m2, and the exponent-only e8m0 (scales).
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "dsv3/quant/float16.hpp"

namespace dsv3::inline DSV3_ISA::codec {

/// e4m3 as in the checkpoint format (spec C1): bias 7, no infinities, NaN = S.1111.111, largest finite 448.
/// encode rounds to nearest even and saturates at +-448; NaN stays NaN.
struct E4m3 {
  using Code = std::uint8_t;
  static constexpr float largest = 448;
  static constexpr int mantissa_bits = 3, min_exponent = -6;  ///< of normal numbers
  static constexpr bool exact_in_bf16 = true;

  static constexpr float decode(Code c) {
    const std::uint32_t magnitude = c & 0x7fu, sign = static_cast<std::uint32_t>(c & 0x80u) << 24;
    if (magnitude == 0x7f) return std::bit_cast<float>(sign | 0x7ff00000u);
    if (magnitude < 8) {
      const float value = static_cast<float>(magnitude) * 0x1p-9f;
      return sign ? -value : value;
    }
    return std::bit_cast<float>(sign | ((magnitude << 20) + (120u << 23)));
  }

  static constexpr Code encode(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    const auto sign = static_cast<std::uint32_t>((bits >> 24) & 0x80u);
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<Code>(sign | 0x7fu);
    if (magnitude >= std::bit_cast<std::uint32_t>(largest)) return static_cast<Code>(sign | 0x7eu);
    return static_cast<Code>(sign | detail::nearest<mantissa_bits, min_exponent>(magnitude));
  }

  template <class Arch>
  static simd::Floats<Arch> load(const Code* p) {
    using Ints = simd::Ints<Arch>;
    const Ints code = simd::widen<Arch>(p);
    const Ints magnitude = code & Ints(0x7f), sign = (code & Ints(0x80)) << 24;
    const auto as_integer = simd::to_float<Arch>(magnitude);
    // NaN's code has the exponent bits of 256 to 448, hence a select of its own.
    const auto normal = xsimd::select(as_integer == simd::Floats<Arch>(127.0f), simd::Floats<Arch>(decode(0x7f)),
                                      simd::as_float<Arch>((magnitude << 20) + Ints(120 << 23)));
    // Not computed from subnormal floats, which would cost a microcode assist on every vector.
    const auto value = xsimd::select(as_integer < simd::Floats<Arch>(8.0f), as_integer * simd::Floats<Arch>(0x1p-9f), normal);
    return value | simd::as_float<Arch>(sign);
  }
};

/// e5m2: the upper half of an IEEE half. encode rounds to nearest even and saturates at +-57344; infinities and NaN stay themselves.
struct E5m2 {
  using Code = std::uint8_t;
  static constexpr float largest = 57344;
  static constexpr int mantissa_bits = 2, min_exponent = -14;
  static constexpr bool exact_in_bf16 = true;

  static constexpr float decode(Code c) { return Float16::decode(static_cast<std::uint16_t>(c << 8)); }

  static constexpr Code encode(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    const auto sign = static_cast<std::uint32_t>((bits >> 24) & 0x80u);
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<Code>(sign | 0x7fu);
    if (magnitude == 0x7f800000u) return static_cast<Code>(sign | 0x7cu);
    if (magnitude >= std::bit_cast<std::uint32_t>(largest)) return static_cast<Code>(sign | 0x7bu);
    return static_cast<Code>(sign | detail::nearest<mantissa_bits, min_exponent>(magnitude));
  }

  template <class Arch>
  static simd::Floats<Arch> load(const Code* p) {
    alignas(64) std::array<std::uint16_t, static_cast<std::size_t>(simd::width<Arch>)> halves;
    for (std::size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<std::uint16_t>(p[i] << 8);
    return Float16::load<Arch>(halves.data());
  }
};

/// e8m0, a power of two: code u stands for 2^(u - 127), code 255 for NaN. encode rounds up, as block scales are rounded (spec C2), and
/// saturates; zero and negative values become the smallest power.
struct E8m0 {
  using Code = std::uint8_t;

  static constexpr float decode(Code c) {
    if (c == 255) return std::numeric_limits<float>::quiet_NaN();
    return c == 0 ? 0x1p-127f : std::bit_cast<float>(static_cast<std::uint32_t>(c) << 23);
  }

  static constexpr Code encode(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 255;
    if (bits >> 31 || x <= 0x1p-127f) return 0;
    if (bits < (1u << 23)) return 1;
    const std::uint32_t up = (bits + 0x7fffffu) >> 23;
    return static_cast<Code>(up > 254 ? 254 : up);
  }

  template <class Arch>
  static simd::Floats<Arch> load(const Code* p) {
    alignas(64) std::array<float, static_cast<std::size_t>(simd::width<Arch>)> values;
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = decode(p[i]);
    return simd::load<Arch>(values.data());
  }
};

}  // namespace dsv3::inline DSV3_ISA::codec
