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

#include "dsv3/core/matrix.hpp"
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

/// n in so many equal parts: the largest.
inline Index share(Index n, Index parts) { return (n + parts - 1) / parts; }

/// Columns [0, cols) padded to whole tiles.
inline Index padded(Index cols) { return (cols + depth - 1) / depth * depth; }

/// Two row tiles of weights, at most 16 rows each, whose products are formed together: neighbours in a weight, or a gate and an up. The
/// next unit's are `apart` rows behind.
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

/// Engines: multiply() forms c = a b for one or two tiles of rows of a and of columns of b, `steps` tiles deep. multiply_panel() is for a
/// series of such products, of two tiles of rows and one or two of columns, at most 4 steps, b large beside the first-level cache: the
/// products of one call are in c [2, 2] when the next one calls between(0), or after finish(). between(0) to between(3) come after the
/// steps, or alone where there are fewer. Session is held by a thread meanwhile.
#ifdef DSV3_HAS_AMX
struct AmxEngine {
  using Session = amx::Tiles;
  static void multiply(const Left& a, Index rows, const std::uint16_t* b, Index b_stride, Index columns, Index steps, float* c) {
    const amx::Operands o{a.data, a.row, a.step, a.stride, b, b_stride};
    if (rows == 2)
      columns == 2 ? amx::multiply<2, 2>(o, steps, c) : amx::multiply<2, 1>(o, steps, c);
    else
      columns == 2 ? amx::multiply<1, 2>(o, steps, c) : amx::multiply<1, 1>(o, steps, c);
  }
  /// Stores of the last products wait for their numbers in a queue so short that four of them in a row would keep all that follows waiting
  /// too: each stands before the first product of this call that needs its register.
  template <int Columns, class Between>
  [[gnu::always_inline]] static void multiply_panel(const Left& a, const std::uint16_t* b, Index b_stride, Index steps, float* c,
                                                    Index last_columns, Between&& between) {
    const amx::Operands o{a.data, a.row, a.step, a.stride, b, b_stride};
    const auto keep = [&](auto t) __attribute__((always_inline)) { store<t>(c, last_columns); };
    simd::unroll<4>([&](auto s) __attribute__((always_inline)) {
      if (s < steps) {
        amx::fence();
        amx::step<2, Columns, s == 0, true>(o, s, keep);
        amx::fence();
      }
      between(s);
    });
  }
  static void finish(float* c, Index last_columns) {
    simd::unroll<4>([&](auto t) __attribute__((always_inline)) { store<t>(c, last_columns); });
    amx::fence();
  }

