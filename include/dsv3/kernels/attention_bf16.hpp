// Floor 3. Causal attention by bf16 tiles: queries, keys, values and softmax weights are rounded to bf16; sums and the softmax are float32.
//
// Keys are the left operand of the scores, so that each lane of a vector is a query and the softmax needs no sums across lanes. Softmax
// weights are the left operand of the result. A block of keys is rounded once for all tiles of queries of a call. Keys may be cut into runs
// at multiples of attention_block: each run gives a partial result, and combine_attention() combines them. A row's result depends only on
// that row, the keys it may see and the cuts.
//
// In a build without bf16 tiles (has_bf16_tiles) these functions are declared, but not defined.
#pragma once

#include "dsv3/kernels/attention_tile.hpp"
#include "dsv3/kernels/bf16_amx.hpp"
#include "dsv3/kernels/bf16_dots.hpp"

namespace dsv3::inline DSV3_ISA::kernels {

/// Floats of a partial result, that of a run of keys and a tile of queries, for values of width v: maxima [16], sums [16], and for each 32
/// values a pair of tiles of sums, whose columns are in the order of interleaved().
template <class Arch = simd::DefaultArch>
Index attention_partial_size(Index v);

/// Floats of scratch that attend_bf16() needs for `tiles` tiles with queries of n + r channels and values of v, in addition to the source's
/// block_scratch().
template <class Arch = simd::DefaultArch>
Index attend_bf16_scratch(Index n, Index r, Index v, Index tiles);

/// Attention of tiles of queries over the run of keys [begin, end) (eq. 10, or as `variant` has it). Limits of rows must not decrease,
/// within a tile and from tile to tile. `partials` [tiles, attention_partial_size(v)] is overwritten. `begin` is a multiple of
/// attention_block. Exactly one run of a row is its `first`: sinks count there. Serial; `scratch` is aligned to 64 bytes.
/// Throws: Error if there are no tiles, or `begin` is no such multiple.
template <class Arch = simd::DefaultArch, BlockSource Source = KeysValues, attention::Variant Variant = attention::Full>
void attend_bf16(std::span<const QueryTile> tiles, const Source& source, Index begin, Index end, float scale, Index v, float* partials,
                 float* scratch, const Variant& variant = {}, bool first = true);

/// out [M, V], M <= 16, from the partial results of `runs` runs of keys, which are `stride` floats apart. `lse` [M], if it is not null,
/// receives the logarithm of each row's sum of exp(score).
template <class Arch = simd::DefaultArch>
void combine_attention(const float* partials, Index runs, Index stride, MatrixView<float> out, float* lse = nullptr);

#ifdef DSV3_HAS_BF16_TILES

template <class Arch>
Index attention_partial_size(Index v) {
  return 2 * bf16::side + bf16::padded(v) * bf16::side;
}

namespace bf16 {

/// Whether a source gives its blocks as bf16 codes, in memory that may be read up to row 64 however few keys there are.
template <class Source>
concept Bf16BlockSource = requires(const Source& source, Index n) {
  { source.bf16_block(n, n) } -> std::same_as<KeysValuesOf<std::uint16_t>>;
};

/// The tiles of queries of one call, with their running maxima and sums.
template <class Engine, class Arch, attention::Variant Variant = attention::Full>
class TiledAttention {
 public:
  /// Widths of q, q_pe and values, and the number of tiles.
  struct Shape {
    Index n, r, v, tiles;

    Index key_width() const { return padded(n) + padded(r); }
    Index floats() const {
      return products + tiles * side + (tiles * (side * key_width() + weights) + attention_block * (key_width() + columns)) / 2;
    }
  };

  TiledAttention(const Shape& shape, std::span<const QueryTile> tiles, float scale, float* partials, float* scratch, const Variant& variant,
                 [[maybe_unused]] bool first)
      : shape_(shape),
        tiles_(tiles),
        scale_(scale),
        variant_(variant),
        partials_(partials),
        products_(scratch),
        factors_(products_ + products) {
    queries_ = reinterpret_cast<std::uint16_t*>(factors_ + shape.tiles * side);
    weights_ = queries_ + shape.tiles * side * shape.key_width();
    keys_ = weights_ + shape.tiles * weights;
    values_ = keys_ + attention_block * shape.key_width();
    for (Index i = 0; i < shape.tiles; ++i) {
      const QueryTile& t = tile_at(i);
      pack(t.q, 0, {query(i), t.q.rows(), shape.n});
      if (shape.r > 0) pack(t.q_pe, 0, {query(i) + side * padded(shape.n), t.q.rows(), shape.r});
      std::fill_n(partial(i), side, -std::numeric_limits<float>::infinity());
      std::fill_n(partial(i) + side, attention_partial_size<Arch>(shape.v) - side, 0.0f);
      if constexpr (attention::has_sink<Variant>)
        for (Index m = 0; first && m < t.q.rows(); ++m) partial(i)[m] = variant.sink(t.head_of(m)), partial(i)[side + m] = 1;
    }
  }

