// Floor 2. Codecs: the codes of a number format, and the float that each stands for.
//
// A codec has a Code type, decode(Code) -> float, encode(float) -> Code (round to nearest even, saturating if the format's comment says
// so), and load<Arch>(p), which decodes one vector of codes. load must agree with decode for every code, bit for bit. A codec whose values
// are all exact in bf16 may define `exact_in_bf16` as true.
#pragma once

#include <array>
#include <bit>
#include <concepts>
#include <cstdint>

#include "dsv3/simd/batch.hpp"

namespace dsv3::inline DSV3_ISA {

template <class C>
concept Codec = requires(typename C::Code code, float x, const typename C::Code* p) {
  { C::decode(code) } -> std::same_as<float>;
  { C::encode(x) } -> std::same_as<typename C::Code>;
  { C::template load<simd::DefaultArch>(p) } -> std::same_as<simd::Floats<simd::DefaultArch>>;
};

/// A codec whose codes do not fill whole bytes. It says itself how `n` of them lie in memory: in packed_bytes(n) bytes, which pack(codes,
/// n, bytes) writes and unpack(bytes, n, codes) reads.
template <class C>
concept PackedCodec = Codec<C> && requires(typename C::Code* codes, std::uint8_t* bytes, Index n) {
  { C::packed_bytes(n) } -> std::same_as<Index>;
  C::pack(codes, n, bytes);
  C::unpack(bytes, n, codes);
};

namespace codec {

/// float32 itself.
struct Float32 {
  using Code = float;
  static constexpr float decode(Code c) { return c; }
  static constexpr Code encode(float x) { return x; }
  template <class Arch>
  static simd::Floats<Arch> load(const Code* p) {
    return simd::load<Arch>(p);
  }
};

/// One vector of any codec from the `n` < width codes at p; the other elements are 0.
template <class C, class Arch>
simd::Floats<Arch> load_partial(const typename C::Code* p, Index n) {
  alignas(64) std::array<float, static_cast<std::size_t>(simd::width<Arch>)> padded{};
  for (Index i = 0; i < n; ++i) padded[static_cast<std::size_t>(i)] = C::decode(p[i]);
  return simd::Floats<Arch>::load_aligned(padded.data());
}

namespace detail {
/// Exponent and mantissa of the number nearest to a float (ties to even), in a format whose smallest normal number is 2^min_exponent.
/// `magnitude` is the float's bits without its sign; it must not round to more than the format has.
template <int mantissa_bits, int min_exponent>
constexpr std::uint32_t nearest(std::uint32_t magnitude) {
  constexpr int cut = 23 - mantissa_bits;
  if (magnitude < static_cast<std::uint32_t>(127 + min_exponent) << 23) {
    // Floats of the aligner's size are as far apart as subnormals of the format: adding it leaves the rounded code in the low bits.
    constexpr auto aligner = static_cast<std::uint32_t>(127 + min_exponent + cut) << 23;
    return std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + std::bit_cast<float>(aligner)) - aligner;
  }
  const std::uint32_t rounded = magnitude + ((1u << (cut - 1)) - 1) + ((magnitude >> cut) & 1u);
  return (rounded - (static_cast<std::uint32_t>(126 + min_exponent) << 23)) >> cut;
}
}  // namespace detail

}  // namespace codec
}  // namespace dsv3::inline DSV3_ISA
