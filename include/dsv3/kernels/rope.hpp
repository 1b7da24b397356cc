// Floor 3. Rotary position embedding: frequencies with YaRN's context extension, and the rotation of rows in place.
//
// Two replaceable policies: which channels form a pair (Neighbours, Halves), and how frequencies are scaled (YarnScaling, Unscaled).
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <numbers>

#include "dsv3/core/matrix.hpp"

namespace dsv3::inline DSV3_ISA::rope {

/// Pair j of `dim` channels is (2j, 2j + 1), as in the checkpoints (spec A7).
struct Neighbours {
  static constexpr Index first(Index j, Index) { return 2 * j; }
  static constexpr Index second(Index j, Index) { return 2 * j + 1; }
};

/// Pair j of `dim` channels is (j, j + dim / 2).
struct Halves {
  static constexpr Index first(Index j, Index) { return j; }
  static constexpr Index second(Index j, Index dim) { return j + dim / 2; }
};

template <class P>
concept Pairing = requires(Index j, Index dim) {
  { P::first(j, dim) } -> std::convertible_to<Index>;
  { P::second(j, dim) } -> std::convertible_to<Index>;
};

/// frequency(config, j): radians per position of pair j. magnitude(config): factor of cos and sin. softmax_factor(config): factor of the
/// attention scores in addition to (head dim)^(-1/2).
template <class S>
concept Scaling = requires(const Config& config, Index j) {
  { S::frequency(config, j) } -> std::convertible_to<double>;
  { S::magnitude(config) } -> std::convertible_to<double>;
  { S::softmax_factor(config) } -> std::convertible_to<double>;
};

/// f_j = theta^(-2j / dim); any YaRN settings are ignored.
struct Unscaled {
  static double frequency(const Config& c, Index j) {
    return std::pow(c.theta, -2.0 * static_cast<double>(j) / static_cast<double>(c.dim));
  }
  static double magnitude(const Config&) { return 1; }
  static double softmax_factor(const Config&) { return 1; }
};

/// YaRN (spec A8, A9) whenever the config has it, whatever the sequence length, as Hugging Face does.
struct YarnScaling {
  static double frequency(const Config& c, Index j) {
    const double f = Unscaled::frequency(c, j);
    if (!c.yarn) return f;
    double low = std::max(std::floor(dim_of_rotations(c, c.yarn->beta_fast)), 0.0);
    double high = std::min(std::ceil(dim_of_rotations(c, c.yarn->beta_slow)), static_cast<double>(c.dim - 1));
    if (low == high) high += 0.001;
    const double ramp = std::clamp((static_cast<double>(j) - low) / (high - low), 0.0, 1.0);
    return f / c.yarn->factor * ramp + f * (1 - ramp);
  }

  /// m(mscale) / m(mscale_all_dim) if both are given, else m(1).
  static double magnitude(const Config& c) {
    if (!c.yarn) return 1;
    const auto& y = *c.yarn;
    return y.mscale != 0 && y.mscale_all_dim != 0 ? mscale(y.factor, y.mscale) / mscale(y.factor, y.mscale_all_dim) : mscale(y.factor, 1);
  }

  /// m(mscale_all_dim)^2.
  static double softmax_factor(const Config& c) {
    if (!c.yarn || c.yarn->mscale_all_dim == 0) return 1;
    const double m = mscale(c.yarn->factor, c.yarn->mscale_all_dim);
    return m * m;
  }

  /// m(a) = 0.1 a ln s + 1 for an extension by s > 1.
  static double mscale(double s, double a) { return s <= 1 ? 1 : 0.1 * a * std::log(s) + 1; }

 private:
  // The (fractional) pair that turns `rotations` times within the original context.
  static double dim_of_rotations(const Config& c, double rotations) {
    const double length = static_cast<double>(c.yarn->original_max_position_embeddings);
    return static_cast<double>(c.dim) * std::log(length / (rotations * 2 * std::numbers::pi)) / (2 * std::log(c.theta));
  }
};

/// Rotates rows by their positions. Angles are float32 products of position and float32 frequency, as in Hugging Face.
template <Pairing P = Neighbours, Scaling S = YarnScaling>
class Rotation {
 public:
  explicit Rotation(const Config& config) : magnitude_(static_cast<float>(S::magnitude(config))), frequencies_(config.dim / 2) {
    require(config.dim > 0 && config.dim % 2 == 0, "rope: expected an even number of channels, got ", config.dim);
    for (Index j = 0; j < frequencies_.size(); ++j) frequencies_[j] = static_cast<float>(S::frequency(config, j));
  }

  Index dim() const { return 2 * frequencies_.size(); }

  /// cos and sin of `position`, dim() floats: those of pair j at [2j] and [2j + 1].
  void angles(Index position, float* cos_sin) const {
    for (Index j = 0; j < frequencies_.size(); ++j) {
      const double angle = static_cast<double>(static_cast<float>(position) * frequencies_[j]);
      cos_sin[2 * j] = static_cast<float>(std::cos(angle)) * magnitude_;
      cos_sin[2 * j + 1] = static_cast<float>(std::sin(angle)) * magnitude_;
    }
  }

  /// Rotates the dim() channels at x by cos_sin from angles(). y may be x.
  void apply(const float* x, const float* cos_sin, float* y) const {
    for (Index j = 0; j < frequencies_.size(); ++j) {
      const Index a = P::first(j, dim()), b = P::second(j, dim());
      const float cos = cos_sin[2 * j], sin = cos_sin[2 * j + 1], xa = x[a], xb = x[b];
      y[a] = std::fma(xa, cos, -(xb * sin));
      y[b] = std::fma(xb, cos, xa * sin);
    }
  }

 private:
  float magnitude_;
  Vector<float> frequencies_;
};

}  // namespace dsv3::inline DSV3_ISA::rope
