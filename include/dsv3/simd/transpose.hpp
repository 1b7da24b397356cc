// Floor 1. Transposition of small blocks of 32-bit values.
#pragma once

#include <algorithm>

#include "dsv3/simd/batch.hpp"

namespace dsv3::inline DSV3_ISA::simd {

#ifdef __AVX512F__
/// 16 rows of 16 values of 32 bits.
struct Square {
  __m512i rows[16];
};

/// Transposes a square in place.
[[gnu::always_inline]] inline void transpose(Square& square) {
  __m512i t[16], *r = square.rows;
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; ++j) {
      r[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
      r[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
    }
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 16; j += 8) {
      t[j + i] = _mm512_shuffle_i32x4(r[j + i], r[j + i + 4], 0x88);
      t[j + i + 4] = _mm512_shuffle_i32x4(r[j + i], r[j + i + 4], 0xdd);
    }
  for (int i = 0; i < 8; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
  }
}
#endif

/// to[k, n] = from[n, k] for n < rows and k < columns, both at most width<Arch>; ld and ldto are the row strides.
template <class Arch>
void transpose(const float* from, Index ld, Index rows, Index columns, float* to, Index ldto) {
#ifdef __AVX512F__
  if constexpr (width<Arch> == 16) {
    const auto first = [](Index n) { return static_cast<__mmask16>((1u << n) - 1); };
    Square square;
    unroll<16>([&](auto n) __attribute__((always_inline)) {
      square.rows[n] = n < rows ? _mm512_maskz_loadu_epi32(first(columns), from + n * ld) : _mm512_setzero_si512();
    });
    transpose(square);
    unroll<16>([&](auto k) __attribute__((always_inline)) {
      if (k < columns) _mm512_mask_storeu_epi32(to + k * ldto, first(rows), square.rows[k]);
    });
    return;
  }
#endif
  for (Index n = 0; n < rows; ++n)
    for (Index k = 0; k < columns; ++k) to[k * ldto + n] = from[n * ld + k];
}

}  // namespace dsv3::inline DSV3_ISA::simd
