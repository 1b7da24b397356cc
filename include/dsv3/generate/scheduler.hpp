// Floor 6. Many requests on one model: continuous batching. Sequences join and leave at every step, prompts are computed in chunks while
// other sequences decode, common prefixes are computed once, and requests that do not fit wait (sequence_pool.hpp).
//
// Starts no threads: a thread of the caller calls step() in a loop. Has no priorities: requests are admitted in the order of submission.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <set>
#include <vector>

#include "dsv3/generate/scheduler_options.hpp"
#include "dsv3/generate/sequence_pool.hpp"

namespace dsv3::inline DSV3_ISA {

/// Requests are computed together, but none changes a bit of another's logits: a request's text is what complete() gives with the same
/// depth and verification.
///
/// Threads: one at a time calls step(), which calls all callbacks, processors and the TokenBytes; any may call the other functions, from
/// callbacks as well. Requests that have not ended when the scheduler is destroyed are dropped without an OnFinish.
template <LanguageModel M>
class Scheduler {
 public:
  using Id = std::uint64_t;

  /// The model must outlive the scheduler. `token_bytes` is needed for Token::text and stop strings.
  /// Throws: Error that names the option outside its range.
  explicit Scheduler(const M& model, SchedulerOptions options = {}, TokenBytes token_bytes = {})
      : model_(model), options_(options), token_bytes_(std::move(token_bytes)), pool_(model, options_) {
    validate(options, mtp_modules(model));
  }

  /// Puts a request into the queue. Returns its id, or nothing if the queue is full.
  /// Throws: Error if the request does not fit the model, max_tokens or cache_tokens.
  [[nodiscard]] std::optional<Id> submit(Request request, OnToken on_token, OnFinish on_finish = {}) {
    Answer answer(std::move(request), model_.config(), std::min(options_.max_tokens, options_.cache_tokens), std::move(on_token),
                  token_bytes_, options_.verification);
    const Index reserved = answer.size() + std::max(answer.left(), Index{1}) - 1;
    const std::lock_guard lock(mutex_);
    if (static_cast<Index>(queue_.size()) >= options_.max_queue) {
      ++stats_.refused;
      return std::nullopt;
    }
    const Id id = ++stats_.submitted;
    queue_.push_back({id, reserved, std::move(answer), std::move(on_finish)});
    live_.insert(id);
    changed_.notify_all();
    return id;
  }

  /// Ends a request before its next step. Returns whether it had not ended yet.
  bool cancel(Id id) {
    const std::lock_guard lock(mutex_);
    if (!live_.contains(id)) return false;
    cancelled_.insert(id);
    changed_.notify_all();
    return true;
  }

  void cancel_all() {
    const std::lock_guard lock(mutex_);
    cancelled_ = live_;
    changed_.notify_all();
  }

  /// Admits what fits, computes one step and calls the callbacks. Returns whether there is more to do.
  /// If the model computes values that are not finite, or memory runs out, the requests of the step end with FinishReason::error.
  bool step(Context& ctx) {
    const auto start = std::chrono::steady_clock::now();
    end_cancelled();
    while (admit_next()) {
    }
    make_room();
    const Index rows = advance(ctx);
    end_finished();
    const std::lock_guard lock(mutex_);
    if (rows > 0) ++stats_.steps;
    stats_.rows += static_cast<std::uint64_t>(rows);
    stats_.busy_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    refresh();
    return !queue_.empty() || !pool_.empty();
  }

