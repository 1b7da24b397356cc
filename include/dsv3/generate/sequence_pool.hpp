// Floor 6. The sequences that a scheduler computes, and the room that their caches take: which are admitted, what they share, and which are
// preempted when memory is full.
//
// A sequence takes pages as its text grows. If a step would need more pages than there are, kept texts are evicted, then the youngest
// sequences are preempted: they go back into the queue with the text they have, which is computed again later. Their continuation is the
// same, bit for bit, because a row's bits depend only on its text, and draws only on the seed and the place of a token.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "dsv3/generate/scheduled_request.hpp"
#include "dsv3/generate/scheduler_options.hpp"

namespace dsv3::inline DSV3_ISA {

/// For the one thread that computes. Model and options must outlive it.
template <LanguageModel M>
class SequencePool {
 public:
  using Running = RunningRequest<M>;
  enum class Admission { admitted, later, out_of_memory };

  SequencePool(const M& model, const SchedulerOptions& options)
      : model_(model), options_(options), prefixes_(std::min(options.depth, mtp_modules(model))) {}

  /// In the order in which they were submitted.
  std::vector<Running>& running() { return running_; }
  bool empty() const { return running_.empty(); }

  /// Pages in use, and those of kept texts among them.
  Index used_pages() const { return pages_of_running(false) + prefixes_.own_pages(); }
  Index kept_pages() const { return prefixes_.own_pages(); }

  /// Admits `w`, the first waiting request, if there is room for its text and for the others' next step. Unless admitted, `w` stays as it
  /// is.
  [[nodiscard]] Admission admit(WaitingRequest& w) {
    if (static_cast<Index>(running_.size()) >= options_.max_sequences) return Admission::later;
    Source source = find_prefix(w);
    if (source.wait) return Admission::later;
    if (source.kept && !fits_alone(w, source)) source = {};
    // One page more per running sequence: else a sequence admitted now could be preempted in the next step.
    const auto missing = [&] {
      return pages_of_running(true) + static_cast<Index>(running_.size()) + pages_of(w.answer.size() + 1) - source.tokens / cache_page +
             prefixes_.own_pages() - pages_of(options_.cache_tokens);
    };
    if (missing() > evictable_pages(source.kept.get())) {
      if (!running_.empty()) return Admission::later;
      source = {};  // the kept text that it would share takes the room itself
    }
    prefixes_.evict(missing());

    Running r{w.id, {}, w.reserved, source.tokens, source.kept, {}, {}};
    try {
      r.cache = std::make_unique<typename M::Cache>(model_.make_cache({w.reserved}));
      if constexpr (shares_prefixes<M>)
        if (source.kept) *r.cache = source.kept->cache.fork(source.tokens, source.tokens + prefixes_.modules(), {w.reserved});
    } catch (const std::bad_alloc&) {
      return Admission::out_of_memory;
    }
    r.sequence = std::make_unique<RunningSequence<M>>(std::move(w.answer), *r.cache, options_.depth);
    r.on_finish = std::move(w.on_finish);
    const auto place = std::find_if(running_.begin(), running_.end(), [&](const Running& other) { return other.id > r.id; });
    running_.insert(place, std::move(r));
    return Admission::admitted;
  }

  /// Called before a step: makes room for what it may write. Returns the preempted sequences, the oldest first.
  [[nodiscard]] std::vector<WaitingRequest> make_room() {
    std::vector<WaitingRequest> gone;
    while (true) {
      const Index missing = pages_of_running(true) + prefixes_.own_pages() - pages_of(options_.cache_tokens);
      if (missing <= evictable_pages(nullptr) || running_.size() <= 1) {
        prefixes_.evict(missing);
        return gone;
      }
      Running r = std::move(running_.back());
      running_.pop_back();
      keep_text(r);
      gone.insert(gone.begin(), WaitingRequest{r.id, r.reserved, std::move(r.sequence->answer), std::move(r.on_finish)});
    }
  }

  /// Removes sequence i, which has finished; its cache may be kept as a prefix.
  [[nodiscard]] Running take_out(std::size_t i) {
    Running r = std::move(running_[i]);
    running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(i));
    if (r.sequence->answer.finish()->reason != FinishReason::error) keep_text(r);
    return r;
  }

 private:
  struct Source {
    typename PrefixStore<M>::Kept kept{};
    Index tokens = 0;
    bool wait = false;  // a running sequence is about to compute a longer common prefix
  };

  // Pages owned by the running sequences: now, or at most after the next step.
  Index pages_of_running(bool after_step) const {
    Index pages = 0;
    for (const Running& r : running_) {
      const Index size = r.cache->size(), more = std::min(r.sequence->rows(), options_.step_tokens);
      pages += pages_of(after_step ? std::min(size + more, r.reserved) : size) - r.shared / cache_page;
    }
    return pages;
  }

  Index evictable_pages(const KeptPrefix<M>* wanted) const {
    std::vector<const KeptPrefix<M>*> held{wanted};
    for (const Running& r : running_) held.push_back(r.parent.get());
    return prefixes_.evictable_pages(held);
  }

  // Whether `w` fits to its end if only the text that it shares stays kept: else that text would block the sequence that shares it.
  bool fits_alone(const WaitingRequest& w, const Source& source) const {
    const KeptPrefix<M>* held[] = {source.kept.get()};
    const Index pinned = prefixes_.own_pages() - prefixes_.evictable_pages(held);
    return pinned + pages_of(w.reserved) - source.tokens / cache_page <= pages_of(options_.cache_tokens);
  }

  Source find_prefix(const WaitingRequest& w) {
    Source source;
    if constexpr (shares_prefixes<M>) {
      if (!options_.keep_prefixes || w.answer.reports_prompt()) return source;
      const auto text = w.answer.ids();
      if ((source.kept = prefixes_.find(text))) source.tokens = prefixes_.common(source.kept->ids, text, source.kept->cache.size());
      Running* best = nullptr;
      Index now = source.tokens, soon = source.tokens;
      for (Running& r : running_) {
        const Answer& a = r.sequence->answer;
        if (const Index n = prefixes_.common(a.ids(), text, prefixes_.seen(*r.cache)); n > now) {
          now = n;
          best = &r;
        }
        if (r.sequence->waiting() > 1) soon = std::max(soon, prefixes_.common(a.ids(), text, a.size() - prefixes_.modules()));
      }
      source.wait = soon > now;
      if (source.wait || !best) return source;
      if (now > best->shared) {  // its pages go to a kept text
        auto kept = keep(*best, now);
        if (!kept) return source;
        best->parent = std::move(kept);
        best->shared = now;
      }
      source.kept = best->parent;
      source.tokens = now;
    }
    return source;
  }

  // Null if memory runs out: what is not kept is computed again.
  typename PrefixStore<M>::Kept keep(const Running& r, Index tokens) {
    try {
      return prefixes_.keep(r.sequence->answer.ids(), *r.cache, tokens, r.shared, r.parent);
    } catch (const std::bad_alloc&) {
      return nullptr;
    }
  }

  // Keeps the whole pages that a leaving sequence has computed.
  void keep_text(const Running& r) {
    if constexpr (shares_prefixes<M>) {
      if (!options_.keep_prefixes) return;
      const Index whole = std::min(prefixes_.seen(*r.cache), r.sequence->answer.size() - prefixes_.modules()) / cache_page * cache_page;
      if (whole > r.shared) keep(r, whole);
    }
  }

  const M& model_;
  const SchedulerOptions& options_;
  std::vector<Running> running_;
  PrefixStore<M> prefixes_;
};

}  // namespace dsv3::inline DSV3_ISA
