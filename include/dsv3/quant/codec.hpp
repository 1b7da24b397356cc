// Floor 2. Codecs: the codes of a number format, and the float that each stands for.
//
// A codec has a Code type, decode(Code) -> float, encode(float) -> Code (round to nearest even, saturating if the format's comment says
// so), and load<Arch>(p), which decodes one vector of codes. load must agree with decode for every code, bit for bit. A codec whose values
// are all exact in bf16 may define `exact_in_bf16` as true.
#pragma once

#include <bit>
#include <concepts>

#include "dsv3/simd/batch.hpp"

namespace dsv3::inline DSV3_ISA {

template <class C>
concept Codec = requires(typename C::Code code, float x, const typename C::Code* p) {
  { C::decode(code) } -> std::same_as<float>;
  { C::encode(x) } -> std::same_as<typename C::Code>;
  { C::template load<simd::DefaultArch>(p) } -> std::same_as<simd::Floats<simd::DefaultArch>>;
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

}  // namespace codec
}  // namespace dsv3::inline DSV3_ISA
