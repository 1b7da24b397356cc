// Floor 2. Storage policies: how a weight matrix lies in memory and what value each of its codes has.
//
// A storage says nothing of how products are formed (quant/compute.hpp). Its View is a plain description of memory it does not own:
// copy it freely, keep the memory alive. A storage that is chosen per tensor at run time is quant/any_storage.hpp.
#pragma once

#include <algorithm>
#include <concepts>

#include "dsv3/quant/float16.hpp"
#include "dsv3/quant/float8.hpp"

namespace dsv3::inline DSV3_ISA {

/// A view of W [rows, cols] whose every element is decodable on its own: `decode(row(i)[k]) * scale(i, k)`, where the scale is the same
/// for all k of an aligned group of k_block columns and for all rows from i up to `uniform_rows(i)`. slice(begin, count) views some rows.
template <class W>
concept ElementView = Codec<typename W::Storage::Codec> && requires(const W& w, Index i) {
  { w.rows } -> std::convertible_to<Index>;
  { w.cols } -> std::convertible_to<Index>;
  { w.row(i) } -> std::convertible_to<const typename W::Storage::Codec::Code*>;
  { w.scale(i, i) } -> std::convertible_to<float>;
  { w.uniform_rows(i) } -> std::convertible_to<Index>;
  { w.slice(i, i) } -> std::same_as<W>;
  { W::Storage::k_block } -> std::convertible_to<Index>;
  { W::Storage::scaled } -> std::convertible_to<bool>;
};

/// W [rows, cols] row-major, one code an element, no scales.
template <class C>
struct Dense {
  using Codec = C;
  static constexpr bool scaled = false;
  static constexpr Index k_block = 128;  // products of unscaled weights are summed in the same blocks as those of scaled ones

  struct View {
    using Storage = Dense;
    const typename C::Code* data = nullptr;
    Index rows = 0, cols = 0, stride = 0;

    const typename C::Code* row(Index i) const { return data + i * stride; }
    static constexpr float scale(Index, Index) { return 1.0f; }
    Index uniform_rows(Index) const { return rows; }
    /// Rows [begin, begin + count).
    View slice(Index begin, Index count) const { return {row(begin), count, cols, stride}; }
  };
};

using F32 = Dense<codec::Float32>;
using Bf16 = Dense<codec::BFloat16>;
using F16 = Dense<codec::Float16>;

/// e4m3 codes W [rows, cols] with one float scale per Rows x Cols block (spec B3): value = code * scale. Edge blocks are cut.
template <Index Rows, Index Cols>
struct Fp8Block {
  using Codec = codec::E4m3;
  static constexpr bool scaled = true;
  static constexpr Index block_rows = Rows, k_block = Cols;

  struct View {
    using Storage = Fp8Block;
    const Codec::Code* data = nullptr;
    Index rows = 0, cols = 0, stride = 0;
    const float* scales = nullptr;  ///< [ceil((first_row + rows) / Rows), ceil(cols / Cols)]
    Index scale_stride = 0;
    Index first_row = 0;  ///< of this view within the first row of blocks

    const Codec::Code* row(Index i) const { return data + i * stride; }
    float scale(Index i, Index k) const { return scales[(first_row + i) / Rows * scale_stride + k / Cols]; }
    Index uniform_rows(Index i) const { return std::min(rows, ((first_row + i) / Rows + 1) * Rows - first_row); }
    /// Rows [begin, begin + count).
    View slice(Index begin, Index count) const {
      const Index first = first_row + begin;
      return {row(begin), count, cols, stride, scales + first / Rows * scale_stride, scale_stride, first % Rows};
    }
  };
};

/// Element [i, k] as a float.
template <ElementView W>
float element(const W& w, Index i, Index k) {
  return W::Storage::Codec::decode(w.row(i)[k]) * w.scale(i, k);
}

/// Row i into y [cols].
template <class Arch, ElementView W>
void decode_row(const W& w, Index i, float* y) {
  using S = typename W::Storage;
  const auto* codes = w.row(i);
  for (Index k0 = 0; k0 < w.cols; k0 += S::k_block) {
    const simd::Floats<Arch> scale(w.scale(i, k0));
    const Index end = std::min(k0 + S::k_block, w.cols);
    Index k = k0;
    for (; k + simd::width<Arch> <= end; k += simd::width<Arch>) (S::Codec::template load<Arch>(codes + k) * scale).store_unaligned(y + k);
    for (; k < end; ++k) y[k] = S::Codec::decode(codes[k]) * w.scale(i, k0);
  }
}

}  // namespace dsv3::inline DSV3_ISA
