// Floor 6. Backward of a block.
#pragma once

#include "dsv3/modules/block.hpp"
#include "dsv3/train/ffn_backward.hpp"
#include "dsv3/train/gqa_backward.hpp"
#include "dsv3/train/mla_backward.hpp"

namespace dsv3::inline DSV3_ISA::train {

/// `stream` [T, D] holds the gradient of the block's output stream and receives that of its input stream, in place.
template <class P, class B>
void backward(const B& b, const Block<P>& block, MatrixView<float> stream) {
  using Arch = typename P::Arch;
  Context& ctx = b.ctx;
  auto scope = ctx.scratch();
  auto dx = scope.template matrix<float>(stream.rows(), stream.cols());
  auto normed = scope.template matrix<float>(stream.rows(), stream.cols());
  // A part's input: from the record, or normalised again.
  const auto input = [&](const Matrix<float>& kept, const auto& norm, const Matrix<float>& before) -> ConstMatrixView<float> {
    if (kept.size() > 0) return view(kept);
    norm.forward(ctx, view(before), normed);
    return normed;
  };

  record(b.rows, point::FfnOutput{}, stream);
  const auto ffn_input = input(b.kept.ffn_input, block.post_norm(), b.kept.middle);
  std::visit([&](const auto& ffn) { backward(b, ffn, ffn_input, stream, dx); }, block.feed_forward());
  record(b.rows, point::FfnInput{}, dx);
  backward(b, block.post_norm(), view(b.kept.middle), dx, dx);
  kernels::add<Arch>(ctx, dx, stream);

  record(b.rows, point::AttentionOutput{}, stream);
  const auto attention_input = input(b.kept.attention_input, block.input_norm(), b.kept.hidden);
  backward(b, block.attention(), attention_input, stream, dx);
  record(b.rows, point::AttentionInput{}, dx);
  backward(b, block.input_norm(), view(b.kept.hidden), dx, dx);
  kernels::add<Arch>(ctx, dx, stream);
}

}  // namespace dsv3::inline DSV3_ISA::train
