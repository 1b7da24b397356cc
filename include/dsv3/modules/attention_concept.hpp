// Floor 4. What a block asks of its attention, and how a batch of sequences is laid out in rows.
#pragma once

#include <span>

#include "dsv3/core/context.hpp"
#include "dsv3/modules/parameters.hpp"

namespace dsv3::inline DSV3_ISA {

/// Rows [begin, begin + count) of a batch are the tokens at positions [position, position + count) of one sequence, whose earlier tokens
/// are in `cache`.
template <class Cache>
struct Segment {
  Index begin = 0, count = 0, position = 0;
  Cache* cache = nullptr;
};

/// forward(ctx, x, segments, y) writes each segment's keys to its cache and lets every row attend to its own sequence up to itself:
/// x, y [T, D], y overwritten. A Cache holds one layer of one sequence and is constructible from (config, max_tokens).
template <class A>
concept Attention = std::constructible_from<A, const Config&> && std::constructible_from<typename A::Cache, const Config&, Index> &&
    HasTensors<A> && requires(const A& a, Context& ctx, ConstMatrixView<float> x, std::span<const Segment<typename A::Cache>> segments,
                              MatrixView<float> y) {
  a.forward(ctx, x, segments, y);
};

}  // namespace dsv3::inline DSV3_ISA