  /// Adds a block of keys [first, first + kv.v.rows()), at most attention_block. `next`, if it has rows, is the block after it:
  /// memory-bound steps take less time if it is prefetched while this one is computed.
  template <class T>
  void add(const KeysValuesOf<T>& kv, Index first, const KeysValuesOf<T>& next = {}) {
    const Index keys = kv.v.rows();
    const auto left = left_operand(kv);
    Index begin = 0;  // tiles before it see none of the keys
    while (begin < shape_.tiles && keys_end(begin, tile_at(begin).q.rows() - 1, first, keys) == 0) ++begin;
    bool hidden = false;
    for (Index i = begin; i < shape_.tiles; ++i) {
      if ((i - begin) % 2 == 0) compute_weights(left, i, first, keys);
      hidden |= keys_end(i, 0, first, keys) < keys || keys_begin(i, tile_at(i).q.rows() - 1, first, keys) > 0;
    }
    // A weight of 0 hides a value from the rows that must not see it, unless 0 times the value is NaN: then each row is multiplied alone,
    // by the values that it sees.
    const bool alone = hidden && !all_finite(kv.v);
    const bool ahead = next.v.rows() > 0;
    if (ahead) prefetch_rows(next.k_pe.data(), attention_block, shape_.r, next.k_pe.outerStride());
    for (Index c = 0; c < shape_.v; c += columns) {
      const auto v = kv.v.columns(c, std::min(columns, shape_.v - c));
      if (!alone) {
        pack_values(v, values_, 0, ahead ? next.v.data() + c : nullptr);
        for (Index i = begin; i < shape_.tiles; i += 2)  // only rows that there are: few heads leave most of a tile empty
          accumulate_values(i, c, keys, 0, (pair(i) - 1) * side + tile_at(i + pair(i) - 1).q.rows());
        continue;
      }
      for (Index i = begin; i < shape_.tiles; ++i)
        for (Index m = 0; m < tile_at(i).q.rows(); ++m) {
          pack_values(v.slice(0, keys_end(i, m, first, keys)), values_, keys_begin(i, m, first, keys));
          accumulate_values(i, c, keys, m, m + 1);
        }
    }
  }

 private:
  static constexpr Index columns = 64;             // of values, which stay in cache at a time
  static constexpr Index weights = 2 * tile_size;  // softmax weights [16, 64] of a tile of queries
  static constexpr Index products = 8 * sum_tile_size;

  const QueryTile& tile_at(Index i) const { return tiles_[static_cast<std::size_t>(i)]; }
  std::uint16_t* query(Index i) const { return queries_ + i * side * shape_.key_width(); }
  float* partial(Index i) const { return partials_ + i * attention_partial_size<Arch>(shape_.v); }
  Index pair(Index i) const { return std::min(Index{2}, shape_.tiles - i); }
  /// Row m of tile i sees keys [keys_begin(), keys_end()) of the block of keys [first, first + keys).
  Index keys_end(Index i, Index m, Index first, Index keys) const { return std::clamp(tile_at(i).limit_of(m) - first, Index{0}, keys); }
  Index keys_begin(Index i, Index m, Index first, Index keys) const {
    if constexpr (attention::has_first_key<Variant>)
      return std::clamp(attention::first_key(variant_, tile_at(i).limit_of(m)) - first, Index{0}, keys_end(i, m, first, keys));
    else
      return 0;
  }

