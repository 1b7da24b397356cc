// Floor 6. Backward of projections, and the common arguments of all modules' backward functions.
//
// A module's backward is a free function backward(b, module, x, dy, dx): dx is overwritten, the gradients of weights are added to. Input
// gradient and weight gradient of a projection are separate calls.
#pragma once

#include "dsv3/kernels/permute.hpp"
#include "dsv3/modules/linear.hpp"
#include "dsv3/modules/norm.hpp"
#include "dsv3/train/multiply_add_float32.hpp"
#include "dsv3/train/parameters.hpp"
#include "dsv3/train/row_gradients.hpp"
#include "dsv3/train/tape.hpp"

namespace dsv3::inline DSV3_ISA::train {

/// The balance losses of a pass.
struct Balance {
  double weight = 0;                                   ///< alpha, divided by the number of sequences of the whole batch
  std::span<const std::pair<Index, Index>> rows = {};  ///< first row and number of rows of each sequence
  double loss = 0;                                     ///< sum over these sequences, alpha = 1; overwritten by a layer with experts
};

/// Common arguments of backward functions: memory, the gradient sums, the rows of the pass, and what forward kept of this layer. The tape
/// of `rows`, if there is one, receives gradients instead of values.
template <class P, class Cache, class T>
struct Backward {
  Context& ctx;
  Gradients<P>& gradients;
  const Rows<Cache, T>& rows;
  const LayerRecord& kept;
  Balance* balance = nullptr;
};

/// dx [T, in] = dy [T, out] W, or += with `add`.
template <class View>
struct InputGradient {
  ConstMatrixView<float> dy;
  View w;
  MatrixView<float> dx;
  bool add = false;
};
/// dw [out, in] += dy^T x, summed row by row, in order.
struct WeightGradient {
  ConstMatrixView<float> x, dy;
  MatrixView<float> dw;
};

/// The float32 values of a weight in training.
template <WeightView W>
ConstMatrixView<float> master(const W& w) {
  return visit_weight(w, []<class V>(const V& v) {
    if constexpr (std::is_same_v<V, F32::View>)
      return ConstMatrixView<float>(v.data, v.rows, v.cols, v.stride);
    else
      fail("train: a weight is not stored as float32: bind the model by train::Parameters first");
    return ConstMatrixView<float>();
  });
}

/// Products of a backward pass: by P::Compute::multiply_add if there is one, else in float32. If P::Compute has input_gradients or
/// weight_gradients, these are used for such products instead.
template <class P>
void multiply_add_all(Context& ctx, std::span<const MultiplyAdd> group) {
  if constexpr (requires { P::Compute::template multiply_add<typename P::Arch>(ctx, group); })
    P::Compute::template multiply_add<typename P::Arch>(ctx, group);
  else
    grouped_multiply_add<typename P::Arch>(ctx, group);
}

template <class P>
void input_gradients(Context& ctx, std::span<const InputGradient<typename P::Storage::View>> group) {
  auto scope = ctx.scratch();
  const auto products = scope.array<MultiplyAdd>(std::ssize(group));
  for (std::size_t i = 0; i < group.size(); ++i)
    std::construct_at(&products[i], MultiplyAdd{as_is(group[i].dy), master(group[i].w), group[i].dx, !group[i].add});
  if constexpr (requires { P::Compute::template input_gradients<typename P::Arch>(ctx, std::span<const MultiplyAdd>(products)); })
    P::Compute::template input_gradients<typename P::Arch>(ctx, std::span<const MultiplyAdd>(products));
  else
    multiply_add_all<P>(ctx, products);
}
template <class P>
void weight_gradients(Context& ctx, std::span<const WeightGradient> group) {
  auto scope = ctx.scratch();
  const auto products = scope.array<MultiplyAdd>(std::ssize(group));
  for (std::size_t i = 0; i < group.size(); ++i)
    std::construct_at(&products[i], MultiplyAdd{transposed(group[i].dy), group[i].x, group[i].dw, false});
  if constexpr (requires { P::Compute::template weight_gradients<typename P::Arch>(ctx, std::span<const MultiplyAdd>(products)); })
    P::Compute::template weight_gradients<typename P::Arch>(ctx, std::span<const MultiplyAdd>(products));
  else
    multiply_add_all<P>(ctx, products);
}

/// dx = dy W, or += with `add`.
template <class P, class B>
void input_gradient(const B& b, const Linear<P>& linear, ConstMatrixView<float> dy, MatrixView<float> dx, bool add = false) {
  const InputGradient<typename P::Storage::View> job{dy, linear.weight(), dx, add};
  input_gradients<P>(b.ctx, {&job, 1});
}
/// dW += dy^T x.
template <class P, class B>
void weight_gradient(const B& b, const Linear<P>& linear, ConstMatrixView<float> x, ConstMatrixView<float> dy) {
  const WeightGradient job{x, dy, b.gradients.of(linear.weight())};
  weight_gradients<P>(b.ctx, {&job, 1});
}

/// dx = dy W, dW += dy^T x.
template <class P, class B>
void backward(const B& b, const Linear<P>& linear, ConstMatrixView<float> x, ConstMatrixView<float> dy, MatrixView<float> dx) {
  input_gradient(b, linear, dy, dx);
  weight_gradient(b, linear, x, dy);
}

/// x are the norm's inputs; dx may be dy.
template <class P, class B>
void backward(const B& b, const RmsNorm<P>& norm, ConstMatrixView<float> x, ConstMatrixView<float> dy, MatrixView<float> dx) {
  rms_norm_backward<typename P::Arch>(b.ctx, x, norm.weight(), norm.eps(), dy, dx, b.gradients.of(norm.weight()));
}

}  // namespace dsv3::inline DSV3_ISA::train
