#include "responses.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace serve::inline DSV3_ISA {
namespace {

std::string random_id(const char* prefix) {
  static thread_local std::mt19937_64 random{(std::uint64_t{std::random_device{}()} << 32) | std::random_device{}()};
  constexpr std::string_view letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
  std::string id = prefix;
  for (int i = 0; i < 24; ++i) id += letters[random() % letters.size()];
  return id;
}

const char* name(dsv3::FinishReason reason, bool called) {
  if (reason == dsv3::FinishReason::max_new_tokens || reason == dsv3::FinishReason::cache_full) return "length";
  return called ? "tool_calls" : "stop";
}

/// Unicode characters that begin in the text.
std::size_t characters_of(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

/// JSON has no infinity.
double finite(double value) { return std::max(value, -9999.0); }

}  // namespace

ResponseWriter::ResponseWriter(const Service& service, const ApiRequest& request, std::size_t answers)
    : service_(service),
      request_(request),
      id_(random_id(request.chat ? "chatcmpl-" : "cmpl-")),
      created_(std::time(nullptr)),
      answers_(answers) {
  for (std::size_t i = 0; i < answers; ++i) {
    answers_[i].parser = dsv3::ChatParser(request.starts_thinking, request.calls);
    if (!request.prefill.empty()) (void)answers_[i].parser.push(request.prefill);  // the client has it
    if (!request.echo.empty()) answers_[i].text = request.echo[i / static_cast<std::size_t>(request.best_of)];
  }
}

Json ResponseWriter::take(const Event& event) {
  Answer& answer = answers_[event.answer];
  if (event.index < 0 && request_.prompt_log_probabilities) take_prompt(answer, event);
  if (event.index < 0 && !request_.echo_log_probabilities) return {};
  std::string text = answer.characters.push(event.text);
  if (event.finish) text += answer.characters.finish();
  Json choice = request_.chat ? take_chat(answer, event, text) : take_completion(answer, event, text);
  if (event.finish) {
    answer.finish_reason = name(event.finish->reason, !answer.calls.empty());
    choice["finish_reason"] = answer.finish_reason;
  }
  const bool says_nothing =
      choice.value("text", "").empty() && choice.value("delta", Json::object()).empty() && !choice.contains("logprobs");
  return says_nothing && !event.finish ? Json() : chunk(event.answer, std::move(choice));
}

Json ResponseWriter::take_chat(Answer& answer, const Event& event, const std::string& text) {
  dsv3::ChatDelta delta = answer.parser.push(text);
  if (event.finish) {
    const auto append = [&](dsv3::ChatDelta more) {
      delta.reasoning += more.reasoning;
      delta.content += more.content;
      delta.tool_calls.insert(delta.tool_calls.end(), more.tool_calls.begin(), more.tool_calls.end());
    };
    append(answer.parser.push(request_.closing));
    append(answer.parser.finish());
  }
  answer.reasoning += delta.reasoning;
  answer.text += delta.content;
  Json choice{{"delta", Json::object()}};
  if (!delta.reasoning.empty()) choice["delta"]["reasoning_content"] = delta.reasoning;
  if (!delta.content.empty()) choice["delta"]["content"] = delta.content;
  for (const auto& call : delta.tool_calls) {
    Json json{{"id", random_id("call_")}, {"type", "function"}, {"function", {{"name", call.name}, {"arguments", call.arguments}}}};
    answer.calls.push_back(json);
    json["index"] = answer.calls.size() - 1;
    choice["delta"]["tool_calls"].push_back(std::move(json));
  }
  if (request_.log_probabilities && event.log_probabilities && !event.finish) {
    const Json token = log_probabilities(event);
    answer.log_probabilities.push_back(token);
    choice["logprobs"] = {{"content", Json::array({token})}};
  }
  return choice;
}

Json ResponseWriter::take_completion(Answer& answer, const Event& event, const std::string& text) {
  answer.text += text;
  Json choice{{"text", text}};
  if (event.log_probabilities && event.index >= 0) {
    answer.log_probability += event.log_probabilities->chosen;
    ++answer.tokens;
  }
  // A prompt's first token has no probability, and a stop token, whose text is not told, has one: evaluations count on an entry for both.
  if (request_.log_probabilities && event.id >= 0) {
    Json token = log_probabilities(event);
    token["text_offset"] = answer.text_offset;
    if (!event.finish) answer.text_offset += characters_of(event.text);
    answer.log_probabilities.push_back(token);
    choice["logprobs"] = completion_log_probabilities(Json::array({token}));
  }
  return choice;
}

void ResponseWriter::take_prompt(Answer& answer, const Event& event) const {
  Json token;  // null for the first
  if (const auto& log = event.log_probabilities) {
    const auto add = [&](int id, double value, dsv3::Index rank) {
      token[std::to_string(id)] = {{"logprob", finite(value)}, {"rank", rank}, {"decoded_token", shown(id)}};
    };
    dsv3::Index rank = 0;
    for (const auto& [id, value] : log->top)
      if (rank < *request_.prompt_log_probabilities) add(id, value, ++rank);
    add(event.id, log->chosen, log->rank);
  }
  answer.prompt_log_probabilities.push_back(std::move(token));
}

std::string ResponseWriter::shown(int id) const {
  dsv3::io::Utf8Stream characters;
  return characters.push(service_.text.text_of(id)) + characters.finish();
}

Json ResponseWriter::log_probabilities(const Event& event) const {
  const auto entry = [&](int id, const Json& value) {
    Json bytes = Json::array();
    for (const char c : service_.text.text_of(id)) bytes.push_back(static_cast<int>(static_cast<unsigned char>(c)));
    return Json{{"token", shown(id)}, {"logprob", value}, {"bytes", std::move(bytes)}};
  };
  if (!event.log_probabilities) return entry(event.id, nullptr);
  Json token = entry(event.id, finite(event.log_probabilities->chosen));
  token["top_logprobs"] = Json::array();
  for (const auto& [id, value] : event.log_probabilities->top)
    if (static_cast<dsv3::Index>(token["top_logprobs"].size()) < request_.top_log_probabilities)
      token["top_logprobs"].push_back(entry(id, finite(value)));
  return token;
}

Json ResponseWriter::completion_log_probabilities(const Json& tokens) {
  Json out{{"tokens", Json::array()}, {"token_logprobs", Json::array()}, {"top_logprobs", Json::array()}, {"text_offset", Json::array()}};
  for (const Json& token : tokens) {
    out["tokens"].push_back(token["token"]);
    out["token_logprobs"].push_back(token["logprob"]);
    out["text_offset"].push_back(token["text_offset"]);
    Json top;
    if (!token["logprob"].is_null()) {
      top = Json::object();
      for (const Json& other : token["top_logprobs"]) top[other["token"].get<std::string>()] = other["logprob"];
    }
    out["top_logprobs"].push_back(std::move(top));
  }
  return out;
}

Json ResponseWriter::envelope(const char* object) const {
  return {{"id", id_}, {"object", object}, {"created", created_}, {"model", service_.name}};
}

Json ResponseWriter::chunk(std::size_t answer, Json choice) const {
  choice["index"] = answer;
  if (!choice.contains("finish_reason")) choice["finish_reason"] = nullptr;
  if (!choice.contains("logprobs")) choice["logprobs"] = nullptr;
  Json json = envelope(request_.chat ? "chat.completion.chunk" : "text_completion");
  json["choices"] = Json::array({std::move(choice)});
  if (request_.include_usage) json["usage"] = nullptr;
  return json;
}

std::vector<Json> ResponseWriter::first_chunks() const {
  std::vector<Json> chunks;
  for (std::size_t i = 0; i < answers_.size(); ++i) {
    if (request_.chat) chunks.push_back(chunk(i, {{"delta", {{"role", "assistant"}, {"content", ""}}}}));
    if (!request_.echo.empty()) chunks.push_back(chunk(i, {{"text", answers_[i].text}}));
  }
  return chunks;
}

Json ResponseWriter::usage(const Answers& answers) {
  return {{"prompt_tokens", answers.prompt_tokens()},
          {"completion_tokens", answers.new_tokens()},
          {"total_tokens", answers.prompt_tokens() + answers.new_tokens()},
          {"prompt_tokens_details", {{"cached_tokens", answers.cached_tokens()}}}};
}

Json ResponseWriter::usage_chunk(const Answers& answers) const {
  Json json = envelope(request_.chat ? "chat.completion.chunk" : "text_completion");
  json["choices"] = Json::array();
  json["usage"] = usage(answers);
  return json;
}

std::vector<std::size_t> ResponseWriter::chosen() const {
  const auto n = static_cast<std::size_t>(request_.n), best_of = static_cast<std::size_t>(request_.best_of);
  const auto mean = [&](std::size_t i) {
    return answers_[i].log_probability / static_cast<double>(std::max(answers_[i].tokens, dsv3::Index{1}));
  };
  std::vector<std::size_t> all;
  for (std::size_t prompt = 0; prompt < answers_.size(); prompt += best_of) {
    std::vector<std::size_t> order(best_of);
    std::iota(order.begin(), order.end(), prompt);
    if (best_of > n) std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return mean(a) > mean(b); });
    all.insert(all.end(), order.begin(), order.begin() + static_cast<std::ptrdiff_t>(n));
  }
  return all;
}

