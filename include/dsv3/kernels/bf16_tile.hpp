// Floor 3. Products of bf16 tiles: activations rounded to bf16 times weights that are exact in bf16, summed in float32.
//
// Weights are the left operand, so that their rows are read as the checkpoint stores them; activations are packed once for all weights.
// A block of 128 columns is multiplied by an engine (AMX tiles, or AVX512-BF16 dot products), times the scale of each row added to a sum
// in memory. Every element of the result is formed by the same operations whatever stands beside it. Edges are padded with zeros.
//
// Where a build has neither engine, has_bf16_tiles<Arch> is false and there are none of the functions.
#pragma once

#include <cstring>
#include <span>

#include "dsv3/core/workspace.hpp"
#include "dsv3/quant/any_storage.hpp"
#include "dsv3/quant/bf16_group.hpp"
#include "dsv3/simd/amx.hpp"

namespace dsv3::inline DSV3_ISA::kernels {

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#define DSV3_HAS_BF16_TILES 1
#endif

/// Whether Arch has tiles at all.
template <class Arch>
inline constexpr bool has_bf16_tiles =
#ifdef DSV3_HAS_BF16_TILES
    std::is_base_of_v<xsimd::avx512bw, Arch>;
#else
    false;
#endif

namespace bf16 {

inline constexpr Index side = 16;               ///< rows of a tile, and columns of its product
inline constexpr Index depth = 32;              ///< bf16 numbers in a tile's row
inline constexpr Index tile = side * depth;     ///< numbers in a tile of bf16
inline constexpr Index sum_tile = side * side;  ///< numbers in a tile of sums
inline constexpr Index block = 128;             ///< columns between two scalings
inline constexpr Index prefetch_blocks = 2;     ///< of weights, between prefetch and conversion

/// Columns [0, cols) padded to whole tiles.
inline Index padded(Index cols) { return (cols + depth - 1) / depth * depth; }

/// x [rows, cols] as tiles of column pairs: tile (i, k) holds rows [16 i, 16 i + 16) and columns [32 k, 32 k + 32). As right operand of
/// weights, columns are padded to whole groups of 64, and stand within each as codec::Bf16Group does.
struct Packed {
  std::uint16_t* data = nullptr;
  Index rows = 0, cols = 0;

  static constexpr Index group = 2 * depth;
  static Index size(Index rows, Index cols) { return (rows + side - 1) / side * side * padded(cols); }
  /// A right operand in `scope` for x [rows, cols].
  static Packed right(Workspace::Scope& scope, Index rows, Index cols) {
    cols = (cols + group - 1) / group * group;
    return {scope.matrix<std::uint16_t>(1, size(rows, cols)).data(), rows, cols};
  }
  Index row_tiles() const { return (rows + side - 1) / side; }
  const std::uint16_t* at(Index row_tile, Index column) const { return data + row_tile * side * padded(cols) + column * side; }
};

/// Two row tiles of weights, at most 16 rows each, whose products are formed together: neighbours in a weight, or a gate and an up. The next
/// unit's are `apart` rows behind.
template <ElementView V>
struct Unit {
  V first, second;
  Index apart;
};

#ifdef DSV3_HAS_BF16_TILES

/// A left operand: tiles [16, 32] of rows `row` numbers apart; that of the next 32 columns lies `step` behind, that of the next 16 rows
/// `stride`.
struct Left {
  const std::uint16_t* data;
  Index stride, row = depth, step = tile;
};

/// Engines: c = a b for one or two tiles of rows of a and of columns of b, `steps` tiles deep. multiply_panel is for two tiles of rows and
/// a b that is large beside the first-level cache; between(step) is called after each step. Session is held by a thread meanwhile.
#ifdef DSV3_HAS_AMX
struct AmxEngine {
  using Session = amx::Tiles;
  static void multiply(const Left& a, Index rows, const std::uint16_t* b, Index b_stride, Index columns, Index steps, float* c) {
    const auto run = [&]<int Rows, int Columns>() {
      amx::multiply<Rows, Columns, false>(a.data, a.row, a.step, a.stride, b, b_stride, steps, c, [](std::ptrdiff_t) {});
    };
    if (rows == 2)
      columns == 2 ? run.template operator()<2, 2>() : run.template operator()<2, 1>();
    else
      columns == 2 ? run.template operator()<1, 2>() : run.template operator()<1, 1>();
  }
  template <class Between>
  [[gnu::always_inline]] static void multiply_panel(const Left& a, const std::uint16_t* b, Index b_stride, Index columns, Index steps,
                                                    float* c, Between&& between) {
    if (columns == 2)
      amx::multiply<2, 2, true>(a.data, a.row, a.step, a.stride, b, b_stride, steps, c, between);
    else
      amx::multiply<2, 1, true>(a.data, a.row, a.step, a.stride, b, b_stride, steps, c, between);
  }
};
#endif

/// The same by dot products of bf16 pairs.
struct DotEngine {
  struct Session {
    Session() {}  // not trivial: an unused one is no mistake
  };
  static void multiply(const Left& a, Index rows, const std::uint16_t* b, Index b_stride, Index columns, Index steps, float* c) {
    for (Index i = 0; i < rows; ++i)
      for (Index j = 0; j < columns; ++j)
        one({a.data + i * a.stride, 0, a.row, a.step}, b + j * b_stride, steps, c + (i * columns + j) * sum_tile);
  }
  template <class Between>
  static void multiply_panel(const Left& a, const std::uint16_t* b, Index b_stride, Index columns, Index steps, float* c,
                             Between&& between) {
    for (Index step = 0; step < steps; ++step) between(step);  // first: it reads what c held
    multiply(a, 2, b, b_stride, columns, steps, c);
  }

