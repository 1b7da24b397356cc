// Floor 6. The step: losses and gradients of a batch, clipping, AdamW, the routers' biases.
#pragma once

#include <optional>

#include "dsv3/train/adamw.hpp"
#include "dsv3/train/backpropagation.hpp"
#include "dsv3/train/bias_controller.hpp"

namespace dsv3::inline DSV3_ISA::train {

struct TrainerOptions {
  AdamWOptions adamw{};
  double clip = 1;  ///< largest norm of the gradients (spec T31)
  BiasStep bias_step = BiasStep::as_is;
  Keep keep{};            ///< what forward keeps for backward
  Index micro_batch = 0;  ///< samples per pass; 0: the whole batch
  int max_skipped = 10;   ///< steps in a row without a finite loss or norm, after which training stops
};

/// What may differ from step to step.
struct StepSettings {
  double learning_rate = 2.2e-4;
  Objective objective{};
  double bias_speed = 0.001;  ///< gamma
};

struct StepReport {
  Losses losses;
  double gradient_norm = 0, clip_factor = 1;
  Matrix<Index> loads;   ///< [layers with experts, E]
  bool skipped = false;  ///< loss or norm were not finite: no weight was touched
};

/// A model in training: its parameters, gradients and optimizer. Of the model, it owns only the master weights.
template <class P, Codec Moments = codec::Float32>
class Trainer {
 public:
  Trainer(Model<P>& model, const TrainerOptions& options)
      : options_(options),
        parameters_(model),
        gradients_(parameters_),
        passes_(model, options.keep),
        optimizer_(parameters_, options.adamw) {}

  /// One step on a batch. Throws: Error if the batch has no target or after max_skipped skipped steps in a row, and what Backpropagation
  /// throws.
  StepReport step(Context& ctx, std::span<const Sample> batch, const StepSettings& settings) {
    StepReport report;
    const auto counts = gradients_of(ctx, batch, settings.objective, report);
    report.gradient_norm = gradient_norm(ctx, gradients_);
    report.clip_factor = clip_factor(report.gradient_norm, options_.clip);
    report.skipped = !std::isfinite(report.losses.total) || !std::isfinite(report.gradient_norm);
    skipped_ = report.skipped ? skipped_ + 1 : 0;
    require(skipped_ < options_.max_skipped, "train: the loss (", report.losses.total, ") or the norm of the gradients (",
            report.gradient_norm, ") was not finite in ", skipped_, " steps in a row; the weights are those before them");
    if (report.skipped) return report;
    optimizer_.step(ctx, parameters_, gradients_, settings.learning_rate, report.clip_factor);
    if (settings.bias_speed != 0) update_biases(parameters_, report.loads, settings.bias_speed, options_.bias_step);
    return report;
  }

  /// Computes the losses of a batch into `report` and its gradients into gradients(), without a step.
  Counts gradients_of(Context& ctx, std::span<const Sample> batch, const Objective& objective, StepReport& report) {
    const auto counts = count(batch, objective.mtp_weight != 0 ? parameters_.model().mtp_modules() : 0);
    require(counts.main_targets > 0, "train: a batch of ", batch.size(),
            " samples has no target: no text of two tokens, or none is trained");
    gradients_.clear(ctx);
    Sums sums;
    const Index part = options_.micro_batch > 0 ? options_.micro_batch : std::ssize(batch);
    for (Index i = 0; i < std::ssize(batch); i += part)
      sums += passes_.accumulate(
          ctx, batch.subspan(static_cast<std::size_t>(i), static_cast<std::size_t>(std::min(part, std::ssize(batch) - i))), counts,
          objective, gradients_);
    report.losses = losses(sums, counts, objective);
    report.loads = sums.loads;
    return counts;
  }

  Parameters<P>& parameters() { return parameters_; }
  const Gradients<P>& gradients() const { return gradients_; }
  AdamW<P, Moments>& optimizer() { return optimizer_; }
  const Backpropagation<P>& passes() const { return passes_; }

 private:
  TrainerOptions options_;
  Parameters<P> parameters_;
  Gradients<P> gradients_;
  Backpropagation<P> passes_;
  AdamW<P, Moments> optimizer_;
  int skipped_ = 0;
};

}  // namespace dsv3::inline DSV3_ISA::train
