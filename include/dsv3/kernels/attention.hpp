// Floor 3. Causal attention of a tile of query rows over keys and values in memory, by online softmax over fixed blocks of keys.
//
// One function serves all forms: absorbed latent attention (the rows are the heads of one token; keys and values are the same latent
// vectors), expanded attention (the rows are tokens of one head) and grouped-query attention. A row's result depends on that row, the keys
// it may see and their number; not on the other rows of the tile.
#pragma once

#include <cassert>
#include <concepts>

#include "dsv3/core/error.hpp"
#include "dsv3/kernels/attention_variant.hpp"
#include "dsv3/kernels/linear.hpp"
#include "dsv3/kernels/softmax.hpp"

namespace dsv3::inline DSV3_ISA::kernels {

/// Keys and values as floats or as bf16 codes. A key has two parts, k [S, N] and k_pe [S, R], which may have no columns; a score is the sum
/// of their products with the query's parts. v [S, V].
template <class T>
struct KeysValuesOf {
  ConstMatrixView<T> k, k_pe, v;

  /// Keys [first, first + keys).
  KeysValuesOf block(Index first, Index keys, float*) const {
    return {k.slice(first, keys), k_pe.cols() > 0 ? k_pe.slice(first, keys) : k_pe, v.slice(first, keys)};
  }
  static Index block_scratch() { return 0; }
};
using KeysValues = KeysValuesOf<float>;

/// A source of keys and values in blocks. block(first, keys, scratch) gives `keys` <= attention_block of them from `first` on, a multiple
/// of attention_block; it may compute them into scratch [block_scratch()].
template <class K>
concept BlockSource = requires(const K& source, Index n, float* scratch) {
  { source.block(n, n, scratch) } -> std::same_as<KeysValues>;
  { source.block_scratch() } -> std::same_as<Index>;
};

/// A tile of M query rows: q [M, N], q_pe [M, R]. Row m sees the first `limit + m * limit_step` keys, at least one; a variant may hide some
/// of them. It belongs to head `head + m * head_step`, for variants that depend on the head.
struct QueryTile {
  ConstMatrixView<float> q, q_pe;
  Index limit = 0, limit_step = 0;
  Index head = 0, head_step = 0;

