// Floor 0. What a forward pass tells whoever watches it: nothing by default, at no cost.
//
// A tape is passed by reference through forward. One that sets `enabled` is given the named intermediate results of every layer:
// tests compare them, tools write them out, training keeps what its backward pass needs.
#pragma once

#include <string_view>

#include "dsv3/core/matrix.hpp"

namespace dsv3::inline DSV3_ISA {

/// record(layer, point, value): `value` [rows, n] is valid during the call only. Points: "hidden" (the residual stream entering a layer;
/// for layer = num_hidden_layers the last block's output, before the final norm), "attn" and "mlp" (added to the stream), "experts" and
/// "weights" (the routing of each row [T, K], in the order of choice).
template <class T>
concept Tape = requires(T& t, Index layer, std::string_view point, ConstMatrixView<float> x, ConstMatrixView<int> ids) {
  { T::enabled } -> std::convertible_to<bool>;
  t.record(layer, point, x);
  t.record(layer, point, ids);
};

/// Records nothing.
struct NoTape {
  static constexpr bool enabled = false;
  template <class M>
  void record(Index, std::string_view, const M&) const {}
};

}  // namespace dsv3::inline DSV3_ISA
