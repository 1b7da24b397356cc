// Floor 2. Which storages bf16 tiles can multiply (kernels/bf16_tile.hpp), and decoding of codes to bf16, 64 at a time.
//
// Bf16Group<Codec, Arch>::load(codes) decodes 64 codes: `first` has the first 8 of each 16, `last` the last 8, the order in which e4m3 is
// decoded fastest. store(codes, first, last) writes them to memory. to_group_order(a, b) permutes 64 bf16 numbers, 0 to 31 in a and 32 to
// 63 in b, to the same order. `exists` is false if this build cannot decode the codec so: its values are then loaded as floats.
#pragma once

#include "dsv3/quant/storage.hpp"

namespace dsv3::inline DSV3_ISA::codec {

/// Whether every value of the codec is a bf16 number, as the codec says.
template <class C>
inline constexpr bool exact_in_bf16 = [] {
  if constexpr (requires { C::exact_in_bf16; })
    return C::exact_in_bf16;
  else
    return false;
}();

/// Whether tiles can scale the products of a view: a step of a tile sums 32 columns, and at most 128 are summed before they are scaled.
template <class V>
inline constexpr bool scales_fit_tiles =
    !V::Storage::scaled || V::Storage::k_block == 32 || V::Storage::k_block == 64 || V::Storage::k_block % 128 == 0;

/// Whether the values of a view's rows are exact in bf16: as the rows say, or else by the codec.
template <class V>
inline constexpr bool values_exact_in_bf16 = [] {
  if constexpr (requires { row_of_t<V>::exact_in_bf16; }) {
    static_assert(!row_of_t<V>::exact_in_bf16 || scales_fit_tiles<V>,
                  "dsv3: rows that are exact_in_bf16 need a k_block of 32, 64 or a multiple of 128; with other scales leave exact_in_bf16 "
                  "out, and products are formed in float32");
    return row_of_t<V>::exact_in_bf16;
  } else {
    return exact_in_bf16<codec_of<typename V::Storage>>;
  }
}();

/// A view of weights that bf16 tiles can multiply, in a build that has them: its unscaled values are exact in bf16, and its scales, if any,
/// hold for 32, 64 or a multiple of 128 columns. Products of other views are formed in float32.
template <class V>
concept FitsTiles = ElementView<V> && values_exact_in_bf16<V> && scales_fit_tiles<V>;

template <class C, class Arch>
struct Bf16Group {
  static constexpr bool exists = false;
};

#ifdef __AVX512BW__
[[gnu::always_inline]] inline detail::Bf16Pair to_group_order(__m512i a, __m512i b) {
  return {_mm512_shuffle_i64x2(a, b, 0x88), _mm512_shuffle_i64x2(a, b, 0xdd)};
}

namespace detail {
[[gnu::always_inline]] inline void store(const Bf16Pair& pair, std::uint16_t* first, std::uint16_t* last) {
  _mm512_store_si512(first, pair.first);
  _mm512_store_si512(last, pair.last);
}
}  // namespace detail

template <class Arch>
requires std::is_base_of_v<xsimd::avx512bw, Arch>
struct Bf16Group<BFloat16, Arch> {
  static constexpr bool exists = true;
  [[gnu::always_inline]] static detail::Bf16Pair load(const BFloat16::Code* codes) {
    return to_group_order(_mm512_loadu_si512(codes), _mm512_loadu_si512(codes + 32));
  }
  [[gnu::always_inline]] static void store(const BFloat16::Code* codes, std::uint16_t* first, std::uint16_t* last) {
    detail::store(load(codes), first, last);
  }
};
#endif

#ifdef __AVX512VBMI__
template <class Arch>
requires std::is_base_of_v<xsimd::avx512bw, Arch>
struct Bf16Group<E4m3, Arch> {
  static constexpr bool exists = true;
  [[gnu::always_inline]] static detail::Bf16Pair load(const E4m3::Code* codes) { return detail::e4m3_to_bf16(_mm512_loadu_si512(codes)); }
  [[gnu::always_inline]] static void store(const E4m3::Code* codes, std::uint16_t* first, std::uint16_t* last) {
    detail::store(load(codes), first, last);
  }
};
#endif

}  // namespace dsv3::inline DSV3_ISA::codec
