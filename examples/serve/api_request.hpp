// Requests of OpenAI's API as what the engine is asked for, checked before anything is computed.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "api_error.hpp"
#include "dsv3/core/isa.hpp"
#include "dsv3/generate/chat_parser.hpp"
#include "service.hpp"

namespace serve::inline DSV3_ISA {

/// A request for completions or chat completions.
struct ApiRequest {
  bool chat = false;
  std::vector<dsv3::Request> prompts;  ///< one for each prompt; a chat has one
  std::vector<std::string> echo;       ///< completions: what each answer begins with, if asked for without logprobs
  dsv3::Index n = 1;                   ///< answers to each prompt
  dsv3::Index best_of = 1;  ///< answers that are computed for each prompt, whose seeds follow one another: the n likeliest are told
  bool stream = false, include_usage = false;
  bool starts_thinking = false;  ///< chat: the answer begins inside its reasoning
  bool log_probabilities = false;
  dsv3::Index top_log_probabilities = 0;                ///< likeliest tokens told with each
  bool echo_log_probabilities = false;                  ///< completions: those of the prompt's tokens too, which the answer begins with
  std::optional<dsv3::Index> prompt_log_probabilities;  ///< as a list of their own, with this many likeliest tokens
  dsv3::CallSyntax calls{};                             ///< chat: how calls are told in an answer
  std::string prefill, closing;  ///< chat: what a forced tool call begins and ends with, beside what the model writes
};

/// POST /tokenize: {"prompt"} or {"messages"}; POST /detokenize: {"tokens"}. As vLLM has them.
Json tokenize(const Service& service, const std::string& body);
Json detokenize(const Service& service, const std::string& body);

/// Parses and checks the body of POST /v1/completions or /v1/chat/completions.
/// Throws: ApiError with status 400, or 404 for another model's name.
ApiRequest parse_completion(const Service& service, const std::string& body);
ApiRequest parse_chat_completion(const Service& service, const std::string& body);

}  // namespace serve::inline DSV3_ISA
