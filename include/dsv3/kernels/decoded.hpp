// Floor 3. Rows of stored weights decoded to floats that stay in cache, so that many rows of x share the decoding.
//
// The floats are those that linear_tile gets from the codes, in the same order and with the same scales: a product has the same bits
// whether it reads codes or decoded rows.
#pragma once

#include "dsv3/kernels/linear_tile.hpp"

namespace dsv3::inline DSV3_ISA::kernels {

/// The rows of w as floats [rows, stride] in the order of linear_tile, before scales.
template <class Arch, ElementView W>
struct Decoded {
  static constexpr float decode_scale = group_of<W, Arch>::decode_scale;
  struct Storage {
    using Codec = codec::Float32;
    static constexpr bool scaled = W::Storage::scaled || decode_scale != 1;
    static constexpr Index k_block = W::Storage::k_block;
  };
  const float* data = nullptr;
  Index rows = 0, cols = 0, stride = 0;
  W w;

  const float* row(Index i) const { return data + i * stride; }
  float scale(Index i, Index k) const { return w.scale(i, k) * decode_scale; }
  Index uniform_rows(Index i) const { return w.uniform_rows(i); }
  Decoded slice(Index begin, Index count) const { return {row(begin), count, cols, stride, w.slice(begin, count)}; }
};

/// Row stride, in floats, of what decode() writes: whole cache lines, but never a multiple of 4 KiB, which would map all rows to the same
/// few sets of the cache.
inline Index decoded_stride(Index cols) {
  const Index padded = (cols + 15) / 16 * 16;
  return padded % 1024 == 0 ? padded + 16 : padded;
}

/// Decodes all rows of w to `out` [rows, decoded_stride(cols)]. Codes are prefetched `ahead` elements before their use, unless that is 0.
template <class Arch, ElementView W>
Decoded<Arch, W> decode(const W& w, float* out, Index ahead) {
  using Floats = simd::Floats<Arch>;
  using Group = group_of<W, Arch>;
  constexpr Index step = simd::width<Arch>, block = W::Storage::k_block;
  const Index stride = decoded_stride(w.cols);
  const Floats inverse_decode_scale(1 / Group::decode_scale);
  for (Index i = 0; i < w.rows; ++i) {
    const auto row = row_of(w, i);
    float* to = out + i * stride;
    for (Index k0 = 0; k0 < w.cols; k0 += block) {
      const Index end = std::min(k0 + block, w.cols);
      Index k = k0;
      if constexpr (Group::vectors > 1)
        for (; k + Group::vectors * step <= end; k += Group::vectors * step) {
          if (ahead != 0) row.prefetch(k, ahead);
          const auto values = row.template load_group_for_sum<Arch>(k);
          simd::unroll<Group::vectors>([&](auto v) __attribute__((always_inline)) {
            values[static_cast<std::size_t>(v())].store_unaligned(to + k + v * step);
          });
        }
      for (; k < end; k += step) {
        if (ahead != 0) row.prefetch(k, ahead);
        const Floats values = k + step <= end ? row.template load<Arch>(k) : load_partial<Arch>(row, k, end - k);
        (values * inverse_decode_scale).store_unaligned(to + k);
      }
    }
  }
  return {out, w.rows, w.cols, stride, w};
}

}  // namespace dsv3::inline DSV3_ISA::kernels