 private:
  static void one(Left a, const std::uint16_t* b, Index steps, float* c) {
    __m512 sum[side];
    simd::unroll<side>([&](auto n) __attribute__((always_inline)) { sum[n] = _mm512_setzero_ps(); });
    for (Index s = 0; s < steps; ++s, a.data += a.step, b += tile)
      for (Index pair = 0; pair < depth / 2; ++pair) {
        const __m512i columns = _mm512_load_si512(b + pair * depth);
        simd::unroll<side>([&](auto n) __attribute__((always_inline)) {
          std::int32_t two;
          std::memcpy(&two, a.data + n * a.row + 2 * pair, sizeof two);
          sum[n] = _mm512_dpbf16_ps(sum[n], reinterpret_cast<__m512bh>(_mm512_set1_epi32(two)), reinterpret_cast<__m512bh>(columns));
        });
      }
    simd::unroll<side>([&](auto n) __attribute__((always_inline)) { _mm512_store_ps(c + n * side, sum[n]); });
  }
};

/// A 16 x 16 matrix of 32-bit elements.
struct Square {
  __m512i rows[16];
};

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

/// Numbers First, First + 1, ... and Second, Second + 1, ... of the 64 of a and b in turn, 16 of each.
template <std::uint16_t First, std::uint16_t Second>
__m512i in_turn(__m512i a, __m512i b) {
  alignas(64) static constexpr auto order = [] {
    std::array<std::uint16_t, 32> o{};
    for (std::uint16_t i = 0; i < 32; ++i) o[i] = static_cast<std::uint16_t>((i % 2 == 0 ? First : Second) + i / 2);
    return o;
  }();
  return _mm512_permutex2var_epi16(a, _mm512_load_si512(order.data()), b);
}

/// 16 pairs of bf16 numbers: even rounded, odd rounded.
inline __m512i bf16_pairs(__m512 even, __m512 odd) {
  const auto rounded = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd, even));
  return in_turn<0, 16>(rounded, rounded);
}

/// The first min(n, 32) numbers at p rounded to nearest even, then zeros.
inline __m512i load_bf16(const float* p, Index n) {
  const auto mask = [&](Index begin) { return static_cast<__mmask16>((1u << std::clamp(n - begin, Index{0}, side)) - 1); };
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(mask(side), p + side), _mm512_maskz_loadu_ps(mask(0), p)));
}

/// Fills row tile i of `packed` from x.
inline void pack(ConstMatrixView<float> x, Index i, const Packed& packed) {
  auto* out = const_cast<std::uint16_t*>(packed.at(i, 0));
  for (Index k = 0; k < x.cols(); k += depth, out += tile) {
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
      const auto woven = codec::weave(load_bf16(row, x.cols() - k), load_bf16(row + depth, x.cols() - k - depth));
      first.rows[t] = woven.first, last.rows[t] = woven.last;
    }
    for (auto* half : {&first, &last}) {
      transpose(*half);
      for (Index p = 0; p < side; ++p, out += depth) _mm512_store_si512(out, half->rows[p]);
    }
  }
}

/// 128 columns of a unit's weights: rows of the first are 0 to 15, of the second 16 to 31.
struct Filled {
  alignas(64) std::array<std::uint16_t, 2 * block * side> tiles;

  /// Rows [begin, end) of 32, columns from `column`; with the first rows scales [32] gets all of them. Rows that the weights do not have keep
  /// what they hold.
  template <class Arch, ElementView V>
  [[gnu::always_inline]] void fill(const Unit<V>& unit, Index column, Index begin, Index end, float* scales) {
    if (begin == 0) fill_scales(unit.first, column, scales), fill_scales(unit.second, column, scales + side);
    if (begin < side) fill_tile<Arch>(unit.first, unit.apart, column, begin, std::min(end, side), tiles.data());
    if (end > side)
      fill_tile<Arch>(unit.second, unit.apart, column, std::max(begin - side, Index{0}), end - side, tiles.data() + block * side);
  }