  LeftOperand left_operand(const KeysValuesOf<std::uint16_t>& kv) const {
    if (shape_.n % depth == 0 && shape_.r % depth == 0 && kv.k_pe.data() == kv.k.data() + shape_.n)  // the rows in memory form tiles
      return {kv.k.data(), side * kv.k.outerStride(), kv.k.outerStride(), depth};
    return packed_keys(kv);
  }
  LeftOperand left_operand(const KeysValues& kv) const { return packed_keys(kv); }
  template <class T>
  LeftOperand packed_keys(const KeysValuesOf<T>& kv) const {
    const Index stride = side * shape_.key_width();
    pack_keys(kv.k, keys_, stride);
    if (shape_.r > 0) pack_keys(kv.k_pe, keys_ + side * padded(shape_.n), stride);
    return {keys_, stride};
  }

  /// Computes the softmax weights of tiles i and i + 1, and the factors of their earlier sums.
  void compute_weights(const LeftOperand& left, Index i, Index first, Index keys) {
    const Index count = pair(i), width = shape_.key_width();
    for (Index s = 0; s * depth < keys; ++s)
      Engine::multiply({left.data + 2 * s * left.stride, left.stride, left.row, left.step}, 2, query(i), side * width, count, width / depth,
                       products_ + s * 4 * sum_tile_size);
    for (Index j = 0; j < count; ++j) {
      float* state = partial(i + j);
      OnlineSoftmaxLanes lanes{_mm512_loadu_ps(state), _mm512_loadu_ps(state + side)};
      alignas(64) std::array<int, side> sees, begins{};
      for (Index m = 0; m < side; ++m) sees[static_cast<std::size_t>(m)] = static_cast<int>(keys_end(i + j, m, first, keys));
      if constexpr (attention::has_first_key<Variant>)
        for (Index m = 0; m < side; ++m) begins[static_cast<std::size_t>(m)] = static_cast<int>(keys_begin(i + j, m, first, keys));
      const auto score = [&](Index n) {
        return products_ + (n / depth * 4 + n % depth / side * count + j) * sum_tile_size + n % side * side;
      };
      const __m512 factor = lanes.add<Arch>(score, keys, _mm512_load_si512(begins.data()), _mm512_load_si512(sees.data()), scale_,
                                            weights_ + (i + j) * weights, variant_);
      _mm512_storeu_ps(factors_ + (i + j) * side, factor);
      _mm512_storeu_ps(state, lanes.maximum);
      _mm512_storeu_ps(state + side, lanes.sum);
    }
  }

  /// Multiplies the sums of rows [first_row, last_row) of tiles i and i + 1, whose rows are 0 to 31, by their factors, and adds weights
  /// times values_, which has columns from c on.
  void accumulate_values(Index i, Index c, Index keys, Index first_row, Index last_row) {
    const Index rows = pair(i), steps = (keys + depth - 1) / depth, last = padded(std::min(shape_.v - c, columns)) / side;
    const auto put = [&](Index t, const float* product) {  // adds two column tiles
      for (Index j = first_row / side; j < std::min(rows, (last_row + side - 1) / side); ++j)
        for (Index k = 0; k < 2; ++k) {
          float* sums = partial(i + j) + 2 * side + (c / side + t + k) * sum_tile_size;
          const float* p = product + (2 * j + k) * sum_tile_size;
          for (Index m = first_row % side; m < std::min(side, last_row - j * side); ++m)
            _mm512_storeu_ps(sums + m * side, _mm512_fmadd_ps(_mm512_loadu_ps(sums + m * side),
                                                              _mm512_set1_ps(factors_[(i + j) * side + m]), _mm512_load_ps(p + m * side)));
        }
    };
    float *now = products_, *before = products_ + 4 * sum_tile_size;
    for (Index t = 0; t < last; t += 2, std::swap(now, before)) {
      Engine::multiply({weights_ + i * weights, weights}, rows, values_ + t * 2 * tile_size, 2 * tile_size, 2, steps, now);
      if (t > 0) put(t - 2, before);
    }
    put(last - 2, before);
  }

