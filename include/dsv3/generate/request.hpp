// Floor 6. A request, the tokens of its answer, and the end of the answer.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dsv3/generate/log_probabilities.hpp"
#include "dsv3/generate/sampling.hpp"
#include "dsv3/generate/token_mask.hpp"

namespace dsv3::inline DSV3_ISA {

/// A text to be continued, and how.
struct Request {
  std::vector<int> prompt;
  Index max_new_tokens = 256;  ///< 0: the prompt is computed, and no token chosen
  SamplingOptions sampling{};
  std::vector<AnyLogitProcessor> processors{};    ///< the request's own, a mask for example; they act before temperature
  std::optional<std::vector<int>> stop_tokens{};  ///< end the text, are not reported; default: the configuration's eos_token_id
  std::vector<std::string> stop_strings{};        ///< the text ends before the first of them; need a TokenBytes
  std::optional<Index> log_probabilities{};       ///< report them for each token and for this many likeliest ones
  bool report_prompt = false;                     ///< report the prompt's tokens first; the whole prompt is then computed, cached or not
  static constexpr Index max_log_probabilities = 1000;
};

/// The bytes that a token id stands for; valid until the next call. Ids without text give none.
using TokenBytes = std::function<std::string_view(int id)>;

/// A token of an answer.
struct Token {
  int id = 0;
  Index index = 0;                ///< its place in the answer, from 0; of prompt tokens, from -prompt.size() to -1
  std::string text;               ///< bytes that are now final: without those that may start a stop string. Empty without a TokenBytes.
                                  ///< Stop strings are not looked for in the prompt
  std::span<const float> logits;  ///< [S], as the model gave them; valid during the call. The prompt's first token has none
  std::optional<sampling::LogProbabilities> log_probabilities;  ///< of the model's own distribution, if asked for and there are logits
};

/// Called for each token; returning false ends the answer.
using OnToken = std::function<bool(const Token&)>;

/// Why an answer ended. `cancelled`: by its callback or its owner; `cache_full`: no room for another token; `error`: Finish::error says
/// which.
enum class FinishReason { max_new_tokens, stop_token, stop_string, cancelled, cache_full, error };

struct GenerationStats {
  Index prompt_tokens = 0;
  Index cached_tokens = 0;  ///< of the prompt, found in a cache
  Index new_tokens = 0;     ///< reported
  Index passes = 0;         ///< passes over the weights that gave tokens
  Index drafted = 0;        ///< drafts that were compared with the model's choice
  Index accepted = 0;       ///< of these, the accepted ones

  double acceptance_rate() const { return drafted > 0 ? static_cast<double>(accepted) / static_cast<double>(drafted) : 0; }
  double tokens_per_pass() const { return passes > 0 ? static_cast<double>(new_tokens) / static_cast<double>(passes) : 0; }
};

/// The end of an answer.
struct Finish {
  FinishReason reason = FinishReason::max_new_tokens;
  std::string text;   ///< the last bytes, which had been held back
  std::string error;  ///< if reason is error
  GenerationStats stats;
  int stop_token = -1;  ///< if reason is stop_token: it, and below its log-probabilities if asked for; no token of the answer
  std::optional<sampling::LogProbabilities> stop_log_probabilities{};
};

}  // namespace dsv3::inline DSV3_ISA
