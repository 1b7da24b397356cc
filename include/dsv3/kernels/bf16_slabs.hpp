// Floor 3. Slabs of activations: rows that one worker packs for itself and multiplies by whole weights.
//
// The worker waits for nobody and finds its slab in its own cache. But each slab reads and converts the weights anew: slabs must be large
// (or have all rows of a product), and there must be enough of them to keep all workers busy. Otherwise activations are packed once for all
// workers, and the weights are handed out (kernels/bf16_products.hpp).
#pragma once

#include <algorithm>
#include <memory>
#include <tuple>

#include "dsv3/core/context.hpp"
#include "dsv3/kernels/bf16_panel.hpp"

namespace dsv3::inline DSV3_ISA::kernels::detail {

#ifdef DSV3_HAS_BF16_TILES

inline constexpr Index max_slab_tiles = 16;  ///< most row tiles of a slab
inline constexpr Index min_slab_tiles = 8;   ///< fewest row tiles of a slab, unless it has all rows of its product

/// Row tiles [begin, begin + count) of a job's activations.
struct Slab {
  Index job, begin, count;
};

/// Slabs of a group of jobs, the longest first. Either every job has the same number of slabs for each worker, or no slab has more than
/// half of one worker's share of the work. If neither is possible there are no slabs. tiles(job) counts row tiles, work(job) the
/// multiplications of one row tile.
template <class J, class Tiles, class Work>
std::span<const Slab> cut_slabs(const Context& ctx, Workspace::Scope& scope, std::span<const J> jobs, Tiles&& tiles, Work&& work) {
  using bf16::ceil_div;
  const Index workers = ctx.workers();
  for (const Index multiple : {workers, Index{1}}) {
    const auto size = [&](Index n) { return n == 0 ? 0 : ceil_div(n, ceil_div(ceil_div(n, max_slab_tiles), multiple) * multiple); };
    Index total = 0, largest = 0, slabs = 0;
    bool enough = true;
    for (const J& j : jobs)
      if (const Index n = tiles(j), part = size(n); n > 0) {
        total += n * work(j);
        largest = std::max(largest, part * work(j));
        slabs += ceil_div(n, part);
        enough = enough && (part >= min_slab_tiles || (part == n && multiple == 1));
      }
    if (!enough || (multiple < workers && 2 * workers * largest > total)) continue;
    const auto list = scope.array<Slab>(slabs);
    auto next = list.begin();
    for (std::size_t i = 0; i < jobs.size(); ++i)
      for (Index begin = 0, n = tiles(jobs[i]); begin < n; begin += size(n))
        *next++ = {static_cast<Index>(i), begin, std::min(size(n), n - begin)};
    const auto order = [&](const Slab& s) { return std::tuple(-s.count * work(jobs[static_cast<std::size_t>(s.job)]), s.job, s.begin); };
    std::sort(list.begin(), list.end(), [&](const Slab& a, const Slab& b) { return order(a) < order(b); });
    return list;
  }
  return {};
}

/// Scratch for every worker, in `scope`.
inline bf16::Scratch* scratch_of_workers(const Context& ctx, Workspace::Scope& scope) {
  auto* scratch =
      reinterpret_cast<bf16::Scratch*>(scope.aligned(ctx.workers() * static_cast<Index>(sizeof(bf16::Scratch)), alignof(bf16::Scratch)));
  std::uninitialized_default_construct_n(scratch, ctx.workers());
  return scratch;
}

/// Runs f(job, begin, count, scratch, memory) for slabs of rows [begin, begin + count) of x_of(job), in one parallel loop. `memory` belongs
/// to the worker and holds size(job, count) numbers. work(job) counts the multiplications of one row tile. Returns false, and does not call
/// f, if there are no slabs.
template <class J, class X, class Work, class Size, class F>
[[nodiscard]] bool for_each_slab(Context& ctx, std::span<const J> jobs, X&& x_of, Work&& work, Size&& size, F&& f) {
  auto scope = ctx.scratch();
  const auto tiles = [&](const J& j) { return bf16::ceil_div(x_of(j).rows(), bf16::side); };
  const auto slabs = cut_slabs(ctx, scope, jobs, tiles, work);
  if (slabs.empty()) return false;
  const auto job = [&](const Slab& s) -> const J& { return jobs[static_cast<std::size_t>(s.job)]; };
  Index numbers = 0, total = 0;
  for (const Slab& s : slabs) numbers = std::max(numbers, size(job(s), s.count * bf16::side)), total += s.count * work(job(s));
  auto memory = scope.matrix<std::uint16_t>(ctx.workers(), numbers);
  auto* scratch = scratch_of_workers(ctx, scope);
  ctx.parallel_for(static_cast<Index>(slabs.size()), total, [&](Index i, int worker) {
    const Slab& s = slabs[static_cast<std::size_t>(i)];
    const Index begin = s.begin * bf16::side, count = std::min(s.count * bf16::side, x_of(job(s)).rows() - begin);
    f(job(s), begin, count, scratch[worker], memory.row_data(worker));
  });
  return true;
}

#endif

}  // namespace dsv3::inline DSV3_ISA::kernels::detail