  Shape shape_;
  std::span<const QueryTile> tiles_;
  float scale_;
  const Variant& variant_;
  float *partials_, *products_, *factors_;
  std::uint16_t *queries_, *weights_, *keys_, *values_;
};

template <class Engine, class Arch, BlockSource Source, class Variant>
void attend(std::span<const QueryTile> tiles, const Source& source, Index begin, Index end, float scale, Index v, float* partials,
            float* scratch, const Variant& variant, bool first) {
  using Attention = TiledAttention<Engine, Arch, Variant>;
  const typename Attention::Shape shape{tiles[0].q.cols(), tiles[0].q_pe.cols(), v, static_cast<Index>(tiles.size())};
  const typename Engine::Session session;
  Attention attention(shape, tiles, scale, partials, scratch, variant, first);
  for (Index k0 = begin; k0 < end; k0 += attention_block) {
    const Index keys = std::min(attention_block, end - k0);
    if constexpr (Bf16BlockSource<Source>)
      attention.add(source.bf16_block(k0, keys), k0,
                    k0 + attention_block < end ? source.bf16_block(k0 + attention_block, attention_block) : KeysValuesOf<std::uint16_t>{});
    else
      attention.add(source.block(k0, keys, scratch + shape.floats()), k0);
  }
}

}  // namespace bf16

template <class Arch>
Index attend_bf16_scratch(Index n, Index r, Index v, Index tiles) {
  return typename bf16::TiledAttention<bf16::DotEngine, Arch>::Shape{n, r, v, tiles}.floats();
}

template <class Arch, BlockSource Source, attention::Variant Variant>
void attend_bf16(std::span<const QueryTile> tiles, const Source& source, Index begin, Index end, float scale, Index v, float* partials,
                 float* scratch, const Variant& variant, bool first) {
  require(begin % attention_block == 0 && !tiles.empty(), "attend_bf16: expected at least one tile, and a run of keys from a multiple of ",
          attention_block, " on; got ", tiles.size(), " tiles and a run from ", begin);
#ifdef DSV3_HAS_AMX
  if (amx::available()) return bf16::attend<bf16::AmxEngine, Arch>(tiles, source, begin, end, scale, v, partials, scratch, variant, first);
#endif
  bf16::attend<bf16::DotEngine, Arch>(tiles, source, begin, end, scale, v, partials, scratch, variant, first);
}

template <class Arch>
void combine_attention(const float* partials, Index runs, Index stride, MatrixView<float> out, float* lse) {
  const auto exp = [](__m512 x) { return static_cast<__m512>(xsimd::exp(simd::Floats<Arch>(x))); };
  const __m512 lowest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  __m512 largest = lowest, total = _mm512_setzero_ps();
  for (Index r = 0; r < runs; ++r) largest = _mm512_max_ps(_mm512_loadu_ps(partials + r * stride), largest);
  const auto factor = [&](Index r) {
    const __m512 maximum = _mm512_loadu_ps(partials + r * stride);
    return _mm512_maskz_mov_ps(_mm512_cmpneq_ps_mask(maximum, lowest), exp(_mm512_sub_ps(maximum, largest)));
  };
  for (Index r = 0; r < runs; ++r) total = _mm512_fmadd_ps(factor(r), _mm512_loadu_ps(partials + r * stride + bf16::side), total);
  if (lse != nullptr) {
    alignas(64) std::array<float, bf16::side> maxima, sums;
    _mm512_store_ps(maxima.data(), largest);
    _mm512_store_ps(sums.data(), total);
    for (std::size_t m = 0; m < static_cast<std::size_t>(out.rows()); ++m) lse[m] = maxima[m] + std::log(sums[m]);
  }
  for (Index r = 0; r < runs; ++r) {
    alignas(64) std::array<float, bf16::side> by;
    _mm512_store_ps(by.data(), _mm512_div_ps(factor(r), total));
    const float* sums = partials + r * stride + 2 * bf16::side;
    for (Index c = 0; c < out.cols(); c += bf16::depth, sums += 2 * bf16::sum_tile_size)
      for (Index m = 0; m < out.rows(); ++m) {
        const float* row = sums + m * bf16::side;
        const auto sum = bf16::interleaved(_mm512_loadu_ps(row), _mm512_loadu_ps(row + bf16::sum_tile_size));
        const auto put = [&](__m512 v, Index at) {
          const auto mask = static_cast<__mmask16>((1u << std::clamp(out.cols() - at, Index{0}, bf16::side)) - 1);
          float* y = out.row_data(m) + at;
          const __m512 before = r == 0 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask, y);
          _mm512_mask_storeu_ps(y, mask, _mm512_fmadd_ps(v, _mm512_set1_ps(by[static_cast<std::size_t>(m)]), before));
        };
        put(sum.first, c), put(sum.last, c + bf16::side);
      }
  }
}

#endif

}  // namespace dsv3::inline DSV3_ISA::kernels
