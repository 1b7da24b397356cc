// Floor 4. The attention between the projections of latent attention: every head attends to the latents themselves, or to keys and values
// expanded from them; the workers share the heads and rows. In float32, or in bf16 tiles (Tiled).
#pragma once

#include "dsv3/kernels/attention_bf16.hpp"
#include "dsv3/modules/attention_concept.hpp"

namespace dsv3::inline DSV3_ISA::mla {

/// Sizes of the heads: `count` (H) heads with N no-position and R rotary channels (nope, rope) and V value channels (value); latents of C
/// channels (rank).
struct Heads {
  Index count, nope, rope, value, rank;
  float scale;  ///< of scores

  Index query() const { return nope + rope; }
  /// Queries of heads [h, h + n) of one row, which sees keys [0, limit): latent_q [count * C], q [count * (N + R)].
  kernels::QueryTile latent_tile(const float* latent_q, const float* q, Index h, Index n, Index limit) const {
    return {{latent_q + h * rank, n, rank}, {q + h * query() + nope, n, rope, query()}, limit, 0, h, 1};
  }
};

namespace detail {

inline constexpr Index tile_rows = kernels::attention_tile;
inline constexpr Index max_tile_batch = 8;  // tiles of queries for which a block of keys is rounded to bf16 once
inline constexpr Index tiled_speedup = 16;  // rough speedup of tiles over vectors, for the work told to parallel_for

/// A row of queries and its keys [start, keys), cut into at most 8 runs, so that all workers share a long context. The cuts depend only on
/// the number of keys and on the first key that the row sees, not on the number of workers.
template <class Cache>
struct Row {
  const Segment<Cache>* segment = nullptr;
  Index index = 0, start = 0, keys = 0, run = 0;

