// Floor 3. Packing activations as right operands of bf16 tiles, and storing sums as rows of activations or as right operands.
//
// In a build without bf16 tiles (has_bf16_tiles) only Packed exists.
#pragma once

#include "dsv3/core/workspace.hpp"
#include "dsv3/kernels/bf16_tile.hpp"
#include "dsv3/simd/transpose.hpp"

namespace dsv3::inline DSV3_ISA::kernels::bf16 {

/// x [rows, cols] as tiles of column pairs [16 pairs, 16 rows, 2]: tile (i, k) holds rows [16 i, 16 i + 16) and columns [32 k, 32 k + 32).
/// For a right operand of weights, columns are padded to whole groups of 64, and each group is in the order that the weights ask for.
struct Packed {
  std::uint16_t* data = nullptr;
  Index rows = 0, cols = 0;
  Order order = Order::plain;

  static constexpr Index group = 2 * depth;
  static Index size(Index rows, Index cols) { return (rows + side - 1) / side * side * padded(cols); }
  /// A right operand for x [rows, cols], not yet filled, in `scope` or at `data`, which has room for right_size() numbers.
  static Index right_size(Index rows, Index cols) { return size(rows, (cols + group - 1) / group * group); }
  static Packed right(std::uint16_t* data, Index rows, Index cols, Order order) {
    return {data, rows, (cols + group - 1) / group * group, order};
  }
  static Packed right(Workspace::Scope& scope, Index rows, Index cols, Order order) {
    return right(scope.matrix<std::uint16_t>(1, right_size(rows, cols)).data(), rows, cols, order);
  }
  Index row_tiles() const { return (rows + side - 1) / side; }
  const std::uint16_t* at(Index row_tile, Index column) const { return data + row_tile * side * padded(cols) + column * side; }
};

#ifdef DSV3_HAS_BF16_TILES

using simd::Square, simd::transpose;

/// Interleaves numbers First, First + 1, ... and Second, Second + 1, ... of the 64 of a and b, 16 of each.
template <std::uint16_t First, std::uint16_t Second>
__m512i interleave_words(__m512i a, __m512i b) {
  alignas(64) static constexpr auto order = [] {
    std::array<std::uint16_t, 32> o{};
    for (std::uint16_t i = 0; i < 32; ++i) o[i] = static_cast<std::uint16_t>((i % 2 == 0 ? First : Second) + i / 2);
    return o;
  }();
  return _mm512_permutex2var_epi16(a, _mm512_load_si512(order.data()), b);
}

/// 16 pairs of bf16 numbers: (even, odd), rounded.
inline __m512i bf16_pairs(__m512 even, __m512 odd) {
  const auto rounded = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd, even));
  return interleave_words<0, 16>(rounded, rounded);
}

/// Mask of the first n of 16 lanes; n is clamped to [0, 16].
inline __mmask16 first_lanes(Index n) { return static_cast<__mmask16>((1u << std::clamp(n, Index{0}, side)) - 1); }

/// The first min(n, 32) numbers at p rounded to nearest even, then zeros.
inline __m512i load_bf16(const float* p, Index n) {
  const __m512 first = _mm512_maskz_loadu_ps(first_lanes(n), p), last = _mm512_maskz_loadu_ps(first_lanes(n - side), p + side);
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(last, first));
}

/// 64 numbers, 0 to 31 in a and 32 to 63 in b, in an order.
[[gnu::always_inline]] inline codec::detail::Bf16Pair in_order(Order order, __m512i a, __m512i b) {
  return order == Order::grouped ? codec::to_group_order(a, b) : codec::detail::Bf16Pair{a, b};
}

/// 32 values of a row of weights from column k on; zeros for those beyond its last column.
template <class Arch, ElementView V>
[[gnu::always_inline]] inline __m512i load_values(const V& w, const row_of_t<V>& row, Index k) {
  const auto floats = [&](Index at) -> __m512 {
    return at + side <= w.cols ? row.template load<Arch>(at) : load_partial<Arch>(row, at, std::max(w.cols - at, Index{0}));
  };
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(floats(k + side), floats(k)));
}

/// Prefetches the values of row i two blocks after `column`, or those of the next unit, which begins `rows_to_next` rows later.
template <ElementView V>
void prefetch_values(const V& w, Index i, Index column, Index rows_to_next) {
  constexpr Index line = std::max(512 / row_of_t<V>::bits, Index{1});
  const Index ahead = column + prefetch_blocks * block, beyond = (ahead - w.cols) / block * block;
  const auto row = row_of(w, ahead < w.cols ? i : i + rows_to_next);
  for (Index k = 0; k < block; k += line) row.prefetch((ahead < w.cols ? ahead : beyond) + k, 0);
}

