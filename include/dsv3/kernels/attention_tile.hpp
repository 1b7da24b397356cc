// Floor 3. Parts of attention by bf16 tiles: keys and values as operands of tiles, and the softmax of a tile of scores.
//
// In a build without bf16 tiles (has_bf16_tiles) this header declares nothing.
#pragma once

#include "dsv3/kernels/attention.hpp"
#include "dsv3/kernels/bf16_pack.hpp"

namespace dsv3::inline DSV3_ISA::kernels::bf16 {

#ifdef DSV3_HAS_BF16_TILES

/// The first min(n, 32) codes at p, then zeros.
inline __m512i load_bf16(const std::uint16_t* p, Index n) {
  return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((std::uint64_t{1} << std::min(n, depth)) - 1), p);
}

/// Writes x [up to 64, K] as a left operand, padded with zeros: tile (i, k) holds rows [16 i, 16 i + 16) and columns [32 k, 32 k + 32). Row
/// tiles are `stride` numbers apart.
template <class T>
void pack_keys(ConstMatrixView<T> x, std::uint16_t* tiles, Index stride) {
  for (Index i = 0; i < attention_block; ++i) {
    std::uint16_t* out = tiles + i / side * stride + i % side * depth;
    const T* row = x.data() + i * x.outerStride();
    for (Index k = 0; k < x.cols(); k += depth, out += tile_size)
      _mm512_store_si512(out, i < x.rows() ? load_bf16(row + k, x.cols() - k) : _mm512_setzero_si512());
  }
}

/// Prefetches `cols` columns of `rows` rows into L2.
template <class T>
[[gnu::always_inline]] inline void prefetch_rows(const T* x, Index rows, Index cols, Index stride) {
  for (Index i = 0; i < rows; ++i, x += stride)
    for (Index c = 0; c < cols; c += 64 / Index{sizeof(T)}) simd::prefetch<2>(x, c);
}

/// Writes x [up to 64, V] as a right operand, padded with zeros: tile (j, s) holds rows [32 s, 32 s + 32) and 16 columns, and each pair of
/// tiles j (0 and 1, 2 and 3, ...) holds 32 columns in the order of interleaved(). The first `hidden` rows are replaced by zeros. `next`,
/// if not null, has the same columns of the block after x, with the same stride: it is prefetched.
template <class T>
void pack_values(ConstMatrixView<T> x, std::uint16_t* tiles, Index hidden = 0, const T* next = nullptr) {
  const auto load = [](const T* p) {
    if constexpr (sizeof(T) == 2)
      return _mm512_loadu_si512(p);
    else
      return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(_mm512_loadu_ps(p + side), _mm512_loadu_ps(p)));
  };
  const auto put = [](std::uint16_t* out, __m512i even, __m512i odd) {
    _mm512_store_si512(out, _mm512_unpacklo_epi16(even, odd));
    _mm512_store_si512(out + 2 * tile_size, _mm512_unpackhi_epi16(even, odd));
  };
  const Index whole = x.cols() / depth * depth;
  for (Index i = 0; i < attention_block; i += 2) {
    std::uint16_t* out = tiles + i / depth * tile_size + i % depth * side;
    const T *even = x.data() + i * x.outerStride(), *odd = even + x.outerStride();
    const bool both = i >= hidden && i + 1 < x.rows();
    if (next != nullptr) prefetch_rows(next + i * x.outerStride(), 2, x.cols(), x.outerStride());
    if (both)
      for (Index c = 0; c < whole; c += depth, out += 4 * tile_size) put(out, load(even + c), load(odd + c));
    for (Index c = both ? whole : 0; c < x.cols(); c += depth, out += 4 * tile_size)
      put(out, i >= hidden && i < x.rows() ? load_bf16(even + c, x.cols() - c) : _mm512_setzero_si512(),
          i + 1 >= hidden && i + 1 < x.rows() ? load_bf16(odd + c, x.cols() - c) : _mm512_setzero_si512());
  }
}

/// Whether x, rounded to bf16, has neither infinities nor NaN.
template <class T>
bool all_finite(ConstMatrixView<T> x) {
  for (Index i = 0; i < x.rows(); ++i)
    for (Index c = 0; c < x.cols(); c += depth) {
      const __m512i exponents = _mm512_set1_epi16(0x7f80);
      if (_mm512_cmpeq_epi16_mask(_mm512_and_si512(load_bf16(x.data() + i * x.outerStride() + c, x.cols() - c), exponents), exponents) != 0)
        return false;
    }
  return true;
}