Json ResponseWriter::whole(const Answers& answers) const {
  Json json = envelope(request_.chat ? "chat.completion" : "text_completion");
  json["choices"] = Json::array();
  for (const std::size_t i : chosen()) {
    const Answer& a = answers_[i];
    Json choice{{"index", json["choices"].size()}, {"finish_reason", a.finish_reason}, {"logprobs", nullptr}};
    if (request_.chat) {
      Json message{{"role", "assistant"}, {"content", a.text.empty() && !a.calls.empty() ? Json() : Json(a.text)}, {"refusal", nullptr}};
      if (!a.reasoning.empty()) message["reasoning_content"] = a.reasoning;
      if (!a.calls.empty()) message["tool_calls"] = a.calls;
      choice["message"] = std::move(message);
      if (request_.log_probabilities) choice["logprobs"] = {{"content", a.log_probabilities}};
    } else {
      choice["text"] = a.text;
      if (request_.log_probabilities) choice["logprobs"] = completion_log_probabilities(a.log_probabilities);
      if (request_.prompt_log_probabilities) choice["prompt_logprobs"] = a.prompt_log_probabilities;
    }
    json["choices"].push_back(std::move(choice));
  }
  if (request_.chat && request_.prompt_log_probabilities) json["prompt_logprobs"] = answers_[0].prompt_log_probabilities;
  json["usage"] = usage(answers);
  return json;
}

}  // namespace serve::inline DSV3_ISA
