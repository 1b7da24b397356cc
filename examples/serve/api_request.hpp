// Requests of OpenAI's API as what the engine is asked for, checked before anything is computed.
#pragma once

#include <string>
#include <vector>

#include "api_error.hpp"
#include "dsv3/core/isa.hpp"
#include "service.hpp"

namespace serve::inline DSV3_ISA {

/// A request for completions or chat completions.
struct ApiRequest {
  bool chat = false;
  std::vector<dsv3::Request> prompts;  ///< one for each prompt; a chat has one
  std::vector<std::string> echo;       ///< completions: what each answer begins with, if asked for
  dsv3::Index n = 1;                   ///< answers to each prompt; their seeds follow one another
  bool stream = false, include_usage = false;
  bool starts_thinking = false;  ///< chat: the answer begins inside its reasoning
  bool log_probabilities = false;
  std::string prefill, closing;  ///< chat: what a forced tool call begins and ends with, beside what the model writes
};

/// Parses and checks the body of POST /v1/completions or /v1/chat/completions.
/// Throws: ApiError with status 400, or 404 for another model's name.
ApiRequest parse_completion(const Service& service, const std::string& body);
ApiRequest parse_chat_completion(const Service& service, const std::string& body);

}  // namespace serve::inline DSV3_ISA
