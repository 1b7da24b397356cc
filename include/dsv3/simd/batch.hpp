// Floor 1. The vector vocabulary: xsimd batches of a given architecture, and the few operations in which xsimd 8 to 14 differ.
//
// Every kernel is written once on simd::Floats<Arch>. Sums are formed by explicit fma, so that the compiler's own contraction cannot make
// one instantiation of a kernel round differently from another.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <xsimd/xsimd.hpp>

#include "dsv3/core/config.hpp"

namespace dsv3::inline DSV3_ISA::simd {

/// The best instruction set that the compiler's flags allow.
using DefaultArch = xsimd::default_arch;

/// Whether Arch is an xsimd architecture that the compiler's flags allow.
template <class Arch>
inline constexpr bool is_arch = xsimd::has_simd_register<float, Arch>::value;

template <class Arch>
using Floats = xsimd::batch<float, Arch>;
template <class Arch>
using Ints = xsimd::batch<std::int32_t, Arch>;

/// Elements in a vector of 32-bit values.
template <class Arch>
inline constexpr Index width = static_cast<Index>(Floats<Arch>::size);

/// Vector registers of the architecture.
template <class Arch>
inline constexpr int registers = width<Arch> == 16 ? 32 : 16;

template <class Arch>
Floats<Arch> load(const float* p) {
  return Floats<Arch>::load_unaligned(p);
}

/// The first `n` < width elements of p, then zeros. Reads nothing beyond p + n.
template <class Arch>
Floats<Arch> load_partial(const float* p, Index n) {
  alignas(64) std::array<float, static_cast<std::size_t>(width<Arch>)> padded{};
  for (Index i = 0; i < n; ++i) padded[static_cast<std::size_t>(i)] = p[i];
  return Floats<Arch>::load_aligned(padded.data());
}

/// Writes the first `n` elements of v.
template <class Arch>
void store_partial(float* p, const Floats<Arch>& v, Index n) {
  alignas(64) std::array<float, static_cast<std::size_t>(width<Arch>)> padded;
  v.store_aligned(padded.data());
  for (Index i = 0; i < n; ++i) p[i] = padded[static_cast<std::size_t>(i)];
}

/// Prefetches the cache line `ahead` elements after p into all cache levels, or with Locality 2 into all but L1. The address need not be
/// valid. Always inlined: GCC takes a function that only prefetches for one without effect and drops calls of it.
template <int Locality = 3, class T>
[[gnu::always_inline]] inline void prefetch(const T* p, Index ahead) {
#if defined(__GNUC__)
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(p) + static_cast<std::uintptr_t>(ahead) * sizeof(T)), 0,
                     Locality);
#else
  (void)p, (void)ahead;
#endif
}

/// a * b + c. Rounds once if the compiler's flags include fma, else twice; the compiler never decides. (For some architectures with fma,
/// xsimd 8.1 writes a product and a sum, which the compiler may or may not contract.)
template <class Arch>
Floats<Arch> fma(const Floats<Arch>& a, const Floats<Arch>& b, const Floats<Arch>& c) {
#ifdef __AVX512F__
  if constexpr (std::is_base_of_v<xsimd::avx512f, Arch>) return _mm512_fmadd_ps(a, b, c);
#endif
#ifdef __FMA__
  if constexpr (sizeof(Floats<Arch>) == 32) return _mm256_fmadd_ps(a, b, c);
  if constexpr (sizeof(Floats<Arch>) == 16) return _mm_fmadd_ps(a, b, c);
#endif
  return xsimd::fma(a, b, c);
}

/// a / b, rounded to nearest. (On 64-bit ARM xsimd refines an estimate of 1 / b, in sqrt() of 1 / sqrt(a), and multiplies by it.)
template <class Arch>
Floats<Arch> divide(const Floats<Arch>& a, const Floats<Arch>& b) {
#ifdef __aarch64__
  if constexpr (std::is_base_of_v<xsimd::neon, Arch>) return vdivq_f32(a, b);
#endif
  return a / b;
}

/// The square root, rounded to nearest.
template <class Arch>
Floats<Arch> sqrt(const Floats<Arch>& a) {
#ifdef __aarch64__
  if constexpr (std::is_base_of_v<xsimd::neon, Arch>) return vsqrtq_f32(a);
#endif
  return xsimd::sqrt(a);
}

/// v, forced into a register: GCC would otherwise re-read it from memory for each instruction that uses it.
template <class Arch>
[[gnu::always_inline]] inline Floats<Arch> in_register(Floats<Arch> v) {
#if defined(__GNUC__) && defined(__x86_64__)
  asm("" : "+v"(v.data));
#endif
  return v;
}

/// Calls f(std::integral_constant<int, 0>) ... f(std::integral_constant<int, N - 1>), unrolled: arrays that f indexes by them stay in
/// registers at any optimization level.
template <int N, class F>
[[gnu::always_inline]] inline void unroll(F&& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) { (f(std::integral_constant<int, I>{}), ...); }
  (std::make_integer_sequence<int, N>{});
}

/// The sum of all elements in a fixed order: halves are added until one element is left.
template <class Arch>
float sum(const Floats<Arch>& v) {
#ifdef __AVX512F__
  if constexpr (width<Arch> == 16) return _mm512_reduce_add_ps(v);  // adds halves as well
#endif
  constexpr auto n = static_cast<std::size_t>(width<Arch>);
  alignas(64) std::array<float, n> a;
  v.store_aligned(a.data());
  for (std::size_t half = n / 2; half > 0; half /= 2)
    for (std::size_t i = 0; i < half; ++i) a[i] += a[i + half];
  return a[0];
}