/// Fills row tile i of `packed` from x.
inline void pack(ConstMatrixView<float> x, Index i, const Packed& packed) {
  auto* out = const_cast<std::uint16_t*>(packed.at(i, 0));
  for (Index k = 0; k < x.cols(); k += depth, out += tile_size) {
    Square square{};
    for (Index t = 0; t < std::min(side, x.rows() - i * side); ++t) square.rows[t] = load_bf16(x.row_data(i * side + t) + k, x.cols() - k);
    transpose(square);
    for (Index p = 0; p < side; ++p) _mm512_store_si512(out + p * depth, square.rows[p]);
  }
}

/// The same for a right operand of weights.
inline void pack_right(ConstMatrixView<float> x, Index i, const Packed& packed) {
  auto* out = const_cast<std::uint16_t*>(packed.at(i, 0));
  for (Index k = 0; k < x.cols(); k += Packed::group) {
    Square first{}, last{};
    for (Index t = 0; t < std::min(side, x.rows() - i * side); ++t) {
      const float* row = x.row_data(i * side + t) + k;
      const auto ordered = in_order(packed.order, load_bf16(row, x.cols() - k), load_bf16(row + depth, x.cols() - k - depth));
      first.rows[t] = ordered.first, last.rows[t] = ordered.last;
    }
    for (auto* half : {&first, &last}) {
      transpose(*half);
      for (Index p = 0; p < side; ++p, out += depth) _mm512_store_si512(out, half->rows[p]);
    }
  }
}

/// The same for all of x, at `data`.
inline Packed pack_right(ConstMatrixView<float> x, std::uint16_t* data, Order order) {
  const auto packed = Packed::right(data, x.rows(), x.cols(), order);
  for (Index i = 0; i < packed.row_tiles(); ++i) pack_right(x, i, packed);
  return packed;
}

/// y[t][16 i + n] = sums[i][n][t] for t < rows and 16 i + n < columns: stores sums [columns, rows] as rows of activations. Whole cache
/// lines are written by non-temporal stores, because the 16 lines of a tile lie in 16 rows, and none is read before all are written. Stores
/// of two tiles alternate, because writing two adjacent cache lines back to back takes 25% less time. A thread ends its part with
/// fence_streaming_stores().
template <std::size_t Tiles>
void store_transposed(const std::array<const float*, Tiles>& sums, Index rows, Index columns, float* y, Index stride) {
  std::array<Square, Tiles> squares;
  for (std::size_t i = 0; i < Tiles; ++i) {
    for (Index n = 0; n < side; ++n) squares[i].rows[n] = _mm512_load_si512(sums[i] + n * side);
    transpose(squares[i]);
  }
  const auto each = [&](auto&& store) __attribute__((always_inline)) {
    simd::unroll<side>([&](auto t) __attribute__((always_inline)) {
      if (t < rows)
        for (std::size_t i = 0; i < Tiles; ++i) store(y + t * stride + static_cast<Index>(i) * side, squares[i].rows[t], i);
    });
  };
  if (columns == static_cast<Index>(Tiles) * side && stride % side == 0 && reinterpret_cast<std::uintptr_t>(y) % 64 == 0)
    return each([](float* to, __m512i row, std::size_t) { _mm512_stream_si512(reinterpret_cast<__m512i*>(to), row); });
  std::array<__mmask16, Tiles> masks;
  for (std::size_t i = 0; i < Tiles; ++i) masks[i] = first_lanes(columns - static_cast<Index>(i) * side);
  each([&](float* to, __m512i row, std::size_t i) { _mm512_mask_storeu_epi32(to, masks[i], row); });
}

/// x[t][column + k] = bf16(sums[k][t]) for k < 16 and the rows t of row tile `row_tile`: stores sums [16 columns, 16 rows] as part of a
/// right operand of weights. Only the first `columns` are valid: zeros are stored for the others and, if these are the `last` columns of x,
/// for its padding.
inline void store_right(const float* sums, Index columns, bool last, const Packed& x, Index row_tile, Index column) {
  constexpr Index eight = side / 2, pairs_of_eight = eight / 2 * depth;  // 8 columns are 4 pairs
  const bool grouped = x.order == Order::grouped;
  for (; columns > 0 || (last && column % Packed::group != 0); columns -= side, column += side) {
    const auto sum = [&](Index k) { return k < columns ? _mm512_load_ps(sums + k * side) : _mm512_setzero_ps(); };
    const Index in_group = column % Packed::group / side;
    auto* first =
        const_cast<std::uint16_t*>(x.at(row_tile, column / Packed::group * Packed::group)) + in_group * (grouped ? 1 : 2) * pairs_of_eight;
    auto* second = first + (grouped ? tile_size : pairs_of_eight);
    for (Index k = 0; k < eight; k += 2) {
      _mm512_store_si512(first + k / 2 * depth, bf16_pairs(sum(k), sum(k + 1)));
      _mm512_store_si512(second + k / 2 * depth, bf16_pairs(sum(eight + k), sum(eight + k + 1)));
    }
  }
}

/// Makes non-temporal stores visible to threads that wait for this one.
inline void fence_streaming_stores() { _mm_sfence(); }

#endif

}  // namespace dsv3::inline DSV3_ISA::kernels::bf16