  template <class Variant>
  static Row of(const Segment<Cache>& s, Index t, const Variant& variant) {
    constexpr Index block = kernels::attention_block, max_runs = 8, shortest = 4 * block;
    const Index keys = s.position + t + 1, start = attention::first_key(variant, keys) / block * block;
    return {&s, s.begin + t, start, keys, std::max(shortest, (keys - start + max_runs * block - 1) / (max_runs * block) * block)};
  }
  Index runs() const { return (keys - start + run - 1) / run; }
};

template <class Arch, class Cache, class Variant>
void attend_latents_tiled(Context& ctx, const Heads& heads, std::span<const Segment<Cache>> segments, ConstMatrixView<float> latent_q,
                          ConstMatrixView<float> q, MatrixView<float> latent_o, const Variant& variant) {
  auto scope = ctx.scratch();
  const auto rows = scope.template array<Row<Cache>>(latent_q.rows());
  Index max_runs = 0, work = 0;
  for (std::size_t i = 0; const auto& s : segments)
    for (Index t = 0; t < s.count; ++t, ++i) {
      rows[i] = Row<Cache>::of(s, t, variant);
      max_runs = std::max(max_runs, rows[i].runs());
      work += (rows[i].keys - rows[i].start) * heads.count * (2 * heads.rank + heads.rope) / tiled_speedup;
    }
  const Index tiles = (heads.count + tile_rows - 1) / tile_rows, partial = kernels::attention_partial_size<Arch>(heads.rank);
  const Index batch = std::clamp(latent_q.rows() * max_runs * tiles / (2 * ctx.workers()), Index{1}, std::min(tiles, max_tile_batch));
  const Index groups = (tiles + batch - 1) / batch;
  const auto in_tile = [&](Index i) { return std::min(tile_rows, heads.count - i * tile_rows); };
  auto partials = scope.template matrix<float>(latent_q.rows() * max_runs, tiles * partial);
  auto scratch = scope.template matrix<float>(ctx.workers(), kernels::attend_bf16_scratch<Arch>(heads.rank, heads.rope, heads.rank, batch) +
                                                                 segments.front().cache->template blocks<Arch>().block_scratch());
  ctx.parallel_for(latent_q.rows() * max_runs * groups, work, [&](Index task, int worker) {
    const Index i = task / groups / max_runs, run = task / groups % max_runs, first = task % groups * batch;
    const auto& row = rows[static_cast<std::size_t>(i)];
    if (run >= row.runs()) return;
    std::array<kernels::QueryTile, max_tile_batch> queries;
    std::size_t n = 0;
    for (Index t = first; t < std::min(first + batch, tiles); ++t)
      std::construct_at(&queries[n++], heads.latent_tile(latent_q.row_data(i), q.row_data(row.index), t * tile_rows, in_tile(t), row.keys));
    kernels::attend_bf16<Arch>(std::span<const kernels::QueryTile>(queries.data(), n), row.segment->cache->template blocks<Arch>(),
                               row.start + run * row.run, std::min(row.start + (run + 1) * row.run, row.keys), heads.scale, heads.rank,
                               partials.row_data(i * max_runs + run) + first * partial, scratch.row_data(worker), variant, run == 0);
  });
  ctx.parallel_for(latent_q.rows() * tiles, latent_q.rows() * max_runs * heads.count * heads.rank / 4, [&](Index task, int) {
    const Index i = task / tiles, t = task % tiles;
    kernels::combine_attention<Arch>(partials.row_data(i * max_runs) + t * partial, rows[static_cast<std::size_t>(i)].runs(),
                                     tiles * partial, {latent_o.row_data(i) + t * tile_rows * heads.rank, in_tile(t), heads.rank});
  });
}

}  // namespace detail

/// Attention over the latents themselves (spec A11): latent_q, latent_o [rows of the segments, H C]; of q [T, H (N + R)] only the rotary
/// channels are read. The segments' rows must be contiguous.
template <bool Tiled, class Arch, class Cache, attention::Variant Variant = attention::Full>
void attend_latents(Context& ctx, const Heads& heads, std::span<const Segment<Cache>> segments, ConstMatrixView<float> latent_q,
                    ConstMatrixView<float> q, MatrixView<float> latent_o, const Variant& variant = {}) {
  if constexpr (Tiled && kernels::has_bf16_tiles<Arch>) {
    detail::attend_latents_tiled<Arch>(ctx, heads, segments, latent_q, q, latent_o, variant);
  } else {
    auto scope = ctx.scratch();
    auto scratch = scope.template matrix<float>(
        ctx.workers(), kernels::attend_scratch(heads.rank) + segments.front().cache->template blocks<Arch>().block_scratch());
    for (const auto& s : segments) {
      const auto kv = s.cache->template blocks<Arch>();
      // With few rows, a task takes fewer heads, so that every worker gets one. A head's bits do not depend on the other heads of its tile.
      const Index tile_rows = std::clamp(s.count * heads.count / ctx.workers() / 4 * 4, Index{4}, kernels::attention_tile);
      const Index tiles = (heads.count + tile_rows - 1) / tile_rows;
      const Index work = s.count * heads.count * (s.position + s.count) * (2 * heads.rank + heads.rope);
      ctx.parallel_for(s.count * tiles, work, [&](Index task, int worker) {
        const Index t = task / tiles, h = task % tiles * tile_rows, n = std::min(tile_rows, heads.count - h);
        const Index row = s.begin - segments.front().begin + t;
        kernels::attend<Arch>(heads.latent_tile(latent_q.row_data(row), q.row_data(s.begin + t), h, n, s.position + t + 1), kv, heads.scale,
                              {latent_o.row_data(row) + h * heads.rank, n, heads.rank}, scratch.row_data(worker), variant);
      });
    }
  }
}

/// A text in expanded attention. Its new tokens are rows [begin, begin + count) of q and o; `earlier` tokens precede them and have no such
/// rows. Its keys and values are rows [first, first + earlier + count) of the expanded matrix.
struct Text {
  Index begin = 0, count = 0, first = 0, earlier = 0;
};

/// Attention of heads [first, first + count) of some texts over expanded keys and values (eq. 10): expanded [S, count (N + V)], k_pe [S,
/// R]; q [T, H (N + R)], o [T, H V]. `lse` [T, H], if it has rows, receives each row's and head's log-sum-exp.
template <bool Tiled, class Arch, attention::Variant Variant = attention::Full>
void attend_expanded(Context& ctx, const Heads& heads, Index first, Index count, std::span<const Text> texts,
                     ConstMatrixView<float> expanded, ConstMatrixView<float> k_pe, ConstMatrixView<float> q, MatrixView<float> o,
                     const Variant& variant = {}, MatrixView<float> lse = {}) {
  constexpr bool tiled = Tiled && kernels::has_bf16_tiles<Arch>;
  using detail::tile_rows;
  constexpr Index batch = tiled ? detail::max_tile_batch : 1, rows_per_batch = batch * tile_rows;
  const Index width = heads.nope + heads.value;
  Index work = 0, groups = 0, partial = 0, scratch_floats = kernels::attend_scratch(heads.value);
  for (const Text& text : texts) {
    groups += (text.count + rows_per_batch - 1) / rows_per_batch;
    work += text.count * count * (text.earlier + text.count) * (heads.query() + heads.value) / (tiled ? detail::tiled_speedup : 1);
  }
  if constexpr (tiled) {
    partial = kernels::attention_partial_size<Arch>(heads.value);
    scratch_floats = kernels::attend_bf16_scratch<Arch>(heads.nope, heads.rope, heads.value, batch);
  }
  auto scope = ctx.scratch();
  auto partials = scope.template matrix<float>(ctx.workers(), batch * partial);
  auto scratch = scope.template matrix<float>(ctx.workers(), scratch_floats);
  struct Group {
    const Text* text;
    Index begin;  // within the text
  };
  const auto list = scope.template array<Group>(groups);
  for (auto next = list.begin(); const Text& text : texts)
    for (Index begin = 0; begin < text.count; begin += rows_per_batch) *next++ = {&text, begin};
  ctx.parallel_for(count * groups, work, [&](Index task, int worker) {
    const auto& [text, begin] = list[static_cast<std::size_t>(task / count)];
    const Index i = task % count, h = first + i, end = std::min(begin + rows_per_batch, text->count), keys = text->earlier + text->count;
    const auto own = expanded.slice(text->first, keys);
    const kernels::KeysValues kv{own.columns(i * width, heads.nope), k_pe.slice(text->first, keys),
                                 own.columns(i * width + heads.nope, heads.value)};
    const auto tile_at = [&, earlier = text->earlier, row = text->begin, last = end](Index t) {
      const auto queries = q.slice(row + t, std::min(tile_rows, last - t));
      return kernels::QueryTile{queries.columns(h * heads.query(), heads.nope),
                                queries.columns(h * heads.query() + heads.nope, heads.rope),
                                earlier + t + 1,
                                1,
                                h,
                                0};
    };
    std::array<float, tile_rows> sums;
    const auto keep_lse = [&, row = text->begin, last = end](Index t) {
      for (Index m = 0; lse.rows() > 0 && m < std::min(tile_rows, last - t); ++m)
        lse.row_data(row + t + m)[h] = sums[static_cast<std::size_t>(m)];
    };
    float* lse_out = lse.rows() > 0 ? sums.data() : nullptr;
    const auto out = [&, row = text->begin, last = end](Index t) {
      return o.slice(row + t, std::min(tile_rows, last - t)).columns(h * heads.value, heads.value);
    };
    if constexpr (tiled) {
      std::array<kernels::QueryTile, batch> queries;
      std::size_t n = 0;
      for (Index t = begin; t < end; t += tile_rows) std::construct_at(&queries[n++], tile_at(t));
      float* results = partials.row_data(worker);
      const Index start = attention::first_key(variant, text->earlier + begin + 1) / kernels::attention_block * kernels::attention_block;
      kernels::attend_bf16<Arch>(std::span<const kernels::QueryTile>(queries.data(), n), kv, start, text->earlier + end, heads.scale,
                                 heads.value, results, scratch.row_data(worker), variant);
      for (Index t = begin; t < end; t += tile_rows, results += partial) {
        kernels::combine_attention<Arch>(results, 1, 0, out(t), lse_out);
        keep_lse(t);
      }
    } else {
      kernels::attend<Arch>(tile_at(begin), kv, heads.scale, out(begin), scratch.row_data(worker), variant, lse_out);
      keep_lse(begin);
    }
  });
}

}  // namespace dsv3::inline DSV3_ISA::mla
