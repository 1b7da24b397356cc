// Floor 2. Decoding codes several vectors at a time, where an instruction set does that faster than one by one.
//
// DecodeGroup<Codec, Arch>::load(p) decodes `vectors` vectors of codes to values divided by `decode_scale`, a power of two that kernels
// multiply into the scales. The generic group is one vector of Codec::load; the others agree with it bit for bit, NaN included. A group may
// also have load_reordered(p), which is faster but permutes the values, for sums whose order is free; arrange(x, out) then permutes as many
// floats of the other operand in the same way.
#pragma once

#include "dsv3/quant/float8.hpp"

namespace dsv3::inline DSV3_ISA::codec {

template <class C, class Arch>
struct DecodeGroup {
  static constexpr int vectors = 1;
  static constexpr float decode_scale = 1;
  static std::array<simd::Floats<Arch>, 1> load(const typename C::Code* p) { return {C::template load<Arch>(p)}; }
};

/// Whether a group has load_reordered().
template <class Group>
inline constexpr bool reorders = requires(const float* x, float* out) {
  Group::arrange(x, out);
};

/// The values of a group of codes in the fastest order: that of arrange() if the group reorders, else that in memory.
template <class Group, class Code>
[[gnu::always_inline]] inline auto load_for_sum(const Code* p) {
  if constexpr (reorders<Group>)
    return Group::load_reordered(p);
  else
    return Group::load(p);
}

// An e4m3 code shifted into the exponent and mantissa bits of a float16 is the float16 of its value / 256, subnormals included, and the
// processor converts float16 exactly. Only the NaN code would become a number: groups that hold one are decoded by E4m3::load.
namespace detail {
template <class Arch, std::size_t N>
std::array<simd::Floats<Arch>, N> load_divided(const E4m3::Code* p, float decode_scale) {
  std::array<simd::Floats<Arch>, N> out;
  for (std::size_t v = 0; v < N; ++v)
    out[v] = E4m3::load<Arch>(p + static_cast<Index>(v) * simd::width<Arch>) * simd::Floats<Arch>(1 / decode_scale);
  return out;
}
}  // namespace detail

#ifdef __AVX512BW__
namespace detail {
/// 64 bf16 numbers: `first` has the first 8 of each 16, `last` the last 8.
struct Bf16Pair {
  __m512i first, last;
};
}  // namespace detail
#endif

#ifdef __AVX512VBMI__
namespace detail {
/// Lookup tables for the 128 codes without sign: low and high byte of each value as bf16, the upper half of the float.
struct E4m3Bytes {
  alignas(64) std::array<std::uint8_t, 128> low, high;
};
inline constexpr E4m3Bytes e4m3_bytes = [] {
  E4m3Bytes t{};
  for (std::size_t c = 0; c < 128; ++c) {
    const auto bits = std::bit_cast<std::uint32_t>(E4m3::decode(static_cast<E4m3::Code>(c))) >> 16;
    t.low[c] = static_cast<std::uint8_t>(bits);
    t.high[c] = static_cast<std::uint8_t>(bits >> 8);
  }
  return t;
}();

/// 64 codes as bf16.
[[gnu::always_inline]] inline Bf16Pair e4m3_to_bf16(__m512i codes) {
  const auto lookup = [&](const std::array<std::uint8_t, 128>& table) __attribute__((always_inline)) {
    return _mm512_permutex2var_epi8(_mm512_load_si512(table.data()), codes, _mm512_load_si512(table.data() + 64));
  };
  const __m512i low = lookup(e4m3_bytes.low);
  const __m512i high = _mm512_ternarylogic_epi32(lookup(e4m3_bytes.high), codes, _mm512_set1_epi8(static_cast<char>(0x80)), 0xf8);
  return {_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)};
}
}  // namespace detail

/// By table lookup: every code costs the same, subnormals and NaN included.
template <class Arch>
requires std::is_base_of_v<xsimd::avx512bw, Arch>
struct DecodeGroup<E4m3, Arch> {
  static constexpr int vectors = 4;
  static constexpr float decode_scale = 1;

  static std::array<simd::Floats<Arch>, 4> load(const E4m3::Code* p) {
    // Byte 16 i + 8 a + 2 j + b holds the code that becomes element 4 i + j of vector 2 a + b.
    alignas(64) static constexpr auto order = [] {
      std::array<std::uint8_t, 64> o{};
      for (std::size_t i = 0; i < 64; ++i) o[i] = static_cast<std::uint8_t>(i / 8 % 2 * 32 + i % 2 * 16 + i / 16 * 4 + i % 8 / 2);
      return o;
    }();
    return decode(_mm512_permutexvar_epi8(_mm512_load_si512(order.data()), _mm512_loadu_si512(p)));
  }

