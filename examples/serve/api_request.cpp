#include <limits>
#include <random>

#include "api_request_common.hpp"
#include "dsv3/generate/gbnf.hpp"
#include "dsv3/io/json_schema.hpp"

namespace serve::inline DSV3_ISA {
namespace {

std::uint64_t fresh_seed() {
  static std::atomic<std::uint64_t> next = (std::uint64_t{std::random_device{}()} << 32) | std::random_device{}();
  return next += 0x9E3779B97F4A7C15;  // any odd number: no seed comes twice
}

constexpr std::size_t most_stop_strings = 64;  // each is looked for in every piece of text; OpenAI takes 4

std::vector<std::string> read_stop(const Fields& fields) {
  const Json* stop = fields.find("stop");
  if (stop == nullptr) return {};
  std::vector<std::string> strings;
  if (stop->is_string()) strings.push_back(*stop);
  if (stop->is_array())
    for (const Json& s : *stop) {
      if (!s.is_string()) fields.wrong_type("stop", "a string or an array of strings");
      strings.push_back(s);
    }
  if (!stop->is_string() && !stop->is_array()) fields.wrong_type("stop", "a string or an array of strings");
  std::erase(strings, std::string());  // clients send them for "none"
  if (strings.size() > most_stop_strings) fields.wrong_value("stop", "at most " + std::to_string(most_stop_strings) + " strings");
  return strings;
}

std::vector<std::pair<int, float>> read_logit_bias(const Fields& fields, dsv3::Index vocab) {
  std::vector<std::pair<int, float>> bias;
  const Fields entries = fields.object("logit_bias");
  for (const auto& [key, value] : entries.json().items()) {
    int id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0 || id >= vocab)
      fields.wrong_value("logit_bias", "token ids below " + std::to_string(vocab) + " as keys");
    bias.emplace_back(id, static_cast<float>(entries.number(key.c_str(), 0, -100, 100)));
  }
  return bias;
}

}  // namespace

Json parse_body(const std::string& body) {
  if (const auto valid = dsv3::io::valid_utf8_prefix(body); valid != body.size())
    throw ApiError(400, "The request body is not valid UTF-8: invalid sequence at byte " + std::to_string(valid) + ".", {}, "invalid_utf8");
  try {
    Json json = dsv3::io::parse_json(body, "The request body");
    if (!json.is_object()) throw ApiError(400, "The request body: expected a JSON object.", {}, "invalid_json");
    return json;
  } catch (const dsv3::Error& e) {
    throw ApiError(400, e.what(), {}, "invalid_json");
  }
}

void read_common(const Service& service, const Fields& fields, ApiRequest& request, dsv3::Request& model) {
  const Json& name = fields.required("model");
  if (!name.is_string()) fields.wrong_type("model", "a string");
  if (name != service.name) throw ApiError(404, "The model " + text_of(name) + " does not exist.", "model", "model_not_found");

  auto& s = model.sampling;
  s.temperature = fields.number("temperature", 1, 0, 2);
  s.top_p = fields.number("top_p", 1, 0, 1);
  s.presence_penalty = fields.number("presence_penalty", 0, -2, 2);
  s.frequency_penalty = fields.number("frequency_penalty", 0, -2, 2);
  s.logit_bias = read_logit_bias(fields, service.config.vocab_size);
  s.seed = fields.find("seed") == nullptr ? fresh_seed()
                                          : static_cast<std::uint64_t>(fields.integer("seed", 0, std::numeric_limits<std::int64_t>::min(),
                                                                                      std::numeric_limits<std::int64_t>::max()));
  // Not OpenAI's, but common: under the names other servers give them.
  s.top_k = std::max<std::int64_t>(0, fields.integer("top_k", 0, -1, 1 << 30));
  s.min_p = fields.number("min_p", 0, 0, 1);
  s.repetition_penalty = fields.number("repetition_penalty", 1, 0.01, 100);

  model.stop_strings = read_stop(fields);
  request.n = fields.integer("n", 1, 1, service.limits.choices);
  request.stream = fields.boolean("stream", false);
  request.include_usage = fields.object("stream_options").boolean("include_usage", false);
}

void set_prompt(const Service& service, dsv3::Request& model, std::vector<int> prompt, std::int64_t wanted, const char* prompt_field) {
  const auto context = service.engine->options().max_tokens, tokens = static_cast<dsv3::Index>(prompt.size());
  const auto too_long = [&](const std::string& what) {
    throw ApiError(400, "This model's maximum context length is " + std::to_string(context) + " tokens. However, " + what, prompt_field,
                   "context_length_exceeded");
  };
  if (tokens >= context) too_long("your messages resulted in " + std::to_string(tokens) + " tokens.");
  if (tokens + wanted > context)
    too_long("you requested " + std::to_string(tokens + wanted) + " tokens (" + std::to_string(tokens) + " in the prompt, " +
             std::to_string(wanted) + " for the answer).");
  const auto most = service.limits.max_new_tokens > 0 ? std::min(service.limits.max_new_tokens, context - tokens) : context - tokens;
  model.max_new_tokens = wanted > 0 ? wanted : most;
  model.prompt = std::move(prompt);
}

