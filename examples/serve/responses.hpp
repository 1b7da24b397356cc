// Answers as OpenAI's API tells them: whole, or in chunks.
#pragma once

#include <ctime>
#include <string>
#include <vector>

#include "answers.hpp"
#include "dsv3/generate/chat_parser.hpp"
#include "dsv3/io/utf8_stream.hpp"

namespace serve::inline DSV3_ISA {

/// Turns events into JSON. One object serves one request.
class ResponseWriter {
 public:
  ResponseWriter(const Service& service, const ApiRequest& request, std::size_t answers);

  /// Takes an event and returns the chunk that tells of it; null if there is nothing to tell yet.
  Json take(const Event& event);
  /// Chunks that come before any event: the role in which a chat is answered, or the echo of a prompt.
  std::vector<Json> first_chunks() const;
  /// The chunk after all others that tells the usage.
  Json usage_chunk(const Answers& answers) const;
  /// The whole response, once all answers have ended.
  Json whole(const Answers& answers) const;

 private:
  struct Answer {
    dsv3::io::Utf8Stream characters{};
    dsv3::ChatParser parser{};
    std::string text, reasoning, finish_reason{};  // text: of a completion, or a chat's content
    Json calls = Json::array(), log_probabilities = Json::array(), prompt_log_probabilities = Json::array();
    std::size_t text_offset = 0;  // of the next token, for completions' logprobs
    double log_probability = 0;   // of all tokens
    dsv3::Index tokens = 0;
  };

  Json take_chat(Answer& answer, const Event& event, const std::string& text);
  Json take_completion(Answer& answer, const Event& event, const std::string& text);
  void take_prompt(Answer& answer, const Event& event) const;
  Json log_probabilities(const Event& event) const;
  static Json completion_log_probabilities(const Json& tokens);
  /// The answers that are told: of those to one prompt, the likeliest n.
  std::vector<std::size_t> chosen() const;
  Json chunk(std::size_t answer, Json choice) const;
  Json envelope(const char* object) const;
  static Json usage(const Answers& answers);
  std::string shown(int id) const;

  const Service& service_;
  const ApiRequest& request_;
  std::string id_;
  std::time_t created_;
  std::vector<Answer> answers_;
};

}  // namespace serve::inline DSV3_ISA
