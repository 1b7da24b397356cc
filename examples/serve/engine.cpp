#include "engine.hpp"

#include <atomic>
#include <iostream>
#include <thread>

#include "../cli/policy.hpp"
#include "dsv3/dsv3.hpp"

namespace serve::inline DSV3_ISA {
namespace {

template <class P>
class EngineOf : public Engine {
 public:
  EngineOf(const std::filesystem::path& folder, const cli::WeightOptions& weights, const dsv3::SchedulerOptions& options,
           std::optional<int> threads, dsv3::TokenBytes token_bytes)
      : executor_(cli::make_executor(threads)),
        model_(load(folder, weights)),
        scheduler_(model_, options, std::move(token_bytes)),
        thread_([this](std::stop_token stop) { run(stop); }) {}

  std::optional<Id> submit(dsv3::Request request, dsv3::OnToken on_token, dsv3::OnFinish on_finish) override {
    return scheduler_.submit(std::move(request), std::move(on_token), std::move(on_finish));
  }
  void cancel(Id id) override { scheduler_.cancel(id); }
  void cancel_all() override { scheduler_.cancel_all(); }
  dsv3::SchedulerStats stats() const override { return scheduler_.stats(); }
  const dsv3::SchedulerOptions& options() const override { return scheduler_.options(); }
  bool healthy() const override { return healthy_; }

 private:
  dsv3::Model<P> load(const std::filesystem::path& folder, const cli::WeightOptions& weights) const {
    dsv3::Context ctx(executor_);
    return cli::load_model<P>(ctx, folder, weights);
  }

  void run(std::stop_token stop) {
    dsv3::Context ctx(executor_);
    while (!stop.stop_requested()) try {
        if (!scheduler_.step(ctx)) scheduler_.wait(std::chrono::milliseconds(100));
      } catch (const std::exception& e) {
        healthy_ = false;
        std::cerr << "dsv3-serve: engine: " << e.what() << std::endl;
        scheduler_.cancel_all();
      }
  }

  cli::Executor executor_;
  dsv3::Model<P> model_;
  dsv3::Scheduler<dsv3::Model<P>> scheduler_;
  std::atomic<bool> healthy_ = true;
  std::jthread thread_;  // last: it uses the others
};

}  // namespace

std::unique_ptr<Engine> open_engine(const std::filesystem::path& folder, const dsv3::Config& config, cli::Compute compute,
                                    const cli::WeightOptions& weights, const dsv3::SchedulerOptions& options, std::optional<int> threads,
                                    dsv3::TokenBytes token_bytes) {
  std::unique_ptr<Engine> engine;
  cli::with_policy("dsv3-serve", config, compute,
                   [&]<class P>(P) { engine = std::make_unique<EngineOf<P>>(folder, weights, options, threads, std::move(token_bytes)); });
  return engine;
}

}  // namespace serve::inline DSV3_ISA
