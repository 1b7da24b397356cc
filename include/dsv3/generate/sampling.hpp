// Floor 6. The sampling pipeline: a request's settings as a list of logit processors, and the choice at its end.
//
// The order is fixed: bias, repetition penalty, presence and frequency penalties, the caller's own processors, temperature, top-k, top-p,
// min-p. Each sees the logits that the ones before have left.
#pragma once

#include <utility>
#include <vector>

#include "dsv3/generate/distribution.hpp"
#include "dsv3/generate/penalties.hpp"
#include "dsv3/generate/random.hpp"
#include "dsv3/generate/truncation.hpp"

namespace dsv3::inline DSV3_ISA {

/// How tokens are chosen. The defaults choose the likeliest token.
struct SamplingOptions {
  double temperature = 0;  ///< 0 chooses the likeliest token
  Index top_k = 0;         ///< 0: no limit
  double top_p = 1;
  double min_p = 0;
  double repetition_penalty = 1;  ///< of tokens in prompt and answer; above 1 disfavours
  double presence_penalty = 0, frequency_penalty = 0;
  std::vector<std::pair<int, float>> logit_bias{};  ///< token id, added to its logit
  std::uint64_t seed = 0;
};

/// Throws: Error that names the first setting outside its range, or an id outside the vocabulary of `vocab` tokens.
inline void validate(const SamplingOptions& o, Index vocab) {
  const auto check = [](bool good, const char* name, const char* expected, double found) {
    require(good, "sampling: ", name, ": expected ", expected, ", got ", found);
  };
  check(o.temperature >= 0 && std::isfinite(o.temperature), "temperature", "a number of at least 0", o.temperature);
  check(o.top_k >= 0, "top_k", "at least 0", static_cast<double>(o.top_k));
  check(o.top_p >= 0 && o.top_p <= 1, "top_p", "a number from 0 to 1", o.top_p);
  check(o.min_p >= 0 && o.min_p <= 1, "min_p", "a number from 0 to 1", o.min_p);
  check(o.repetition_penalty > 0 && o.repetition_penalty <= 1e6, "repetition_penalty", "a number above 0, at most 1e6",
        o.repetition_penalty);
  check(std::abs(o.presence_penalty) <= 1e6, "presence_penalty", "a number from -1e6 to 1e6", o.presence_penalty);
  check(std::abs(o.frequency_penalty) <= 1e6, "frequency_penalty", "a number from -1e6 to 1e6", o.frequency_penalty);
  for (const auto& [id, value] : o.logit_bias) {
    require(id >= 0 && id < vocab, "sampling: logit_bias: expected token ids in [0, ", vocab, "), got ", id);
    check(std::abs(value) <= 1e6f || value == excluded, "logit_bias", "values from -1e6 to 1e6, or -infinity", static_cast<double>(value));
  }
}

namespace sampling {

/// Logit processors one after the other.
class Pipeline {
 public:
  Pipeline() = default;
  /// The processors for `o`, which must be valid, with `own` before temperature. Processors that would change nothing are left out.
  explicit Pipeline(const SamplingOptions& o, std::vector<AnyLogitProcessor> own = {}) {
    if (!o.logit_bias.empty()) add(LogitBias{o.logit_bias});
    if (o.repetition_penalty != 1) add(RepetitionPenalty(static_cast<float>(o.repetition_penalty)));
    if (o.presence_penalty != 0 || o.frequency_penalty != 0)
      add(CountPenalty(static_cast<float>(o.presence_penalty), static_cast<float>(o.frequency_penalty)));
    for (auto& processor : own) add(std::move(processor));
    if (o.temperature == 0) {
      add(OnlyLikeliest{});
      return;
    }
    add(Scale{o.temperature});
    if (o.top_k > 0) add(TopK(o.top_k));
    if (o.top_p < 1) add(TopP(o.top_p));
    if (o.min_p > 0) add(MinP{o.min_p});
  }

  void add(AnyLogitProcessor processor) { processors_.push_back(std::move(processor)); }

  void operator()(const TextSoFar& text, std::span<float> logits) {
    for (auto& processor : processors_) processor(text, logits);
  }

  /// The distribution p [S] of the token after `text`, from its `logits` [S], which stay unchanged.
  /// Throws: as probabilities(), and what a processor throws.
  void distribution(const TextSoFar& text, std::span<const float> logits, std::vector<double>& p) {
    processed_.assign(logits.begin(), logits.end());
    (*this)(text, processed_);
    probabilities(processed_, p);
  }

 private:
  std::vector<AnyLogitProcessor> processors_;
  std::vector<float> processed_;
};

}  // namespace sampling

/// A whole pipeline as a Sampler of the plain loop, generate(). It remembers the text: one object serves one answer.
class PipelineSampler {
 public:
  /// `prompt` is what penalties and processors see before the answer. Throws: as validate().
  PipelineSampler(const SamplingOptions& options, Index vocab, std::span<const int> prompt = {}, std::vector<AnyLogitProcessor> own = {})
      : seed_(options.seed), ids_(prompt.begin(), prompt.end()), prompt_tokens_(prompt.size()) {
    validate(options, vocab);
    pipeline_ = sampling::Pipeline(options, std::move(own));
  }

  int operator()(std::span<const float> logits) {
    pipeline_.distribution({ids_, prompt_tokens_}, logits, p_);
    const auto token = static_cast<Index>(ids_.size() - prompt_tokens_);
    ids_.push_back(sampling::draw(p_, sampling::uniform(seed_, token, sampling::Draw::choice)));
    return ids_.back();
  }

 private:
  std::uint64_t seed_;
  std::vector<int> ids_;
  std::size_t prompt_tokens_;
  sampling::Pipeline pipeline_;
  std::vector<double> p_;
};

}  // namespace dsv3::inline DSV3_ISA
