// Floor 2. Storage policies: how a weight matrix lies in memory and what value each of its codes has.
//
// How products are formed is a matter of compute policies (quant/compute.hpp). A View describes memory that it does not own: copy it
// freely, keep the memory alive. Kernels read values through rows: a row loads a vector of values from a column on, however they are
// stored. quant/any_storage.hpp has storages that are chosen per tensor at run time.
#pragma once

#include <algorithm>
#include <concepts>

#include "dsv3/quant/decode_group.hpp"
#include "dsv3/quant/float16.hpp"

namespace dsv3::inline DSV3_ISA {

/// A row of stored values. at(k) is the value at column k. load<Arch>(k) gives the simd::width<Arch> values from column k on; k is a
/// multiple of the width, and all of them lie within the row. prefetch(k, ahead) prefetches the value `ahead` columns after k, which may
/// lie beyond the row's end. `bits` is the size of a value in memory. How at() and load() get a value (unpack, look up, multiply by the
/// scale of a small group) is up to the row.
/// A row whose values are all exact in bf16 may define `exact_in_bf16` as true: its products then use bf16 tiles if the build has them and
/// the compute policy rounds activations (codec::FitsTiles).
template <class R>
concept ValueRow = requires(const R& row, Index k) {
  { R::bits } -> std::convertible_to<Index>;
  { row.at(k) } -> std::same_as<float>;
  { row.template load<simd::DefaultArch>(k) } -> std::same_as<simd::Floats<simd::DefaultArch>>;
  row.prefetch(k, k);
};

/// A row with one code of codec C per element. Kernels decode it in groups of vectors if the instruction set makes that faster
/// (quant/decode_group.hpp).
template <Codec C>
struct CodeRow {
  const typename C::Code* codes;

  static constexpr Index bits = 8 * static_cast<Index>(sizeof(typename C::Code));
  float at(Index k) const { return C::decode(codes[k]); }
  template <class Arch>
  [[gnu::always_inline]] simd::Floats<Arch> load(Index k) const {
    return C::template load<Arch>(codes + k);
  }
  [[gnu::always_inline]] void prefetch(Index k, Index ahead) const { simd::prefetch(codes + k, ahead); }

  template <class Arch>
  using Group = codec::DecodeGroup<C, Arch>;
  template <class Arch>
  [[gnu::always_inline]] auto load_group(Index k) const {
    return Group<Arch>::load(codes + k);
  }
  template <class Arch>
  [[gnu::always_inline]] auto load_group_for_sum(Index k) const {
    return codec::load_for_sum<Group<Arch>>(codes + k);
  }
};

namespace detail {
/// For rows that are decoded vector by vector.
struct NoGroup {
  static constexpr int vectors = 1;
  static constexpr float decode_scale = 1;
};
template <class R, class Arch>
struct GroupOf {
  using Type = NoGroup;
};
template <class R, class Arch>
requires requires { typename R::template Group<Arch>; }
struct GroupOf<R, Arch> {
  using Type = typename R::template Group<Arch>;
};

template <class S>
struct CodecOf {
  using Type = void;
};
template <class S>
requires requires { typename S::Codec; }
struct CodecOf<S> {
  using Type = typename S::Codec;
};
}  // namespace detail

/// The codec of a storage with one code per element; void for others.
template <class S>
using codec_of = typename detail::CodecOf<S>::Type;

/// Row i of a view: view.row(i), or a CodeRow if that is a pointer to codes.
template <class W>
[[gnu::always_inline]] inline auto row_of(const W& w, Index i) {
  if constexpr (std::is_pointer_v<decltype(w.row(i))>)
    return CodeRow<typename W::Storage::Codec>{w.row(i)};
  else
    return w.row(i);
}
template <class W>
using row_of_t = decltype(row_of(std::declval<const W&>(), Index{}));

/// Whether rows of W are pointers to codes.
template <class W>
inline constexpr bool has_codes = std::is_pointer_v<decltype(std::declval<const W&>().row(Index{}))>;

/// How rows of W are decoded: a codec::DecodeGroup, or NoGroup.
template <class W, class Arch>
using group_of = typename detail::GroupOf<row_of_t<W>, Arch>::Type;

/// A view of W [rows, cols] whose element [i, k] is `row(i).at(k) * scale(i, k)`. row(i) is a ValueRow, or a pointer to codes of
/// Storage::Codec, one per element. scale(i, k) is constant over each aligned group of k_block columns, whose products are summed before
/// they are scaled, and over rows [i, uniform_rows(i)). k_block is a multiple of 16, at most 512; scales of smaller groups belong to the
/// row's values. If there are no scales, `scaled` is false and scale(i, k) is 1. slice(begin, count) is a view of rows [begin, begin +
/// count).
template <class W>
concept ElementView = requires(const W& w, Index i) {
  { w.rows } -> std::convertible_to<Index>;
  { w.cols } -> std::convertible_to<Index>;
  row_of(w, i);
  { w.scale(i, i) } -> std::convertible_to<float>;
  { w.uniform_rows(i) } -> std::convertible_to<Index>;
  { w.slice(i, i) } -> std::same_as<W>;
  { W::Storage::k_block } -> std::convertible_to<Index>;
  { W::Storage::scaled } -> std::convertible_to<bool>;
}
&&ValueRow<row_of_t<W>>;

/// Bytes of a row of W.
template <ElementView W>
Index row_bytes(const W& w) {
  return (w.cols * row_of_t<W>::bits + 7) / 8;
}

/// The first n < width values of a row from column k on; the other elements are 0.
template <class Arch, ValueRow R>
simd::Floats<Arch> load_partial(const R& row, Index k, Index n) {
  alignas(64) std::array<float, static_cast<std::size_t>(simd::width<Arch>)> padded{};
  for (Index i = 0; i < n; ++i) padded[static_cast<std::size_t>(i)] = row.at(k + i);
  return simd::Floats<Arch>::load_aligned(padded.data());
}

/// W [rows, cols] row-major, one code per element, no scales.
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
    Index first_row = 0;  ///< row within its block at which this view begins

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

/// Element [i, k] as a float, scaled.
template <ElementView W>
float element(const W& w, Index i, Index k) {
  return row_of(w, i).at(k) * w.scale(i, k);
}

/// Decodes row i, scaled, to y [cols].
template <class Arch, ElementView W>
void decode_row(const W& w, Index i, float* y) {
  using S = typename W::Storage;
  const auto row = row_of(w, i);
  for (Index k0 = 0; k0 < w.cols; k0 += S::k_block) {
    const simd::Floats<Arch> scale(w.scale(i, k0));
    const Index end = std::min(k0 + S::k_block, w.cols);
    Index k = k0;
    for (; k + simd::width<Arch> <= end; k += simd::width<Arch>) (row.template load<Arch>(k) * scale).store_unaligned(y + k);
    for (; k < end; ++k) y[k] = row.at(k) * w.scale(i, k0);
  }
}

}  // namespace dsv3::inline DSV3_ISA