/// 32 columns in their order (first 16, last 16), from the tiles a and b over which pack_values() spreads them: 4 to a, 4 to b, and so on.
struct Interleaved {
  __m512 first, last;
};
inline Interleaved interleaved(__m512 a, __m512 b) {
  const auto quarters = [&](int from) {  // of 4 floats each: from a, b, a, b
    const __m512i order =
        _mm512_add_epi32(_mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23), _mm512_set1_epi32(from));
    return _mm512_permutex2var_ps(a, order, b);
  };
  return {quarters(0), quarters(8)};
}

/// Sixteen online softmaxes side by side, one per lane.
struct OnlineSoftmaxLanes {
  __m512 maximum, sum;

  /// Adds scale * scores of `keys` keys; lane m sees keys [keys_begin[m], keys_end[m]). score(n) points to the 16 scores of key n. Stores
  /// the weights as left tiles [16 queries, 32 keys]. Returns the factors by which earlier sums must be multiplied.
  template <class Arch, class Score, class Variant>
  __m512 add(Score&& score, Index keys, __m512i keys_begin, __m512i keys_end, float scale, std::uint16_t* weights, const Variant& variant) {
    bool all = _mm512_cmplt_epi32_mask(keys_end, _mm512_set1_epi32(static_cast<int>(keys))) == 0;
    if constexpr (attention::has_first_key<Variant>) all = all && _mm512_cmpgt_epi32_mask(keys_begin, _mm512_setzero_si512()) == 0;
    return all ? add_seen<Arch, true>(score, keys, keys_begin, keys_end, scale, weights, variant)
               : add_seen<Arch, false>(score, keys, keys_begin, keys_end, scale, weights, variant);
  }

 private:
  /// All: every lane sees every key.
  template <class Arch, bool All, class Score, class Variant>
  __m512 add_seen(Score&& score, Index keys, [[maybe_unused]] __m512i keys_begin, __m512i keys_end, float scale, std::uint16_t* weights,
                  [[maybe_unused]] const Variant& variant) {
    const __m512 lowest = _mm512_set1_ps(-std::numeric_limits<float>::infinity()), by = _mm512_set1_ps(scale);
    const auto sees = [&](Index n) {
      if (All) return static_cast<__mmask16>(0xffff);
      const __m512i key = _mm512_set1_epi32(static_cast<int>(n));
      if constexpr (attention::has_first_key<Variant>)
        return static_cast<__mmask16>(_mm512_cmpgt_epi32_mask(keys_end, key) & _mm512_cmple_epi32_mask(keys_begin, key));
      else
        return _mm512_cmpgt_epi32_mask(keys_end, key);
    };
    const auto scaled = [&](Index n) {
      if constexpr (attention::has_transform<Variant>) {
        const simd::Floats<Arch> s(_mm512_mul_ps(_mm512_load_ps(score(n)), by));
        return _mm512_mask_mov_ps(lowest, sees(n), static_cast<__m512>(variant.transform(s)));
      } else {
        return _mm512_mask_mul_ps(lowest, sees(n), _mm512_load_ps(score(n)), by);
      }
    };
    __m512 largest = maximum;
    for (Index n = 0; n < keys; ++n) largest = _mm512_max_ps(scaled(n), largest);  // ignores NaN
    const __m512 shift = _mm512_mask_mov_ps(largest, _mm512_cmpeq_ps_mask(largest, lowest), _mm512_setzero_ps());
    const auto exp = [&](__m512 x) { return static_cast<__m512>(xsimd::exp(simd::Floats<Arch>(_mm512_sub_ps(x, shift)))); };
    const auto same = _mm512_cmpeq_ps_mask(maximum, largest);
    const __m512 factor = _mm512_mask_mov_ps(exp(maximum), same, _mm512_set1_ps(1));
    const auto weight = [&](Index n) { return n < keys ? _mm512_maskz_mov_ps(sees(n), exp(scaled(n))) : _mm512_setzero_ps(); };
    __m512 total = _mm512_setzero_ps();
    for (Index first = 0; first < keys; first += depth, weights += tile_size) {
      Square square;
      for (Index pair = 0; pair < side; ++pair) {
        const __m512 even = weight(first + 2 * pair), odd = weight(first + 2 * pair + 1);
        total = _mm512_add_ps(_mm512_add_ps(total, even), odd);
        square.rows[pair] = bf16_pairs(even, odd);
      }
      transpose(square);
      for (Index m = 0; m < side; ++m) _mm512_store_si512(weights + m * depth, square.rows[m]);
    }
    maximum = largest;
    sum = _mm512_fmadd_ps(sum, factor, total);
    return factor;
  }
};

#endif

}  // namespace dsv3::inline DSV3_ISA::kernels::bf16
