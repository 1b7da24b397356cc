// Floor 4. Formats of a token's row in the latent cache: floats, bf16, or c_kv as FP8.
//
// A format has row_bytes(C, R), write(c_kv, C, k_pe, R, row) and read<Arch>(row, C, R, out), which decodes the row to C + R floats. A
// format that stores plain floats sets `in_place`; its rows are read without a copy.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "dsv3/quant/block_scale.hpp"

namespace dsv3::inline DSV3_ISA {

template <class F>
concept CacheFormat = requires(const float* x, std::byte* row, const std::byte* stored, float* out, Index n) {
  { F::in_place } -> std::convertible_to<bool>;
  { F::row_bytes(n, n) } -> std::same_as<Index>;
  F::write(x, n, x, n, row);
  F::template read<simd::DefaultArch>(stored, n, n, out);
};

namespace cache_format {

namespace detail {
template <Codec C>
void encode(const float* x, Index n, typename C::Code* codes) {
  for (Index i = 0; i < n; ++i) codes[i] = C::encode(x[i]);
}

/// x[i] = code * scale.
template <Codec C, class Arch>
void decode(const typename C::Code* codes, Index n, float scale, float* x) {
  const simd::Floats<Arch> s(scale);
  Index i = 0;
  for (; i + simd::width<Arch> <= n; i += simd::width<Arch>) (C::template load<Arch>(codes + i) * s).store_unaligned(x + i);
  for (; i < n; ++i) x[i] = C::decode(codes[i]) * scale;
}
}  // namespace detail

/// Codes of one codec: c_kv, then k_pe.
template <Codec C>
struct Codes {
  using Code = typename C::Code;
  static constexpr bool in_place = std::is_same_v<C, codec::Float32>;

  static Index row_bytes(Index rank, Index rope) { return (rank + rope) * static_cast<Index>(sizeof(Code)); }
  static void write(const float* c_kv, Index rank, const float* k_pe, Index rope, std::byte* row) {
    auto* codes = reinterpret_cast<Code*>(row);
    detail::encode<C>(c_kv, rank, codes);
    detail::encode<C>(k_pe, rope, codes + rank);
  }
  template <class Arch>
  static void read(const std::byte* row, Index rank, Index rope, float* out) {
    detail::decode<C, Arch>(reinterpret_cast<const Code*>(row), rank + rope, 1, out);
  }
};

using Float32 = Codes<codec::Float32>;
using Bf16 = Codes<codec::BFloat16>;

/// c_kv as e4m3 with a float scale for each 128 channels (amax / 448), k_pe as bf16: it carries the position, and no norm bounds its
/// values. A token and layer of DeepSeek-V3 takes 656 bytes instead of the 2304 of floats.
struct Fp8 {
  static constexpr bool in_place = false;
  static constexpr Index group = 128;

  static Index row_bytes(Index rank, Index rope) { return (rank + 2 * rope + 4 * groups(rank) + 3) / 4 * 4; }

  static void write(const float* c_kv, Index rank, const float* k_pe, Index rope, std::byte* row) {
    auto* scales = reinterpret_cast<float*>(row);
    auto* pe = reinterpret_cast<codec::BFloat16::Code*>(scales + groups(rank));
    auto* codes = reinterpret_cast<codec::E4m3::Code*>(pe + rope);
    for (Index g = 0; g < groups(rank); ++g) {
      const Index begin = g * group, end = std::min(begin + group, rank);
      float amax = 1e-12f;
      for (Index i = begin; i < end; ++i) amax = std::max(amax, std::abs(c_kv[i]));
      const float scale = scales[g] = amax / codec::E4m3::largest;
      for (Index i = begin; i < end; ++i) codes[i] = codec::E4m3::encode(c_kv[i] / scale);
    }
    detail::encode<codec::BFloat16>(k_pe, rope, pe);
  }

  template <class Arch>
  static void read(const std::byte* row, Index rank, Index rope, float* out) {
    const auto* scales = reinterpret_cast<const float*>(row);
    const auto* pe = reinterpret_cast<const codec::BFloat16::Code*>(scales + groups(rank));
    const auto* codes = reinterpret_cast<const codec::E4m3::Code*>(pe + rope);
    for (Index g = 0; g < groups(rank); ++g)
      detail::decode<codec::E4m3, Arch>(codes + g * group, std::min(group, rank - g * group), scales[g], out + g * group);
    detail::decode<codec::BFloat16, Arch>(pe, rope, 1, out + rank);
  }

 private:
  static Index groups(Index rank) { return (rank + group - 1) / group; }
};

}  // namespace cache_format
}  // namespace dsv3::inline DSV3_ISA
