// Floor 5. Samplers choose the next token from its logits. Here: greedy and temperature; generate/ has more.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <random>
#include <span>
#include <vector>

#include "dsv3/core/config.hpp"

namespace dsv3::inline DSV3_ISA {

/// sampler(logits [S]) -> token id. Logits are finite.
template <class S>
concept Sampler = requires(S& s, std::span<const float> logits) {
  { s(logits) } -> std::convertible_to<int>;
};

/// The token with the largest logit; ties go to the lowest id.
struct Greedy {
  int operator()(std::span<const float> logits) const {
    std::size_t best = 0;
    for (std::size_t i = 1; i < logits.size(); ++i)
      if (logits[i] > logits[best]) best = i;
    return static_cast<int>(best);
  }
};

/// Draws from softmax(logits / temperature). The same seed gives the same draws on every platform; temperature 0 is Greedy.
class Temperature {
 public:
  /// Throws: Error if `temperature` is negative or not finite.
  Temperature(double temperature, std::uint64_t seed) : temperature_(temperature), random_(seed) {
    require(temperature >= 0 && std::isfinite(temperature), "sampler: expected a temperature of at least 0, got ", temperature);
  }

  int operator()(std::span<const float> logits) {
    const int best = Greedy{}(logits);
    if (temperature_ == 0) return best;
    const double largest = static_cast<double>(logits[static_cast<std::size_t>(best)]);
    cumulative_.resize(logits.size());
    double total = 0;
    for (std::size_t i = 0; i < logits.size(); ++i)
      cumulative_[i] = total += std::exp((static_cast<double>(logits[i]) - largest) / temperature_);
    const double uniform = static_cast<double>(random_() >> 11) * 0x1p-53;  // std::uniform_real_distribution differs between libraries
    const auto at = std::upper_bound(cumulative_.begin(), cumulative_.end(), uniform * total);
    return at == cumulative_.end() ? best : static_cast<int>(at - cumulative_.begin());
  }

 private:
  double temperature_;
  std::mt19937_64 random_;
  std::vector<double> cumulative_;
};

}  // namespace dsv3::inline DSV3_ISA
