// Floor 6. Log-probabilities of the chosen token and of the likeliest ones, as APIs report them.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "dsv3/kernels/top_k.hpp"

namespace dsv3::inline DSV3_ISA::sampling {

/// A token and the natural logarithm of its probability.
struct LogProbability {
  int id = 0;
  double value = 0;
};

struct LogProbabilities {
  double chosen = 0;
  Index rank = 1;                   ///< of the chosen token: 1 + the number of likelier tokens
  std::vector<LogProbability> top;  ///< likeliest first
};

/// Log-probabilities of the `chosen` token and of the `top` likeliest under softmax(logits) [S]: the model's own distribution, if called
/// before processors.
[[nodiscard]] inline LogProbabilities log_probabilities(std::span<const float> logits, int chosen, Index top) {
  const auto largest = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  double total = 0;
  for (const float l : logits) total += std::exp(static_cast<double>(l) - largest);
  const double shift = largest + std::log(total);
  const auto of = [&](int id) { return static_cast<double>(logits[static_cast<std::size_t>(id)]) - shift; };
  const float own = logits[static_cast<std::size_t>(chosen)];
  LogProbabilities result{of(chosen), 1 + std::count_if(logits.begin(), logits.end(), [&](float l) { return l > own; }), {}};
  std::vector<int> best(std::min(static_cast<std::size_t>(top), logits.size()));
  kernels::top_k(logits, best);
  for (const int id : best) result.top.push_back({id, of(id)});
  return result;
}

}  // namespace dsv3::inline DSV3_ISA::sampling
