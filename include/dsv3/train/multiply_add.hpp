// Floor 6. The product of training, C += A B, where both operands may be transposed, and how a group of products is cut into tasks. Engines
// compute the tasks: multiply_add_float32.hpp, multiply_add_bf16.hpp.
//
// Operands may be code values with scales per 128 terms of the sum. Then each block of 128 terms is summed from 0 and added as
// c = fma(sum, scale of a * scale of b, c): accumulation in float32 per 128 terms (section 3.3.2).
#pragma once

#include <algorithm>
#include <span>

#include "dsv3/core/context.hpp"

namespace dsv3::inline DSV3_ISA::train {

/// A matrix whose element [i, k] lies at data[i * row + k * col]: rows as they are, or transposed.
struct Strided {
  const float* data = nullptr;
  Index row = 0, col = 0;
};
inline Strided as_is(ConstMatrixView<float> m) { return {m.data(), m.outerStride(), 1}; }
inline Strided transposed(ConstMatrixView<float> m) { return {m.data(), 1, m.outerStride()}; }

/// C [rows, columns] += A B with A [rows, depth] and B [depth, columns], or with `transpose_b` B = b^T, b [columns, depth]. C overlaps
/// neither. With `overwrite`, C = A B.
struct MultiplyAdd {
  Strided a;
  ConstMatrixView<float> b;
  MatrixView<float> c;
  bool overwrite = false, transpose_b = false;
  ConstMatrixView<float> a_scales = {}, b_scales = {};  ///< [ceil(depth / 128), rows] and [ceil(depth / 128), columns], or none
  int a_min_exponent = -6, b_min_exponent = -6;         ///< of the codes' format, for accumulators that emulate subnormals

  bool scaled() const { return b_scales.rows() > 0; }
  Index depth() const { return transpose_b ? b.cols() : b.rows(); }
  Index columns() const { return transpose_b ? b.rows() : b.cols(); }

  /// The part with `rows` rows from m on and `count` columns from n on.
  MultiplyAdd part(Index m, Index rows, Index n, Index count) const {
    return {{a.data + m * a.row, a.row, a.col},
            transpose_b ? b.slice(n, count) : b.columns(n, count),
            c.slice(m, rows).columns(n, count),
            overwrite,
            transpose_b,
            scaled() ? a_scales.columns(m, rows) : a_scales,
            scaled() ? b_scales.columns(n, count) : b_scales,
            a_min_exponent,
            b_min_exponent};
  }
};

namespace detail {

inline constexpr Index block_depth = 128;  // terms that share a scale

/// Scales of a block of the sum: of A's rows and of B's columns. Null: no scales, the sum continues from C.
struct BlockScales {
  const float *a = nullptr, *b = nullptr;

  BlockScales at(Index m, Index n) const { return a != nullptr ? BlockScales{a + m, b + n} : BlockScales{}; }
};
inline BlockScales block_scales(const MultiplyAdd& p, Index k) {
  return p.scaled() ? BlockScales{p.a_scales.row_data(k / block_depth), p.b_scales.row_data(k / block_depth)} : BlockScales{};
}

// An engine is a type with
// - Scratch, memory of a worker;
// - multiply_add(p, scratch): one product on the calling thread, with at most max_rows rows and max_columns columns.

/// One product on the calling thread, which may have no terms.
template <class Engine>
void multiply_add_by(const MultiplyAdd& p, typename Engine::Scratch& scratch) {
  if (p.depth() > 0)
    Engine::multiply_add(p, scratch);
  else if (p.overwrite)
    for (Index m = 0; m < p.c.rows(); ++m) std::fill_n(p.c.row_data(m), p.c.cols(), 0.0f);
}

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
    multiply_add_by<Engine>(p.part(m, std::min(rows, p.c.rows() - m), n, std::min(columns, p.c.cols() - n)), scratch[worker]);
  });
}

}  // namespace detail

}  // namespace dsv3::inline DSV3_ISA::train
