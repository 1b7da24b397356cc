// Floor 2. The two 16-bit floats: bfloat16 and IEEE half.
#pragma once

#include <cstdint>

#include "dsv3/quant/codec.hpp"

namespace dsv3::inline DSV3_ISA::codec {

/// bfloat16: the upper half of a float32. encode rounds to nearest even; NaN stays NaN.
struct BFloat16 {
  using Code = std::uint16_t;
  static constexpr bool exact_in_bf16 = true;

  static constexpr float decode(Code c) { return std::bit_cast<float>(static_cast<std::uint32_t>(c) << 16); }

  static constexpr Code encode(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<Code>((bits >> 16) | 0x40u);
    return static_cast<Code>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
  }

  template <class Arch>
  static simd::Floats<Arch> load(const Code* p) {
    return simd::as_float<Arch>(simd::widen<Arch>(p) << 16);
  }
};

/// IEEE 754 half precision. encode rounds to nearest even and overflows to infinity.
struct Float16 {
  using Code = std::uint16_t;

  static constexpr float decode(Code c) {
    const std::uint32_t sign = static_cast<std::uint32_t>(c & 0x8000u) << 16;
    const std::uint32_t exponent = (c >> 10) & 0x1fu, mantissa = c & 0x3ffu;
    if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
    if (exponent == 0) {
      const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
      return sign ? -magnitude : magnitude;
    }
    return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
  }

  static constexpr Code encode(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    const auto sign = static_cast<std::uint32_t>((bits >> 16) & 0x8000u);
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<Code>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    if (magnitude >= 0x477ff000u) return static_cast<Code>(sign | 0x7c00u);
    return static_cast<Code>(sign | detail::nearest<10, -14>(magnitude));
  }

  template <class Arch>
  static simd::Floats<Arch> load(const Code* p) {
    const auto code = simd::widen<Arch>(p);
    using Ints = simd::Ints<Arch>;
    const Ints magnitude = code & Ints(0x7fff), sign = (code & Ints(0x8000)) << 16;
    const auto as_integer = simd::to_float<Arch>(magnitude);
    const auto normal = xsimd::select(as_integer < simd::Floats<Arch>(0x7c00p0f), simd::as_float<Arch>((magnitude << 13) + Ints(112 << 23)),
                                      simd::as_float<Arch>((magnitude << 13) + Ints(224 << 23)));
    const auto value = xsimd::select(as_integer < simd::Floats<Arch>(1024.0f), as_integer * simd::Floats<Arch>(0x1p-24f), normal);
    return value | simd::as_float<Arch>(sign);
  }
};

}  // namespace dsv3::inline DSV3_ISA::codec
