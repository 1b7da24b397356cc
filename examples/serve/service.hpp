// What all requests share: the model's texts, the engine, limits and figures.
#pragma once

#include <atomic>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "../cli/text_model.hpp"
#include "dsv3/generate/grammar_mask.hpp"
#include "engine.hpp"
#include "metrics.hpp"

namespace serve::inline DSV3_ISA {

struct Limits {
  std::size_t body_bytes = std::size_t{4} << 20;
  dsv3::Index choices = 128;       ///< answers of one request
  dsv3::Index max_new_tokens = 0;  ///< of one answer; 0: what the context leaves
  double request_seconds = 600;    ///< from a request's arrival to the end of its answer
};

struct Service {
  std::string name;                          ///< of the model
  std::vector<std::string> api_keys;         ///< of which clients must send one; none: anyone may ask
  std::vector<std::string> allowed_origins;  ///< whose pages may read answers; "*" for any
  bool log_requests = false;
  Limits limits;
  dsv3::Config config;
  dsv3::io::GenerationConfig defaults;  ///< of sampling, where a request says nothing
  cli::TextModel text;
  std::unique_ptr<Engine> engine;
  std::shared_ptr<const dsv3::grammar::TokenTexts> token_texts;  ///< of tokens that grammars may allow: no control tokens
  std::shared_ptr<const dsv3::grammar::TokenTexts> call_texts;   ///< and the mark behind a tool's name (V3.1)
  Metrics metrics{};
  std::time_t started = std::time(nullptr);
  std::atomic<bool> draining = false;  ///< no new requests: the server is shutting down
};

}  // namespace serve::inline DSV3_ISA