 private:
  /// Register T, which holds a product if it stands in one of the columns.
  template <int T>
  [[gnu::always_inline]] static void store(float* c, Index columns) {
    if (T % 2 < columns) amx::store<T>(c + T * sum_tile);
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
  template <int Columns, class Between>
  static void multiply_panel(const Left& a, const std::uint16_t* b, Index b_stride, Index steps, float* c, Index, Between&& between) {
    simd::unroll<4>([&](auto step) __attribute__((always_inline)) { between(step); });  // first: it reads what c held
    for (Index i = 0; i < 2; ++i)
      for (Index j = 0; j < Columns; ++j)
        one({a.data + i * a.stride, 0, a.row, a.step}, b + j * b_stride, steps, c + (2 * i + j) * sum_tile);
  }
  static void finish(float*, Index) {}

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

/// 128 columns of a unit's weights as tiles: rows of the first are 0 to 15, of the second 16 to 31.
struct Filled {
  alignas(64) std::array<std::uint16_t, 2 * block * side> tiles;
};

/// What their products are multiplied with; uniform: rows of the first have one scale, and those of the second.
struct Scales {
  std::array<float, 2 * side> rows;
  bool uniform;
};

/// Scales of a row tile's columns from `column`. Returns whether they are one.
template <ElementView V>
bool fill_scales(const V& w, Index column, float* scales) {
  const bool uniform = w.rows == 0 || w.uniform_rows(0) >= w.rows;
  if (uniform)
    std::fill_n(scales, side, w.rows > 0 ? w.scale(0, column) : 0.0f);
  else
    for (Index i = 0; i < w.rows; ++i) scales[i] = w.scale(i, column);
  return uniform;
}

/// Converts a unit's weights into Filled, some rows at a time.
template <class Arch, ElementView V>
class Filler {
 public:
  /// Sets `scales` to those of columns from `column`; fill() will write the columns to `out`. Rows and columns that the weights do not have
  /// keep what they hold.
  void start(const Unit<V>& unit, Index column, Filled& out, Scales& scales) {
    const std::array<const V*, 2> w{&unit.first, &unit.second};
    const bool whole = unit.second.rows == side && column + block <= unit.first.cols;
    const Index ahead = prefetch_blocks * block, beyond = column + ahead - unit.first.cols;  // at last, the next unit's first ones
    stride_ = unit.first.row(1) - unit.first.row(0);
    fetched_ = beyond < 0 ? ahead : unit.apart * stride_ + beyond / block * block - column;
    out_ = out.tiles.data();
    row_ = whole ? 0 : 2 * side;
    bool uniform = true;
    for (std::size_t i = 0; i < 2; ++i) {
      codes_[i] = w[i]->row(0) + column;
      uniform = fill_scales(*w[i], column, scales.rows.data() + i * side) && uniform;
      if (!whole) fill_edge(*w[i], column, out_ + i * block * side);
    }
    scales.uniform = uniform;
  }
  bool done() const { return row_ == 2 * side; }

  /// The next `Rows` rows.
  template <int Rows>
  [[gnu::always_inline]] void fill() {
    const Index second = row_ / side, i = row_ % side;
    const Code* codes = codes_[static_cast<std::size_t>(second)] + i * stride_;
    std::uint16_t* out = out_ + second * (block * side) + i * depth;
    simd::unroll<Rows>([&](auto n) __attribute__((always_inline)) {
      simd::unroll<2>([&](auto half) __attribute__((always_inline)) {
        constexpr Index k = half * 2 * depth, at = n * depth + k * side;
        simd::prefetch<2>(codes + k, fetched_);
        Group::store(codes + k, out + at, out + at + tile);
      });
      codes += stride_;
    });
    row_ += Rows;
  }

 private:
  using Code = typename V::Storage::Codec::Code;
  using Group = codec::Bf16Group<typename V::Storage::Codec, Arch>;

  static void fill_edge(const V& w, Index column, std::uint16_t* out) {
    const Index columns = std::min(block, w.cols - column);
    for (Index i = 0; i < w.rows; ++i, out += depth)
      for (Index k = 0; k < columns; k += 2 * depth) {
        alignas(64) std::array<Code, 2 * depth> edge{};
        std::copy_n(w.row(i) + column + k, std::min(2 * depth, columns - k), edge.begin());
        Group::store(edge.data(), out + k * side, out + k * side + tile);
      }
  }

  std::array<const Code*, 2> codes_;
  std::uint16_t* out_;
  Index stride_, fetched_, row_;
};

/// The same for rows that are no codes of one codec: their values are loaded as floats, which bf16 holds exactly.
template <class Arch, ElementView V>
requires(!has_codes<V>) class Filler<Arch, V> {
 public:
  void start(const Unit<V>& unit, Index column, Filled& out, Scales& scales) {
    w_ = {&unit.first, &unit.second};
    column_ = column, out_ = out.tiles.data(), row_ = 0;
    const bool first = fill_scales(unit.first, column, scales.rows.data()),
               second = fill_scales(unit.second, column, scales.rows.data() + side);
    scales.uniform = first && second;
  }
  bool done() const { return row_ == 2 * side; }

  template <int Rows>
  void fill() {
    for (const Index end = row_ + Rows; row_ < end; ++row_) {
      const V& w = *w_[static_cast<std::size_t>(row_ / side)];
      if (row_ % side >= w.rows) continue;
      const auto row = row_of(w, row_ % side);
      std::uint16_t* out = out_ + row_ / side * (block * side) + row_ % side * depth;
      for (Index k = 0; k < std::min(block, w.cols - column_); k += 2 * depth) {
        const auto pairs = [&](Index at) {
          return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(load(w, row, at + side), load(w, row, at)));
        };
        const auto woven = codec::weave(pairs(column_ + k), pairs(column_ + k + depth));
        _mm512_store_si512(out + k * side, woven.first);
        _mm512_store_si512(out + k * side + tile, woven.last);
      }
    }
  }

 private:
  static __m512 load(const V& w, const row_of_t<V>& row, Index k) {
    return k + side <= w.cols ? row.template load<Arch>(k) : load_partial<Arch>(row, k, std::max(w.cols - k, Index{0}));
  }

  std::array<const V*, 2> w_;
  std::uint16_t* out_;
  Index column_, row_;
};

/// Makes a tile of sums zero.
[[gnu::always_inline]] inline void clear(float* sum) {  // a call of memset would take longer
  simd::unroll<side>([&](auto n) __attribute__((always_inline)) { _mm512_store_ps(sum + n * side, _mm512_setzero_ps()); });
}

/// Adds scale * c to a tile of sums.
[[gnu::always_inline]] inline void add_scaled(const float* c, float scale, float* sum) {
  const __m512 factor = _mm512_set1_ps(scale);
  simd::unroll<side>([&](auto n) __attribute__((always_inline)) {
    _mm512_store_ps(sum + n * side, _mm512_fmadd_ps(_mm512_load_ps(c + n * side), factor, _mm512_load_ps(sum + n * side)));
  });
}

/// Adds scales[n] * c[n] to rows n of a tile of sums.
inline void add_scaled(const float* c, const float* scales, float* sum) {
  for (Index n = 0; n < side; ++n)
    _mm512_store_ps(sum + n * side,
                    _mm512_fmadd_ps(_mm512_load_ps(c + n * side), _mm512_set1_ps(scales[n]), _mm512_load_ps(sum + n * side)));
}

#endif
}  // namespace bf16
}  // namespace dsv3::inline DSV3_ISA::kernels
