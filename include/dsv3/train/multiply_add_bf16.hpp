// Floor 6. C += A B with A and B rounded to bf16, sums in float32, on processors with AMX or AVX512-BF16; elsewhere in float32.
//
// Every element of C is summed in an order that its depth alone decides, which differs between engines. So bits depend on the engine, but
// neither on threads, nor on how C is cut, nor on how operands lie in memory.
#pragma once

#include "dsv3/train/multiply_add_amx.hpp"
#include "dsv3/train/multiply_add_pairs.hpp"

namespace dsv3::inline DSV3_ISA::train {

namespace detail {

// An engine is a type with
// - Scratch, memory of a worker;
// - multiply_add(p, scratch): one product on the calling thread, with at most max_rows rows and max_columns columns.

/// Every product of the group, in one parallel loop.
template <class Engine>
void grouped_multiply_add_by(Context& ctx, std::span<const MultiplyAdd> group) {
  constexpr Index min_part = 64;  // smaller parts would spend their time on packing
  struct Task {
    Index product, row, column;
  };
  Index work = 0;
  for (const MultiplyAdd& p : group) work += p.c.size() * p.depth();
  Index rows = Engine::max_rows, columns = Engine::max_columns;
  const auto cut = [&](auto&& emit) {
    for (std::size_t i = 0; i < group.size(); ++i) {
      const auto along = [](Index n, Index step, auto&& f) {
        for (Index at = 0; at < n; at += step) f(at);
      };
      const Index m = group[i].c.rows(), n = group[i].c.cols();
      const auto product = static_cast<Index>(i);
      if (m > n)  // parts that share a piece of the larger operand are neighbours, so that it is read from memory once
        along(m, rows, [&](Index row) { along(n, columns, [&](Index column) { emit(Task{product, row, column}); }); });
      else
        along(n, columns, [&](Index column) { along(m, rows, [&](Index row) { emit(Task{product, row, column}); }); });
    }
  };
  const auto count = [&] {
    Index tasks = 0;
    cut([&](const Task&) { ++tasks; });
    return tasks;
  };
  Index tasks = count();
  while (ctx.workers() > 1 && tasks < 4 * ctx.workers() && std::max(rows, columns) > min_part) {
    (columns >= rows ? columns : rows) /= 2;
    tasks = count();
  }
  auto scope = ctx.scratch();
  const auto list = scope.template array<Task>(tasks);
  auto next = list.begin();
  cut([&](const Task& task) { *next++ = task; });
  auto* scratch = reinterpret_cast<typename Engine::Scratch*>(
      scope.aligned(ctx.workers() * static_cast<Index>(sizeof(typename Engine::Scratch)), alignof(typename Engine::Scratch)));
  ctx.parallel_for(tasks, work, [&](Index i, int worker) {
    const auto& [product, m, n] = list[static_cast<std::size_t>(i)];
    const MultiplyAdd& p = group[static_cast<std::size_t>(product)];
    const auto piece = p.part(m, std::min(rows, p.c.rows() - m), n, std::min(columns, p.c.cols() - n));
    if (p.depth() > 0)
      Engine::multiply_add(piece, scratch[worker]);
    else if (p.overwrite)
      for (Index row = 0; row < piece.c.rows(); ++row) std::fill_n(piece.c.row_data(row), piece.c.cols(), 0.0f);
  });
}

}  // namespace detail

/// Every product of the group with operands rounded to bf16, in one parallel loop. Codes of 8-bit floats are exact in bf16.
template <class Arch = simd::DefaultArch>
void grouped_multiply_add_bf16(Context& ctx, std::span<const MultiplyAdd> group) {
  if constexpr (!kernels::has_bf16_tiles<Arch>) {
    grouped_multiply_add<Arch>(ctx, group);
  } else {
#ifdef DSV3_HAS_BF16_TILES
#ifdef DSV3_HAS_AMX
    if (amx::available()) return detail::grouped_multiply_add_by<detail::TileEngine>(ctx, group);
#endif
    detail::grouped_multiply_add_by<detail::PairEngine>(ctx, group);
#endif
  }
}

}  // namespace dsv3::inline DSV3_ISA::train