  /// Waits until there is something to do, but no longer than `timeout`. For the thread that calls step(), after step() returned false.
  template <class Duration>
  void wait(Duration timeout) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, timeout, [&] { return !live_.empty(); });
  }

  SchedulerStats stats() const {
    const std::lock_guard lock(mutex_);
    SchedulerStats s = stats_;
    s.queued = static_cast<Index>(queue_.size());
    s.running = static_cast<Index>(live_.size() - queue_.size());
    return s;
  }

  const SchedulerOptions& options() const { return options_; }

 private:
  using Waiting = WaitingRequest;

  void end_cancelled() {
    std::vector<Waiting> ended;
    {
      const std::lock_guard lock(mutex_);
      for (auto w = queue_.begin(); w != queue_.end();)
        if (cancelled_.contains(w->id)) {
          live_.erase(w->id);  // stats() takes ids that are live but not queued for running
          ended.push_back(std::move(*w));
          w = queue_.erase(w);
        } else {
          ++w;
        }
      for (auto& r : pool_.running())
        if (cancelled_.contains(r.id)) r.sequence->answer.end(FinishReason::cancelled);
      cancelled_.clear();
    }
    for (Waiting& w : ended) {
      w.answer.end(FinishReason::cancelled);
      report(w.id, *w.answer.finish(), w.on_finish);
    }
    end_finished();
  }

  // Admits the first request of the queue if there is room for it.
  bool admit_next() {
    Waiting* first = nullptr;  // stays where it is: only this thread takes from the queue
    {
      const std::lock_guard lock(mutex_);
      if (queue_.empty()) return false;
      first = &queue_.front();
    }
    const auto admission = pool_.admit(*first);
    if (admission == SequencePool<M>::Admission::later) return false;
    std::optional<Waiting> failed;
    {
      const std::lock_guard lock(mutex_);
      if (admission == SequencePool<M>::Admission::out_of_memory) failed = std::move(*first);
      queue_.pop_front();
    }
    if (failed) {
      failed->answer.end(FinishReason::error, "scheduler: out of memory for the cache");
      report(failed->id, *failed->answer.finish(), failed->on_finish);
    }
    return true;
  }

  // Preempted sequences go to the front of the queue, because all others there are younger.
  void make_room() {
    auto gone = pool_.make_room();
    if (gone.empty()) return;
    const std::lock_guard lock(mutex_);
    stats_.preempted += gone.size();
    for (auto w = gone.rbegin(); w != gone.rend(); ++w) queue_.push_front(std::move(*w));
  }

  void end_finished() {
    for (std::size_t i = 0; i < pool_.running().size();) {
      if (!pool_.running()[i].sequence->answer.finish()) {
        ++i;
        continue;
      }
      const auto r = pool_.take_out(i);
      report(r.id, *r.sequence->answer.finish(), r.on_finish);
    }
  }

  // One step: first all decoding sequences, then prompts in their order with what is left of step_tokens. Returns its number of rows.
  Index advance(Context& ctx) {
    std::vector<StepWork<M>> work;
    Index rows = 0;
    const auto take = [&](bool decoding) {
      for (auto& r : pool_.running()) {
        RunningSequence<M>& s = *r.sequence;
        if (s.answer.finish() || (s.waiting() == 1) != decoding) continue;
        const Index room = options_.step_tokens - rows, tokens = s.rows() <= room ? s.waiting() : std::min(s.waiting() - 1, room);
        if (tokens < 1) continue;
        work.push_back({&s, tokens});
        rows += tokens == s.waiting() ? s.rows() : tokens;
      }
    };
    take(true);
    take(false);
    if (work.empty()) return 0;
    try {
      generation_step(ctx, model_, std::span<const StepWork<M>>(work), options_.depth);
    } catch (const std::exception& e) {
      for (const auto& w : work)
        if (!w.sequence->answer.finish()) w.sequence->answer.end(FinishReason::error, e.what());
    }
    return rows;
  }

  void report(Id id, const Finish& finish, const OnFinish& on_finish) {
    {
      const std::lock_guard lock(mutex_);
      live_.erase(id);
      cancelled_.erase(id);
      stats_.count(finish);
      refresh();
    }
    if (on_finish) try {
        on_finish(finish);
      } catch (...) {  // ignored, as documented: one caller's error must not affect others
      }
  }

  // Updates the gauges. The caller holds the mutex.
  void refresh() {
    stats_.cache_tokens = pool_.used_pages() * cache_page;
    stats_.kept_tokens = pool_.kept_pages() * cache_page;
  }

  const M& model_;
  const SchedulerOptions options_;
  const TokenBytes token_bytes_;
  SequencePool<M> pool_;  // only for step()

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Waiting> queue_;
  std::set<Id> live_, cancelled_;  // not ended; to be cancelled
  SchedulerStats stats_;
};

}  // namespace dsv3::inline DSV3_ISA
