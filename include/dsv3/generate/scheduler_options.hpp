// Floor 6. Options and statistics of a scheduler.
#pragma once

#include <cstdint>

#include "dsv3/generate/answer.hpp"

namespace dsv3::inline DSV3_ISA {

struct SchedulerOptions {
  Index max_sequences = 16;    ///< computed at once
  Index max_queue = 256;       ///< waiting besides these
  Index max_tokens = 4096;     ///< prompt and answer of one sequence
  Index cache_tokens = 32768;  ///< room of all caches together, in pages of 64 that sequences take as they grow; when it is full, the
                               ///< youngest sequences are preempted and wait
  bool keep_prefixes = true;   ///< caches of ended sequences are kept for others with the same prefix, until their room is needed
  Index step_tokens = 512;     ///< rows of one step: bounds scratch memory and the time between two tokens
  Index depth = 0;             ///< drafts per sequence and step, by the model's MTP modules
  Verification verification = Verification::rejection;
};

/// Throws: Error that names the option outside its range.
inline void validate(const SchedulerOptions& options, Index mtp_modules) {
  const auto positive = [](Index value, const char* name) {
    require(value >= 1, "scheduler: ", name, ": expected at least 1, got ", value);
  };
  positive(options.max_sequences, "max_sequences");
  positive(options.max_queue, "max_queue");
  positive(options.max_tokens, "max_tokens");
  positive(options.cache_tokens, "cache_tokens");
  require(options.depth >= 0, "scheduler: depth: expected at least 0, got ", options.depth);
  require(options.depth == 0 || mtp_modules > 0, "scheduler: depth: the model has no MTP modules to make drafts");
  const Index decoding = options.max_sequences * (1 + options.depth);
  require(options.step_tokens > decoding, "scheduler: step_tokens: expected more than ", decoding,
          ", the tokens and drafts of max_sequences, so that prompts get on; got ", options.step_tokens);
}

/// Counters since the start, and the current state (of the caches: after the last step).
struct SchedulerStats {
  std::uint64_t submitted = 0, refused = 0;  ///< refused: because the queue was full
  std::uint64_t finished = 0, cancelled = 0, failed = 0;
  std::uint64_t preempted = 0;                                         ///< sequences put back into the queue for older ones
  std::uint64_t steps = 0, rows = 0;                                   ///< rows: tokens and drafts that went through the main model
  std::uint64_t prompt_tokens = 0, cached_tokens = 0, new_tokens = 0;  ///< of ended requests; cached: prompt tokens not computed
  std::uint64_t drafted = 0, accepted = 0;
  double busy_seconds = 0;                  ///< spent in steps
  Index queued = 0, running = 0;            ///< together: all that have not ended
  Index cache_tokens = 0, kept_tokens = 0;  ///< room in use or kept; of this the kept part, which can be shared or evicted

  /// Adds a request that has ended to the counters.
  void count(const Finish& finish) {
    ++(finish.reason == FinishReason::cancelled ? cancelled : finish.reason == FinishReason::error ? failed : finished);
    prompt_tokens += static_cast<std::uint64_t>(finish.stats.prompt_tokens);
    cached_tokens += static_cast<std::uint64_t>(finish.stats.cached_tokens);
    new_tokens += static_cast<std::uint64_t>(finish.stats.new_tokens);
    drafted += static_cast<std::uint64_t>(finish.stats.drafted);
    accepted += static_cast<std::uint64_t>(finish.stats.accepted);
  }
};

}  // namespace dsv3::inline DSV3_ISA