  Index limit_of(Index m) const { return limit + m * limit_step; }
  Index head_of(Index m) const { return head + m * head_step; }
};

inline constexpr Index attention_tile = 16;   ///< most rows of a tile
inline constexpr Index attention_block = 64;  ///< keys of a block

/// Floats of scratch that attend() needs for values of width `v`.
inline Index attend_scratch(Index v) { return attention_tile * (2 * attention_block + v); }

namespace detail {
template <class Arch>
bool all_finite(ConstMatrixView<float> x) {
  using Floats = simd::Floats<Arch>;
  for (Index i = 0; i < x.rows(); ++i)
    if (simd::map_sum<Arch>([](const Floats& v, const Floats& sum) { return simd::fma<Arch>(v, Floats(0.0f), sum); }, x.cols(),
                            x.row_data(i)) != 0)
      return false;
  return true;
}
}  // namespace detail

/// out [M, V] = softmax(scale * (q k^T + q_pe k_pe^T)) v for M <= attention_tile rows (eq. 10), or as `variant` has it. `lse` [M], if it is
/// not null, receives the logarithm of each row's sum of exp(score), sinks included. Keys and values that a row does not see never reach
/// its result, NaN or not. Serial; `scratch` [attend_scratch(V) + block_scratch()].
/// Throws: Error if shapes do not fit.
template <class Arch = simd::DefaultArch, BlockSource Source = KeysValues, attention::Variant Variant = attention::Full>
void attend(const QueryTile& tile, const Source& source, float scale, MatrixView<float> out, float* scratch, const Variant& variant = {},
            float* lse = nullptr) {
  using Floats = simd::Floats<Arch>;
  const Index rows = tile.q.rows(), width = out.cols();
  const Index last = tile.limit_of(rows - 1);
  require(rows >= 1 && rows <= attention_tile && out.rows() == rows && tile.limit >= 1 && last >= 1, "attend: expected 1 to ",
          attention_tile, " rows that see at least one key, and as many results; got ", rows, " rows, ", out.rows(), " results, limits ",
          tile.limit, " to ", last);
  const auto as_weight = [](ConstMatrixView<float> m) { return F32::View{m.data(), m.rows(), m.cols(), m.outerStride()}; };

  MatrixView<float> scores(scratch, rows, attention_block), pe(scores.data() + scores.size(), rows, attention_block);
  MatrixView<float> part(pe.data() + pe.size(), rows, width);
  std::array<OnlineSoftmax, attention_tile> state;
  std::array<float, attention_tile> rescale;
  out.setZero();
  if constexpr (attention::has_sink<Variant>)
    for (Index m = 0; m < rows; ++m) state[static_cast<std::size_t>(m)] = {variant.sink(tile.head_of(m)), 1};

  const Index start = std::min(attention::first_key(variant, tile.limit), attention::first_key(variant, last));
  for (Index k0 = start / attention_block * attention_block; k0 < last; k0 += attention_block) {
    const Index keys = std::min(attention_block, last - k0);
    const KeysValues kv = source.block(k0, keys, scratch + attend_scratch(width));
    detail::linear_panel<Arch>(tile.q, as_weight(kv.k), scores.data(), attention_block);
    if (kv.k_pe.cols() > 0) {
      detail::linear_panel<Arch>(tile.q_pe, as_weight(kv.k_pe), pe.data(), attention_block);
      scores.leftCols(keys) += pe.leftCols(keys);
    }
    // Row m sees keys [keys_begin(m), keys_end(m)) of the block.
    const auto keys_end = [&](Index m) { return std::clamp(tile.limit_of(m) - k0, Index{0}, keys); };
    const auto keys_begin = [&](Index m) {
      if constexpr (attention::has_first_key<Variant>)
        return std::clamp(attention::first_key(variant, tile.limit_of(m)) - k0, Index{0}, keys_end(m));
      else
        return Index{0};
    };
    for (Index m = 0; m < rows; ++m) {
      float* s = scores.row_data(m);
      if (keys_end(m) == keys_begin(m)) continue;
      for (Index i = keys_begin(m); i < keys_end(m); ++i) s[i] *= scale;
      if constexpr (attention::has_transform<Variant>)
        simd::map<Arch>([&](const Floats& v) { return variant.transform(v); }, keys_end(m) - keys_begin(m), s + keys_begin(m),
                        s + keys_begin(m));
      rescale[static_cast<std::size_t>(m)] =
          state[static_cast<std::size_t>(m)].template add<Arch>(s + keys_begin(m), keys_end(m) - keys_begin(m));
    }
    const auto multiply_values = [&](Index m, Index count, Index first_seen, Index seen_keys) {  // rows [m, m + count)
      const auto p = ConstMatrixView<float>(scores).slice(m, count).columns(first_seen, seen_keys - first_seen);
      const auto values = as_weight(kv.v.slice(first_seen, seen_keys - first_seen));
      for (Index c = 0; c < width; c += detail::max_columns)
        detail::linear_transposed_panel<Arch>(p, values, c, std::min(c + detail::max_columns, width), part.slice(m, count));
    };
    const Index union_begin = attention::has_first_key<Variant> ? 0 : keys_end(0), union_end = keys_end(rows - 1);
    if (detail::all_finite<Arch>(kv.v.slice(union_begin, union_end - union_begin))) {
      // Weights of 0 for keys that a row does not see change no bit of its sum.
      for (Index m = 0; m < rows; ++m) {
        if constexpr (attention::has_first_key<Variant>) std::fill_n(scores.row_data(m), keys_begin(m), 0.0f);
        std::fill(scores.row_data(m) + keys_end(m), scores.row_data(m) + union_end, 0.0f);
      }
      multiply_values(0, rows, 0, union_end);
    } else {
      for (Index m = 0; m < rows; ++m)
        if (keys_end(m) > keys_begin(m)) multiply_values(m, 1, keys_begin(m), keys_end(m));
    }
    for (Index m = 0; m < rows; ++m) {
      if (keys_end(m) == keys_begin(m)) continue;
      const Floats factor(rescale[static_cast<std::size_t>(m)]);
      simd::map<Arch>([&](const Floats& sum, const Floats& p) { return simd::fma<Arch>(sum, factor, p); }, width, out.row_data(m),
                      out.row_data(m), part.row_data(m));
    }
  }
  for (Index m = 0; m < rows; ++m) {
    const Floats total(state[static_cast<std::size_t>(m)].sum);
    if (lse != nullptr) lse[m] = state[static_cast<std::size_t>(m)].maximum + std::log(state[static_cast<std::size_t>(m)].sum);
    simd::map<Arch>([&](const Floats& sum) { return simd::divide<Arch>(sum, total); }, width, out.row_data(m), out.row_data(m));
  }
}

}  // namespace dsv3::inline DSV3_ISA::kernels
