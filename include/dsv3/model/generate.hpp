// Floor 5. The plain generation loop: prefill in chunks, then one token at a time.
//
// Batches of sequences, speculation and penalties are in generate/.
#pragma once

#include <optional>
#include <type_traits>
#include <vector>

#include "dsv3/model/language_model.hpp"
#include "dsv3/model/model.hpp"
#include "dsv3/model/sampler.hpp"

namespace dsv3::inline DSV3_ISA {

struct GenerateOptions {
  Index max_new_tokens = 256;
  Index prefill_chunk = 512;  ///< tokens per forward pass of the prompt: bounds scratch memory; changes no bit except under Form::automatic
  std::optional<std::vector<int>> stop_tokens{};  ///< end the text and are not reported; default: the configuration's eos_token_id
};

enum class StopReason { max_new_tokens, stop_token, caller, cache_full };

struct GenerateResult {
  Index new_tokens = 0;  ///< reported to on_token
  StopReason reason = StopReason::max_new_tokens;
};

/// Adds `prompt` to the cache (after what it already holds) and calls on_token(id) for each token that `sampler` then chooses, until one is
/// a stop token, max_new_tokens are reached, the cache is full, or on_token returns false. The last token reported is not in the cache yet.
/// Throws: Error if the prompt is empty, or does not fit the vocabulary or the cache, or values are not finite.
template <LanguageModel M, class OnToken, class S = Greedy>
requires Sampler<std::remove_reference_t<S>> GenerateResult generate(Context& ctx, const M& model, typename M::Cache& cache,
                                                                     std::span<const int> prompt, const GenerateOptions& options,
                                                                     OnToken&& on_token, S&& sampler = {}) {
  using Sequence = typename M::Sequence;
  require(!prompt.empty(), "generate: expected at least one prompt token");
  require(options.prefill_chunk >= 1, "generate: prefill_chunk: expected at least 1, got ", options.prefill_chunk);
  const Index tokens = static_cast<Index>(prompt.size()), room = cache.max_tokens() - cache.size();
  require(tokens <= room, "generate: the prompt has ", tokens, " tokens, the cache has room for ", room);
  const Config& c = model.config();
  const std::vector<int>& stops = options.stop_tokens ? *options.stop_tokens : c.eos_token_id;

  Matrix<float> h(std::min(tokens, options.prefill_chunk), model.width()), logits(1, c.vocab_size);
  Index rows = 0;
  const auto add = [&](std::span<const int> ids) {
    const Sequence sequence{ids, &cache};
    rows = static_cast<Index>(ids.size());
    model.forward(ctx, {&sequence, 1}, view(h).slice(0, rows));
  };
  for (Index t = 0; t < tokens; t += options.prefill_chunk)
    add(prompt.subspan(static_cast<std::size_t>(t), static_cast<std::size_t>(std::min(options.prefill_chunk, tokens - t))));

  GenerateResult result;
  while (result.new_tokens < options.max_new_tokens) {
    model.logits(ctx, view(h).slice(rows - 1, 1), view(logits));
    require(logits.allFinite(), "generate: the logits after token ", cache.size(), " are not finite: NaN or infinite weights in lm_head?");
    const int id = sampler(std::span<const float>(logits.data(), static_cast<std::size_t>(logits.size())));
    if (std::find(stops.begin(), stops.end(), id) != stops.end()) return {result.new_tokens, StopReason::stop_token};
    ++result.new_tokens;
    if (!on_token(id)) return {result.new_tokens, StopReason::caller};
    if (result.new_tokens == options.max_new_tokens) break;
    if (cache.size() == cache.max_tokens()) return {result.new_tokens, StopReason::cache_full};
    add({&id, 1});
  }
  return result;
}

}  // namespace dsv3::inline DSV3_ISA
