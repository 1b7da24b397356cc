// The model and the thread that computes, whatever the policy: requests go in, tokens come back on that thread.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "../cli/cli.hpp"
#include "../cli/weights.hpp"
#include "dsv3/core/config.hpp"
#include "dsv3/generate/scheduler.hpp"

namespace serve::inline DSV3_ISA {

class Engine {
 public:
  using Id = std::uint64_t;

  virtual ~Engine() = default;  // ends the thread; requests that have not ended are dropped

  /// Callbacks are called on the engine's thread and must be quick. Returns nothing if the queue is full.
  /// Throws: dsv3::Error if the request does not fit.
  virtual std::optional<Id> submit(dsv3::Request request, dsv3::OnToken on_token, dsv3::OnFinish on_finish) = 0;
  virtual void cancel(Id id) = 0;
  virtual void cancel_all() = 0;
  virtual dsv3::SchedulerStats stats() const = 0;
  virtual const dsv3::SchedulerOptions& options() const = 0;
  /// False once the thread has met an error that is no request's.
  virtual bool healthy() const = 0;
};

/// Loads the checkpoint in `folder`, whose configuration is `config`, and starts the thread.
/// Throws: dsv3::Error if it cannot be loaded or the options do not fit it.
std::unique_ptr<Engine> open_engine(const std::filesystem::path& folder, const dsv3::Config& config, cli::Compute compute,
                                    const cli::WeightOptions& weights, const dsv3::SchedulerOptions& options, std::optional<int> threads,
                                    dsv3::TokenBytes token_bytes);

}  // namespace serve::inline DSV3_ISA
