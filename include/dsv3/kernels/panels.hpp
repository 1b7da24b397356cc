// Floor 3. Splitting a group of products into tasks: each product is cut into panels of rows (or columns), and one parallel loop runs them
// all.
#pragma once

#include <span>

#include "dsv3/core/context.hpp"

namespace dsv3::inline DSV3_ISA::kernels::detail {

/// Rows [begin, begin + count) of one product of a group.
struct Panel {
  Index product, begin, count;
};

/// A panel's share is one worker's part of the work that is left, divided by share_divisor: long panels come first, which stream best, and
/// short ones last, so that all workers end together.
inline constexpr Index share_divisor = 2;

/// Runs f(product, begin, count, worker) for panels that cover rows [0, rows(product)) of every product. work(product) counts a product's
/// multiplications. size(product, balanced_rows) returns the number of rows of the next panel, at least 1; `balanced_rows` rows would
/// balance the workers.
template <class P, class Rows, class Work, class Size, class F>
void for_each_panel(Context& ctx, std::span<const P> group, Rows&& rows, Work&& work, Size&& size, F&& f) {
  Index total = 0;
  for (const P& p : group) total += rows(p) > 0 ? work(p) : 0;
  const auto cut = [&](auto&& emit) {
    Index left = total;
    for (std::size_t i = 0; i < group.size(); ++i) {
      const P& p = group[i];
      const Index end = rows(p), row_work = std::max(Index{1}, end > 0 ? work(p) / end : 0);
      for (Index begin = 0; begin < end;) {
        const Index count = std::min(size(p, left / (share_divisor * ctx.workers() * row_work)), end - begin);
        emit(Panel{static_cast<Index>(i), begin, count});
        begin += count;
        left -= count * row_work;
      }
    }
  };
  Index panels = 0;
  cut([&](const Panel&) { ++panels; });
  auto scope = ctx.scratch();
  const auto list = scope.template array<Panel>(panels);
  auto next = list.begin();
  cut([&](const Panel& panel) { *next++ = panel; });
  ctx.parallel_for(panels, total, [&](Index task, int worker) {
    const Panel& panel = list[static_cast<std::size_t>(task)];
    f(group[static_cast<std::size_t>(panel.product)], panel.begin, panel.count, worker);
  });
}

}  // namespace dsv3::inline DSV3_ISA::kernels::detail
