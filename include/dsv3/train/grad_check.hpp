// Floor 6. Checking a gradient against finite differences, for authors of a new backward function.
#pragma once

#include <cmath>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include "dsv3/core/error.hpp"

namespace dsv3::inline DSV3_ISA::train {

/// A directional derivative: `analytic` from the gradient, `numeric` from differences of the loss, with its approximate `uncertainty`.
struct [[nodiscard]] GradCheck {
  double analytic = 0, numeric = 0, uncertainty = 0;

  /// Whether the two agree within the uncertainty.
  bool agrees() const { return std::abs(analytic - numeric) <= uncertainty; }
};

/// Compares `gradient` of loss() for the variables `x` with finite differences along a random direction. x is moved and put back.
/// `step` is the length of the move relative to |x|. The value is extrapolated from central differences at two step sizes. Its uncertainty
/// is the difference of these two, plus the loss's rounding error, taken as `roundings` float32 epsilons of its magnitude. Throws: Error if
/// the lengths differ.
template <class Loss>
GradCheck check_gradient(std::span<float> x, std::span<const float> gradient, Loss&& loss, std::uint64_t seed = 1, double step = 1e-2,
                         double roundings = 4) {
  require(x.size() == gradient.size(), "check_gradient: expected ", x.size(), " derivatives, got ", gradient.size());
  std::mt19937_64 random(seed);
  std::vector<double> direction(x.size());
  const std::vector<float> original(x.begin(), x.end());
  double length = 0, size = 0;
  for (double& d : direction) {
    d = static_cast<double>(random() >> 11) * 0x1p-52 - 1;
    length += d * d;
  }
  for (const float v : x) size += static_cast<double>(v) * static_cast<double>(v);
  const double h = step * std::sqrt(std::max(size, 1e-12) / std::max(length, 1e-300));
  GradCheck check;
  double largest = 0;
  // The central difference. x is rounded to float32 at both points.
  const auto slope = [&](double move) {
    const auto at = [&](double by) {
      for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(static_cast<double>(original[i]) + by * direction[i]);
      const double value = loss();
      largest = std::max(largest, std::abs(value));
      return value;
    };
    const double up = at(move), down = at(-move);
    return (up - down) / (2 * move);
  };
  const double coarse = slope(h), fine = slope(h / 2);
  std::copy(original.begin(), original.end(), x.begin());
  for (std::size_t i = 0; i < x.size(); ++i) check.analytic += static_cast<double>(gradient[i]) * direction[i];
  check.numeric = fine + (fine - coarse) / 3;
  check.uncertainty = std::abs(fine - coarse) + roundings * static_cast<double>(std::numeric_limits<float>::epsilon()) * largest / h;
  return check;
}

}  // namespace dsv3::inline DSV3_ISA::train
