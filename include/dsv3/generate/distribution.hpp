// Floor 6. Probabilities from processed logits, and drawing from them.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "dsv3/generate/logits.hpp"

namespace dsv3::inline DSV3_ISA::sampling {

/// p = softmax(logits) [S] in float64, excluded tokens 0. p is overwritten.
/// Throws: Error if every token is excluded, or a logit is NaN or +infinity.
inline void probabilities(std::span<const float> logits, std::vector<double>& p) {
  float largest = excluded;
  for (const float l : logits) {
    require(l < -excluded, "sampling: a logit is ", l, ": NaN or infinite weights, or a processor that makes such logits");
    largest = std::max(largest, l);
  }
  require(largest != excluded, "sampling: every token is excluded: the constraints of this request leave none");
  p.resize(logits.size());
  double total = 0;
  for (std::size_t i = 0; i < p.size(); ++i)
    total += p[i] = logits[i] == excluded ? 0.0 : std::exp(static_cast<double>(logits[i]) - static_cast<double>(largest));
  for (double& x : p) x /= total;
}

/// The token at which the running sum of `weights` [S], not negative and not all 0, passes the fraction `uniform` in [0, 1) of their sum.
[[nodiscard]] inline int draw(std::span<const double> weights, double uniform) {
  double total = 0, sum = 0;
  for (const double w : weights) total += w;
  std::size_t last = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] == 0) continue;
    sum += weights[i];
    last = i;
    if (sum > uniform * total) break;
  }
  return static_cast<int>(last);
}

}  // namespace dsv3::inline DSV3_ISA::sampling