  /// Element 4 i + j of vector 2 a + b is code 16 i + 8 a + 2 j + b.
  static std::array<simd::Floats<Arch>, 4> load_reordered(const E4m3::Code* p) { return decode(_mm512_loadu_si512(p)); }
  static void arrange(const float* x, float* out) {
    const __m512i evens_odds = _mm512_setr_epi32(0, 2, 4, 6, 16, 18, 20, 22, 1, 3, 5, 7, 17, 19, 21, 23);
    for (int a = 0; a < 2; ++a) {
      const auto half = [&](int v) {  // elements 8 a to 8 a + 7 of vectors v and v + 1: evens, then odds
        return _mm512_permutex2var_ps(_mm512_loadu_ps(x + v * 16), _mm512_add_epi32(evens_odds, _mm512_set1_epi32(8 * a)),
                                      _mm512_loadu_ps(x + v * 16 + 16));
      };
      const __m512 low = half(0), high = half(2);
      _mm512_storeu_ps(out + 32 * a, _mm512_shuffle_f32x4(low, high, 0x44));
      _mm512_storeu_ps(out + 32 * a + 16, _mm512_shuffle_f32x4(low, high, 0xee));
    }
  }

 private:
  [[gnu::always_inline]] static std::array<simd::Floats<Arch>, 4> decode(__m512i codes) {
    const auto words = detail::e4m3_to_bf16(codes);
    const auto even = [](__m512i w) { return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16)); };
    const auto odd = [](__m512i w) { return _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32(static_cast<int>(0xffff0000)))); };
    return {even(words.first), odd(words.first), even(words.last), odd(words.last)};
  }
};
#elif defined(__AVX512BW__)
template <class Arch>
requires std::is_base_of_v<xsimd::avx512bw, Arch>
struct DecodeGroup<E4m3, Arch> {
  static constexpr int vectors = 4;
  static constexpr float decode_scale = 256;

  static std::array<simd::Floats<Arch>, 4> load(const E4m3::Code* p) {
    const __m512i codes = _mm512_loadu_si512(p);
    if (_mm512_cmpeq_epi8_mask(_mm512_and_si512(codes, _mm512_set1_epi8(0x7f)), _mm512_set1_epi8(0x7f)) != 0) [[unlikely]]
      return detail::load_divided<Arch, 4>(p, decode_scale);
    const auto halves = [](__m256i c) {  // s eeee mmm -> s 0eeee mmm0000000
      const __m512i wide = _mm512_cvtepi8_epi16(c);
      return _mm512_and_si512(_mm512_slli_epi16(wide, 7), _mm512_set1_epi16(static_cast<short>(0xbf80)));
    };
    const __m512i low = halves(_mm512_castsi512_si256(codes)), high = halves(_mm512_extracti64x4_epi64(codes, 1));
    return {_mm512_cvtph_ps(_mm512_castsi512_si256(low)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64(low, 1)),
            _mm512_cvtph_ps(_mm512_castsi512_si256(high)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64(high, 1))};
  }
};
#endif

#if defined(__AVX2__) && defined(__F16C__)
template <class Arch>
requires std::is_base_of_v<xsimd::avx2, Arch> &&(simd::width<Arch> == 8) struct DecodeGroup<E4m3, Arch> {
  static constexpr int vectors = 4;
  static constexpr float decode_scale = 256;

  static std::array<simd::Floats<Arch>, 4> load(const E4m3::Code* p) {
    const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), mask = _mm256_set1_epi8(0x7f);
    if (_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_and_si256(codes, mask), mask)) != 0) [[unlikely]]
      return detail::load_divided<Arch, 4>(p, decode_scale);
    const auto halves = [](__m256i wide) {  // s eeee mmm 00000000 -> s 0eeee mmm0000000
      return _mm256_and_si256(_mm256_srai_epi16(wide, 1), _mm256_set1_epi16(static_cast<short>(0xbf80)));
    };
    const __m256i zero = _mm256_setzero_si256();
    const __m256i low = halves(_mm256_unpacklo_epi8(zero, codes)), high = halves(_mm256_unpackhi_epi8(zero, codes));
    return {_mm256_cvtph_ps(_mm256_castsi256_si128(low)), _mm256_cvtph_ps(_mm256_castsi256_si128(high)),
            _mm256_cvtph_ps(_mm256_extracti128_si256(low, 1)), _mm256_cvtph_ps(_mm256_extracti128_si256(high, 1))};
  }
};
#endif

#ifdef __aarch64__
template <class Arch>
requires std::is_base_of_v<xsimd::neon, Arch>
struct DecodeGroup<E4m3, Arch> {
  static constexpr int vectors = 4;
  static constexpr float decode_scale = 256;

  static std::array<simd::Floats<Arch>, 4> load(const E4m3::Code* p) {
    const uint8x16_t codes = vld1q_u8(p);
    if (vmaxvq_u8(vandq_u8(codes, vdupq_n_u8(0x7f))) == 0x7f) [[unlikely]]
      return detail::load_divided<Arch, 4>(p, decode_scale);
    const auto halves = [](uint16x8_t wide) {  // s eeee mmm 00000000 -> s 0eeee mmm0000000
      const int16x8_t shifted = vshrq_n_s16(vreinterpretq_s16_u16(wide), 1);
      return vreinterpretq_f16_u16(vandq_u16(vreinterpretq_u16_s16(shifted), vdupq_n_u16(0xbf80)));
    };
    const float16x8_t low = halves(vshll_n_u8(vget_low_u8(codes), 8)), high = halves(vshll_high_n_u8(codes, 8));
    return {vcvt_f32_f16(vget_low_f16(low)), vcvt_high_f32_f16(low), vcvt_f32_f16(vget_low_f16(high)), vcvt_high_f32_f16(high)};
  }
};
#endif

}  // namespace dsv3::inline DSV3_ISA::codec