/// y[i] = sum(v[i]) for 16 vectors at once, by the same additions in the same order.
template <class Arch>
void sum_16(const Floats<Arch>* v, float* y) {
#ifdef __AVX512F__
  if constexpr (width<Arch> == 16) {
    __m512 half[8], quarter[4], eighth[2];  // the vectors after one, two and three halvings
    unroll<8>([&](auto i) __attribute__((always_inline)) {
      const __m512 a = v[i], b = v[i + 8];
      half[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    });
    unroll<4>([&](auto i) __attribute__((always_inline)) {
      const __m512 a = half[i], b = half[i + 4];
      quarter[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    });
    unroll<2>([&](auto i) __attribute__((always_inline)) {
      const __m512 a = quarter[i], b = quarter[i + 2];
      eighth[i] = _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
    });
    const __m512 all = _mm512_add_ps(_mm512_shuffle_ps(eighth[0], eighth[1], 0x88), _mm512_shuffle_ps(eighth[0], eighth[1], 0xdd));
    const __m512i place = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
    _mm512_storeu_ps(y, _mm512_permutexvar_ps(place, all));
    return;
  }
#endif
  for (int i = 0; i < 16; ++i) y[i] = sum<Arch>(v[i]);
}

/// The largest element.
template <class Arch>
float max(const Floats<Arch>& v) {
  constexpr auto n = static_cast<std::size_t>(width<Arch>);
  alignas(64) std::array<float, n> a;
  v.store_aligned(a.data());
  float m = a[0];
  for (std::size_t i = 1; i < n; ++i) m = a[i] > m ? a[i] : m;
  return m;
}

/// The same 32 bits read as float.
template <class Arch>
Floats<Arch> as_float(const Ints<Arch>& v) {
#if XSIMD_VERSION_MAJOR >= 9
  return xsimd::bitwise_cast<float>(v);
#else
  return xsimd::bitwise_cast<Floats<Arch> >(v);
#endif
}

/// The same 32 bits read as an integer.
template <class Arch>
Ints<Arch> as_int(const Floats<Arch>& v) {
#if XSIMD_VERSION_MAJOR >= 9
  return xsimd::bitwise_cast<std::int32_t>(v);
#else
  return xsimd::bitwise_cast<Ints<Arch> >(v);
#endif
}

template <class Arch>
Floats<Arch> to_float(const Ints<Arch>& v) {
  return xsimd::to_float(v);
}

/// width<Arch> unsigned codes, each widened to 32 bits.
template <class Arch, class Code>
requires std::is_unsigned_v<Code> Ints<Arch> widen(const Code* p) {
#ifdef __AVX512F__
  if constexpr (std::is_base_of_v<xsimd::avx512f, Arch> && sizeof(Code) == 1)
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  else if constexpr (std::is_base_of_v<xsimd::avx512f, Arch> && sizeof(Code) == 2)
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  else
#endif
#ifdef __AVX2__
      if constexpr (std::is_base_of_v<xsimd::avx2, Arch> && sizeof(Code) == 1)
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  else if constexpr (std::is_base_of_v<xsimd::avx2, Arch> && sizeof(Code) == 2)
    return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  else
#endif
#ifdef __aarch64__
      if constexpr (std::is_base_of_v<xsimd::neon, Arch> && sizeof(Code) == 1) {
    std::uint32_t four = 0;
    std::memcpy(&four, p, sizeof four);
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four)))));
  } else if constexpr (std::is_base_of_v<xsimd::neon, Arch> && sizeof(Code) == 2) {
    return vreinterpretq_s32_u32(vmovl_u16(vld1_u16(p)));
  } else
#endif
  {
    alignas(64) std::array<std::int32_t, static_cast<std::size_t>(width<Arch>)> wide;
    for (std::size_t i = 0; i < wide.size(); ++i) wide[i] = static_cast<std::int32_t>(p[i]);
    return Ints<Arch>::load_aligned(wide.data());
  }
}

/// width<Arch> unsigned codes of 4 bits, each widened to 32 bits. Two codes are in a byte, the first in its low half.
template <class Arch>
[[gnu::always_inline]] inline Ints<Arch> widen_halves(const std::uint8_t* p) {
#ifdef __AVX512F__
  if constexpr (width<Arch> == 16) {  // a byte for every two lanes: its high half moves to the second
    const __m512i bytes = _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    return _mm512_and_si512(_mm512_or_si512(bytes, _mm512_slli_epi64(bytes, 28)), _mm512_set1_epi32(15));
  } else
#endif
#ifdef __AVX2__
      if constexpr (std::is_base_of_v<xsimd::avx2, Arch> && width<Arch> == 8) {
    std::int32_t four;
    std::memcpy(&four, p, sizeof four);
    const __m256i bytes = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(four));
    return _mm256_and_si256(_mm256_or_si256(bytes, _mm256_slli_epi64(bytes, 28)), _mm256_set1_epi32(15));
  } else
#endif
  {
    alignas(64) std::array<std::int32_t, static_cast<std::size_t>(width<Arch>)> wide;
    for (std::size_t i = 0; i < wide.size(); ++i) wide[i] = p[i / 2] >> (i % 2 * 4) & 15;
    return Ints<Arch>::load_aligned(wide.data());
  }
}

}  // namespace dsv3::inline DSV3_ISA::simd