 private:
  template <ElementView V>
  static void fill_scales(const V& w, Index column, float* scales) {
    if (w.rows > 0 && w.uniform_rows(0) >= w.rows)
      std::fill_n(scales, side, w.scale(0, column));
    else
      for (Index i = 0; i < w.rows; ++i) scales[i] = w.scale(i, column);
  }

  template <class Arch, ElementView V>
  [[gnu::always_inline]] static void fill_tile(const V& w, Index apart, Index column, Index begin, Index end, std::uint16_t* tiles) {
    using Code = typename V::Storage::Codec::Code;
    using Group = codec::Bf16Group<typename V::Storage::Codec, Arch>;
    const Index columns = std::min(block, w.cols - column), stride = w.row(1) - w.row(0);
    const Index ahead = prefetch_blocks * block, beyond = column + ahead - w.cols;  // columns ahead are the next unit's first ones at last
    const Index fetched = beyond < 0 ? ahead : apart * stride + beyond / block * block - column;
    const Code* codes = w.row(begin) + column;
    std::uint16_t* out = tiles + begin * depth;
    end = std::min(end, w.rows);
    if (columns == block) [[likely]] {
      for (Index i = begin; i < end; ++i, codes += stride, out += depth)
        simd::unroll<2>([&](auto half) __attribute__((always_inline)) {
          constexpr Index k = half * 2 * depth;
          simd::prefetch(codes + k, fetched);
          Group::store(codes + k, out + k * side, out + k * side + tile);
        });
      return;
    }
    for (Index i = begin; i < end; ++i, codes += stride, out += depth)
      for (Index k = 0; k < columns; k += 2 * depth) {
        alignas(64) std::array<Code, 2 * depth> edge{};
        std::copy_n(codes + k, std::min(2 * depth, columns - k), edge.begin());
        Group::store(edge.data(), out + k * side, out + k * side + tile);
      }
  }
};

/// Adds scales[n] * c[n] to rows n of a tile of sums; the first time it puts them there.
inline void add_scaled(const float* c, const float* scales, float* sum, bool first) {
  const auto before = static_cast<__mmask16>(first ? 0 : 0xffff);
  for (Index n = 0; n < side; ++n)
    _mm512_store_ps(sum + n * side,
                    _mm512_fmadd_ps(_mm512_load_ps(c + n * side), _mm512_set1_ps(scales[n]), _mm512_maskz_load_ps(before, sum + n * side)));
}

/// y[t][n] = sum[n][t] for t < rows and n < columns: sums as they are formed into rows of activations. Whole cache lines go past the
/// caches, since a tile's lie in as many rows, and are not read before all are written. A thread ends its part with end_stores().
inline void store_transposed(const float* sums, Index rows, Index columns, float* y, Index stride) {
  Square sum;
  for (Index n = 0; n < side; ++n) sum.rows[n] = _mm512_load_si512(sums + n * side);
  transpose(sum);
  if (columns == side && stride % side == 0 && reinterpret_cast<std::uintptr_t>(y) % 64 == 0) {
    for (Index t = 0; t < rows; ++t) _mm512_stream_si512(reinterpret_cast<__m512i*>(y + t * stride), sum.rows[t]);
    return;
  }
  const auto mask = static_cast<__mmask16>((1u << columns) - 1);
  for (Index t = 0; t < rows; ++t) _mm512_mask_storeu_epi32(y + t * stride, mask, sum.rows[t]);
}

/// x[t][k] = bf16(sums[k][t]) for 16 columns k from `column` and the rows of a tile: sums as they are formed into a right operand of
/// weights, past the caches too. Of the 16 only `columns` are; the others become zeros, as do, after the `last` ones, those up to the end.
inline void store_right(const float* sums, Index columns, bool last, const Packed& x, Index row_tile, Index column) {
  constexpr Index eight = side / 2, pairs_apart = eight / 2 * depth;  // 8 columns are 4 pairs
  for (; columns > 0 || (last && column % Packed::group != 0); columns -= side, column += side) {
    const auto sum = [&](Index k) { return k < columns ? _mm512_load_ps(sums + k * side) : _mm512_setzero_ps(); };
    auto* first = const_cast<std::uint16_t*>(x.at(row_tile, column / Packed::group * Packed::group)) +
                  column % Packed::group / side * pairs_apart;
    for (Index k = 0; k < eight; k += 2) {
      _mm512_stream_si512(reinterpret_cast<__m512i*>(first + k / 2 * depth), bf16_pairs(sum(k), sum(k + 1)));
      _mm512_stream_si512(reinterpret_cast<__m512i*>(first + tile + k / 2 * depth), bf16_pairs(sum(eight + k), sum(eight + k + 1)));
    }
  }
}

/// Makes what went past the caches visible to threads that wait for this one.
inline void end_stores() { _mm_sfence(); }

#endif
}  // namespace bf16
}  // namespace dsv3::inline DSV3_ISA::kernels
