// Floor 6. One request from its prompt to its end, with or without speculation; the text so far can be kept for the next request.
//
// scheduler.hpp runs many requests at once. model/generate.hpp is the plain loop without speculation.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "dsv3/generate/step.hpp"

namespace dsv3::inline DSV3_ISA {

/// A cache and the tokens it holds.
template <SequenceCache Cache>
struct CachedText {
  Cache cache;
  std::vector<int> ids{};
};
template <SequenceCache Cache>
CachedText(Cache) -> CachedText<Cache>;  // clang before 17 does not deduce it

struct CompleteOptions {
  Index depth = 0;  ///< drafts per pass, by the model's MTP modules; beyond their number the last one is used again
  Verification verification = Verification::rejection;
  Index prefill_chunk = 512;  ///< prompt tokens per forward pass: bounds scratch memory; changes no bit except under Form::automatic
  /// Asked before each pass; false ends the answer (FinishReason::cancelled), also while the prompt is computed.
  std::function<bool()> go_on{};
};

/// Continues request.prompt and calls on_token for each new token. `text` holds the tokens that were computed last; a common prefix with
/// the prompt is not computed again, so a conversation passes its whole text each time.
/// Greedy text and its logits are bit for bit those of generate(), whatever the depth; drawn text has the same distribution
/// (Verification). Throws: Error if the request does not fit model or cache, or values are not finite; then `text` is empty.
template <LanguageModel M>
Finish complete(Context& ctx, const M& model, CachedText<typename M::Cache>& text, Request request, const CompleteOptions& options = {},
                OnToken on_token = {}, TokenBytes token_bytes = {}) {
  require(options.prefill_chunk >= 1, "complete: prefill_chunk: expected at least 1, got ", options.prefill_chunk);
  Answer answer(std::move(request), model.config(), text.cache.max_tokens(), std::move(on_token), std::move(token_bytes),
                options.verification);
  const auto same = std::mismatch(text.ids.begin(), text.ids.end(), answer.ids().begin(), answer.ids().end()).first - text.ids.begin();
  text.cache.truncate(std::min(static_cast<Index>(same), text.cache.size()));
  text.ids.clear();

  RunningSequence<M> sequence(std::move(answer), text.cache, options.depth);
  try {
    while (!sequence.answer.finish()) {
      if (options.go_on && !options.go_on()) {
        sequence.answer.end(FinishReason::cancelled);
        break;
      }
      const StepWork<M> work{&sequence, std::min(sequence.waiting(), options.prefill_chunk)};
      generation_step(ctx, model, std::span(&work, 1), options.depth);
    }
  } catch (...) {
    text.cache.clear();
    throw;
  }
  const auto ids = sequence.answer.ids().first(static_cast<std::size_t>(text.cache.size()));
  text.ids.assign(ids.begin(), ids.end());
  return *sequence.answer.finish();
}

}  // namespace dsv3::inline DSV3_ISA
