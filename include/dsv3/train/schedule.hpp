// Floor 6. Schedules: learning rates and weights of losses as functions of the step, or of the tokens seen.
#pragma once

#include <cmath>
#include <numbers>
#include <vector>

#include "dsv3/core/error.hpp"

namespace dsv3::inline DSV3_ISA::train {

/// From `from` to `to` over `length` steps (or tokens), along a line or half a cosine.
struct Phase {
  enum class Shape { line, cosine };
  double length = 0, from = 0, to = 0;
  Shape shape = Shape::line;
};

/// Phases one after another; after the last phase its final value stays.
class Schedule {
 public:
  explicit Schedule(double constant) : phases_{{0, constant, constant}} {}
  /// Throws: Error if there is no phase, or a length is negative or a value not finite.
  explicit Schedule(std::vector<Phase> phases) : phases_(std::move(phases)) {
    require(!phases_.empty(), "Schedule: expected at least one phase");
    for (const Phase& p : phases_)
      require(p.length >= 0 && std::isfinite(p.length) && std::isfinite(p.from) && std::isfinite(p.to),
              "Schedule: expected a phase of a length of at least 0 and of finite values, got length ", p.length, ", ", p.from, " to ",
              p.to);
  }

  /// The value after x steps (the first step of a warm-up of W has x = 1: 1/W of the peak, spec T32).
  double at(double x) const {
    for (const Phase& p : phases_) {
      if (x <= p.length && p.length > 0) {
        const double t = x / p.length;
        return p.shape == Phase::Shape::line ? p.from + (p.to - p.from) * t
                                             : p.to + (p.from - p.to) * (1 + std::cos(std::numbers::pi * t)) / 2;
      }
      x -= p.length;
    }
    return phases_.back().to;
  }

 private:
  std::vector<Phase> phases_;
};

/// Linear warm-up, constant, cosine to `least`.
inline Schedule warmup_cosine(double peak, double least, double warmup, double constant, double decay) {
  return Schedule({{warmup, 0, peak}, {constant, peak, peak}, {decay, peak, least, Phase::Shape::cosine}});
}

/// The report's learning rate over its pre-training (section 4.2), by tokens: a warm-up of 2,000 steps, `warmup` tokens in all, to 2.2e-4;
/// constant until 10T; a cosine to 2.2e-5 over 4.3T; 333B at 2.2e-5; 167B at 7.3e-6. `scale` multiplies all lengths.
inline Schedule report_schedule(double scale = 1, double peak = 2.2e-4, double warmup = 2000.0 * 3072 * 4096) {
  return Schedule({{warmup * scale, 0, peak},
                   {(10e12 - warmup) * scale, peak, peak},
                   {4.3e12 * scale, peak, peak / 10, Phase::Shape::cosine},
                   {333e9 * scale, peak / 10, peak / 10},
                   {167e9 * scale, peak * 7.3e-6 / 2.2e-4, peak * 7.3e-6 / 2.2e-4}});
}

/// The report's batch size in sequences of 4,096 tokens: 3,072 growing to 15,360 over the first 469B tokens (spec T32; linearly here,
/// because the report names no curve).
inline Schedule report_batch_size(double scale = 1) { return Schedule({{469e9 * scale, 3072, 15360}}); }

}  // namespace dsv3::inline DSV3_ISA::train