void constrain(const Service& service, dsv3::Request& model, const std::string& gbnf, const std::string& field,
               const std::shared_ptr<const dsv3::grammar::TokenTexts>& texts, std::optional<int> after) {
  try {
    dsv3::GrammarMask mask(texts, dsv3::grammar::parse_gbnf(gbnf), service.config.eos_token_id, after);
    model.processors.push_back(dsv3::sampling::Masked<dsv3::GrammarMask>(std::move(mask)));
  } catch (const dsv3::Error& e) {
    throw ApiError(400, "Invalid value for '" + field + "': " + e.what(), field, "invalid_value");
  }
}

const char* grammar_field(const Fields& fields) { return fields.find("grammar") != nullptr ? "grammar" : "response_format"; }

std::string response_grammar(const Fields& fields, const std::string& body) {
  if (fields.find("grammar") != nullptr) return fields.text("grammar", {});  // GBNF itself, as an extension
  if (fields.find("response_format") == nullptr) return {};
  const Fields format = fields.object("response_format");
  const std::string type = format.text("type", "");
  if (type == "text") return {};
  if (type == "json_object") return dsv3::io::json_schema_grammar(Json{{"type", "object"}});
  if (type != "json_schema") format.wrong_value("type", "'text', 'json_object' or 'json_schema'");
  const Fields json_schema = format.object("json_schema");
  const Json& schema = json_schema.required("schema");
  if (!schema.is_object()) format.object("json_schema").wrong_type("schema", "an object");
  try {
    return dsv3::io::json_schema_grammar(nlohmann::ordered_json::parse(body)["response_format"]["json_schema"]["schema"]);
  } catch (const dsv3::Error& e) {
    throw ApiError(400, std::string("Invalid schema for response_format: ") + e.what(), "response_format", "invalid_value");
  }
}

ApiRequest parse_completion(const Service& service, const std::string& body) {
  const Json json = parse_body(body);
  const Fields fields(json);
  ApiRequest request;
  dsv3::Request model;
  read_common(service, fields, request, model);
  if (!fields.text("suffix", "").empty()) fields.wrong_value("suffix", "none: this model completes at the end only");
  if (fields.integer("best_of", request.n, 1, 1000) != request.n) fields.wrong_value("best_of", "the value of n");
  if (fields.find("logprobs") != nullptr) {
    model.log_probabilities = fields.integer("logprobs", 0, 0, most_top_log_probabilities);
    request.log_probabilities = true;
  }
  const bool echo = fields.boolean("echo", false);
  if (echo && request.log_probabilities) fields.wrong_value("echo", "false together with logprobs");
  if (const std::string gbnf = response_grammar(fields, body); !gbnf.empty())
    constrain(service, model, gbnf, grammar_field(fields), service.token_texts);
  const auto wanted = fields.integer("max_tokens", 16, 1, service.limits.max_new_tokens > 0 ? service.limits.max_new_tokens : 1 << 30);

  // A text, several, ids, or several lists of ids.
  const Json& prompt = fields.required("prompt");
  const auto is_ids = [](const Json& list) {
    return list.is_array() && !list.empty() && std::all_of(list.begin(), list.end(), [](const Json& v) { return v.is_number_integer(); });
  };
  const Json prompts = prompt.is_string() || is_ids(prompt) ? Json::array({prompt}) : prompt;
  if (!prompts.is_array()) fields.wrong_type("prompt", "a string, an array of strings, or arrays of token ids");
  if (prompts.empty()) fields.wrong_value("prompt", "at least one prompt");
  if (static_cast<dsv3::Index>(prompts.size()) * request.n > service.limits.choices)
    fields.wrong_value("prompt", "at most " + std::to_string(service.limits.choices) + " answers, prompts times n");
  for (const Json& p : prompts) {
    if (!p.is_string() && !is_ids(p)) fields.wrong_type("prompt", "a string, an array of strings, or arrays of token ids");
    std::vector<int> ids;
    if (p.is_string())
      ids = service.text.encode(p.get_ref<const std::string&>());
    else
      for (const Json& id : p) {
        const auto value = id.get<double>();
        if (!(value >= 0 && value < static_cast<double>(service.config.vocab_size)))
          fields.wrong_value("prompt", "token ids below " + std::to_string(service.config.vocab_size));
        ids.push_back(id.get<int>());
      }
    if (ids.empty()) fields.wrong_value("prompt", "prompts that are not empty");
    if (echo) {
      std::string text;
      for (const int id : ids) text += service.text.text_of(id);
      request.echo.push_back(p.is_string() ? p.get<std::string>() : text);
    }
    request.prompts.push_back(model);
    set_prompt(service, request.prompts.back(), std::move(ids), wanted, "prompt");
  }
  return request;
}

}  // namespace serve::inline DSV3_ISA
