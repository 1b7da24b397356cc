// Floor 6. Cross-entropy of a row of logits, and its gradient.
#pragma once

#include <cmath>

#include "dsv3/kernels/softmax.hpp"

namespace dsv3::inline DSV3_ISA::train {

/// Returns -log softmax(logits)[target] of n logits (spec T1) and overwrites them with the gradient weight * (softmax(logits) -
/// onehot(target)).
template <class Arch = simd::DefaultArch>
double cross_entropy_backward(float* logits, Index n, int target, float weight) {
  const float largest = kernels::row_max<Arch>(logits, n), at_target = logits[target];
  const float sum = kernels::exp_and_sum<Arch>(logits, n, largest, logits);
  const simd::Floats<Arch> factor(weight / sum);
  simd::map<Arch>([&](const auto& v) { return v * factor; }, n, logits, logits);
  logits[target] -= weight;
  return std::log(static_cast<double>(sum)) + static_cast<double>(largest) - static_cast<double>(at_target);
}

}  // namespace dsv3::inline DSV3_ISA::train
