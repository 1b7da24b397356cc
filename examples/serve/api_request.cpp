#include <limits>
#include <random>

#include "api_request_common.hpp"
#include "dsv3/generate/gbnf.hpp"
#include "dsv3/generate/gbnf_writer.hpp"
#include "dsv3/io/json_schema.hpp"

namespace serve::inline DSV3_ISA {
namespace {

std::uint64_t fresh_seed() {
  static std::atomic<std::uint64_t> next = (std::uint64_t{std::random_device{}()} << 32) | std::random_device{}();
  return next += 0x9E3779B97F4A7C15;  // any odd number: no seed comes twice
}

constexpr std::size_t max_stop_strings = 64;  // each is looked for in every piece of text; OpenAI takes 4

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
  if (strings.size() > max_stop_strings) fields.wrong_value("stop", "at most " + std::to_string(max_stop_strings) + " strings");
  return strings;
}

/// No token of `tokens` before the answer has `least` tokens.
dsv3::AnyLogitProcessor at_least(dsv3::Index least, std::vector<int> tokens) {
  return [least, tokens = std::move(tokens)](const dsv3::TextSoFar& text, std::span<float> logits) {
    if (static_cast<dsv3::Index>(text.generated().size()) >= least) return;
    for (const int id : tokens) logits[static_cast<std::size_t>(id)] = dsv3::excluded;
  };
}

/// stop_token_ids, ignore_eos and min_tokens, as vLLM has them.
void read_stop_tokens(const Service& service, const Fields& fields, dsv3::Request& model) {
  std::vector<int> stop;
  if (!fields.boolean("ignore_eos", false)) stop = service.config.eos_token_id;
  if (const Json* more = fields.find("stop_token_ids")) {
    if (!more->is_array()) fields.wrong_type("stop_token_ids", "an array of token ids");
    for (const int id : read_ids(service, fields, "stop_token_ids", *more)) stop.push_back(id);
  }
  const auto least = fields.integer("min_tokens", 0, 0, service.engine->options().max_tokens);
  if (least > 0) model.processors.push_back(at_least(least, stop));
  model.stop_tokens = std::move(stop);
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

void check_model(const Service& service, const Fields& fields) {
  const Json& name = fields.required("model");
  if (!name.is_string()) fields.wrong_type("model", "a string");
  if (name != service.name) throw ApiError(404, "The model " + text_of(name) + " does not exist.", "model", "model_not_found");
}

void read_common(const Service& service, const Fields& fields, ApiRequest& request, dsv3::Request& model) {
  check_model(service, fields);
  auto& s = model.sampling;
  s.temperature = fields.number("temperature", service.defaults.temperature.value_or(1), 0, 2);
  s.top_p = fields.number("top_p", service.defaults.top_p.value_or(1), 0, 1);
  s.presence_penalty = fields.number("presence_penalty", 0, -2, 2);
  s.frequency_penalty = fields.number("frequency_penalty", 0, -2, 2);
  s.logit_bias = read_logit_bias(fields, service.config.vocab_size);
  s.seed = fields.find("seed") == nullptr ? fresh_seed()
                                          : static_cast<std::uint64_t>(fields.integer("seed", 0, std::numeric_limits<std::int64_t>::min(),
                                                                                      std::numeric_limits<std::int64_t>::max()));
  // Not OpenAI's, but common: under the names other servers give them.
  s.top_k = std::max<std::int64_t>(0, fields.integer("top_k", service.defaults.top_k.value_or(0), -1, 1 << 30));
  s.min_p = fields.number("min_p", 0, 0, 1);
  s.repetition_penalty = fields.number("repetition_penalty", 1, 0.01, 100);

  model.stop_strings = read_stop(fields);
  read_stop_tokens(service, fields, model);
  request.n = request.best_of = fields.integer("n", 1, 1, service.limits.choices);
  request.stream = fields.boolean("stream", false);
  request.include_usage = fields.object("stream_options").boolean("include_usage", false);
  if (fields.find("prompt_logprobs") != nullptr) {
    request.prompt_log_probabilities = fields.integer("prompt_logprobs", 0, 0, max_top_log_probabilities);
    model.log_probabilities = std::max(model.log_probabilities.value_or(0), *request.prompt_log_probabilities);
    model.report_prompt = true;
    if (request.stream) fields.wrong_value("prompt_logprobs", "none in a stream");
  }
}

void set_prompt(const Service& service, dsv3::Request& model, std::vector<int> prompt, std::optional<std::int64_t> wanted,
                const char* prompt_field) {
  const auto context = service.engine->options().max_tokens, room = context - static_cast<dsv3::Index>(prompt.size());
  if (room < (wanted == 0 ? 0 : 1))
    throw ApiError(400,
                   "This model's maximum context length is " + std::to_string(context) + " tokens. However, your messages resulted in " +
                       std::to_string(prompt.size()) + " tokens.",
                   prompt_field, "context_length_exceeded");
  model.max_new_tokens = std::min(room, wanted.value_or(room));
  if (service.limits.max_new_tokens > 0) model.max_new_tokens = std::min(model.max_new_tokens, service.limits.max_new_tokens);
  model.prompt = std::move(prompt);
}

std::vector<int> read_ids(const Service& service, const Fields& fields, const char* name, const Json& list) {
  std::vector<int> ids;
  for (const Json& id : list) {
    const double value = id.is_number_integer() ? id.get<double>() : -1;
    if (!(value >= 0 && value < static_cast<double>(service.config.vocab_size)))
      fields.wrong_value(name, "token ids below " + std::to_string(service.config.vocab_size));
    ids.push_back(id.get<int>());
  }
  return ids;
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

namespace {

using OrderedJson = nlohmann::ordered_json;

/// A schema as a grammar. Throws: ApiError that names the field, and the place in the schema.
std::string schema_grammar(const OrderedJson& schema, const std::string& field) {
  try {
    return dsv3::io::json_schema_grammar(schema);
  } catch (const dsv3::Error& e) {
    throw ApiError(400, "Invalid schema for " + field + ": " + e.what(), field, "invalid_value");
  }
}

/// response_format, as OpenAI has it.
std::string format_grammar(const Fields& fields, const std::string& body) {
  const Fields format = fields.object("response_format");
  const std::string type = format.text("type", "");
  if (type == "text") return {};
  if (type == "json_object") return dsv3::io::json_schema_grammar(Json{{"type", "object"}});
  if (type != "json_schema") format.wrong_value("type", "'text', 'json_object' or 'json_schema'");
  const Fields json_schema = format.object("json_schema");
  const Json& schema = json_schema.required("schema");
  if (!schema.is_object()) json_schema.wrong_type("schema", "an object");
  return schema_grammar(OrderedJson::parse(body)["response_format"]["json_schema"]["schema"], "response_format");
}

/// A schema, or its text, as other servers have it.
std::string given_schema(const Fields& fields, const char* name, const OrderedJson& value) {
  if (!value.is_string() && !value.is_object()) fields.wrong_type(name, "a JSON schema, or one as a string");
  if (value.is_object()) return schema_grammar(value, fields.prefix() + name);
  const OrderedJson schema = OrderedJson::parse(value.get<std::string>(), nullptr, false);
  if (!schema.is_object()) fields.wrong_value(name, "a JSON schema, or one as a string");
  return schema_grammar(schema, fields.prefix() + name);
}

std::string choice_grammar(const Fields& fields, const char* name) {
  const Json& list = fields.required(name);
  const bool strings = list.is_array() && std::all_of(list.begin(), list.end(), [](const Json& v) { return v.is_string(); });
  if (!strings) fields.wrong_type(name, "an array of strings");
  const auto choices = list.get<std::vector<std::string>>();
  if (choices.empty()) fields.wrong_value(name, "at least one string");
  return dsv3::grammar::any_text(choices);
}

}  // namespace

Structure response_structure(const Fields& fields, const std::string& body) {
  std::vector<Structure> found;
  const auto add = [&](const Fields& in, const char* name, auto grammar) {
    if (in.find(name) != nullptr) found.push_back({grammar(), in.prefix() + name});
  };
  add(fields, "response_format", [&] { return format_grammar(fields, body); });
  add(fields, "grammar", [&] { return fields.text("grammar", {}); });  // GBNF, as llama.cpp's server has it
  const Fields outputs = fields.object("structured_outputs");
  const auto ordered = [&] { return OrderedJson::parse(body); };
  const auto refuse = [](const Fields& in, const char* name) {
    if (in.find(name) != nullptr) in.wrong_value(name, "none: this server holds answers to JSON schemas, choices and grammars (GBNF)");
  };
  // vLLM's, and the names that they had before.
  for (const char* name : {"guided_regex", "guided_whitespace_pattern", "structural_tag"}) refuse(fields, name);
  for (const char* name : {"regex", "structural_tag", "whitespace_pattern"}) refuse(outputs, name);
  add(fields, "guided_json", [&] { return given_schema(fields, "guided_json", ordered()["guided_json"]); });
  add(outputs, "json", [&] { return given_schema(outputs, "json", ordered()["structured_outputs"]["json"]); });
  add(fields, "guided_choice", [&] { return choice_grammar(fields, "guided_choice"); });
  add(outputs, "choice", [&] { return choice_grammar(outputs, "choice"); });
  add(fields, "guided_grammar", [&] { return fields.text("guided_grammar", {}); });
  add(outputs, "grammar", [&] { return outputs.text("grammar", {}); });
  if (outputs.boolean("json_object", false))
    found.push_back({dsv3::io::json_schema_grammar(Json{{"type", "object"}}), "structured_outputs.json_object"});
  std::erase_if(found, [](const Structure& s) { return s.gbnf.empty(); });
  if (found.size() > 1)
    throw ApiError(400, "Invalid value for '" + found[1].field + "': expected none beside '" + found[0].field + "'.", found[1].field,
                   "invalid_value");
  return found.empty() ? Structure{} : found[0];
}

ApiRequest parse_completion(const Service& service, const std::string& body) {
  const Json json = parse_body(body);
  const Fields fields(json);
  ApiRequest request;
  dsv3::Request model;
  read_common(service, fields, request, model);
  if (!fields.text("suffix", "").empty()) fields.wrong_value("suffix", "none: this model completes at the end only");
  if (fields.find("logprobs") != nullptr) {
    request.log_probabilities = true;
    request.top_log_probabilities = fields.integer("logprobs", 0, 0, max_top_log_probabilities);
    model.log_probabilities = std::max(model.log_probabilities.value_or(0), request.top_log_probabilities);
  }
  request.best_of = fields.integer("best_of", request.n, request.n, service.limits.choices);
  if (request.best_of > request.n) {
    if (request.stream) fields.wrong_value("best_of", "the value of n in a stream");
    model.log_probabilities = model.log_probabilities.value_or(0);  // to choose by
  }
  const bool echo = fields.boolean("echo", false);
  request.echo_log_probabilities = echo && request.log_probabilities;
  if (request.echo_log_probabilities) model.report_prompt = true;
  if (const Structure s = response_structure(fields, body); !s.gbnf.empty())
    constrain(service, model, s.gbnf, s.field, service.token_texts);
  const auto wanted = fields.integer("max_tokens", 16, echo || model.report_prompt ? 0 : 1, std::numeric_limits<std::int64_t>::max());

  // A text, several, ids, or several lists of ids.
  const Json& prompt = fields.required("prompt");
  const auto is_ids = [](const Json& list) {
    return list.is_array() && !list.empty() && std::all_of(list.begin(), list.end(), [](const Json& v) { return v.is_number_integer(); });
  };
  const Json prompts = prompt.is_string() || is_ids(prompt) ? Json::array({prompt}) : prompt;
  if (!prompts.is_array()) fields.wrong_type("prompt", "a string, an array of strings, or arrays of token ids");
  if (prompts.empty()) fields.wrong_value("prompt", "at least one prompt");
  if (static_cast<dsv3::Index>(prompts.size()) * request.best_of > service.limits.choices)
    fields.wrong_value("prompt", "at most " + std::to_string(service.limits.choices) + " answers, prompts times n or best_of");
  for (const Json& p : prompts) {
    if (!p.is_string() && !is_ids(p)) fields.wrong_type("prompt", "a string, an array of strings, or arrays of token ids");
    std::vector<int> ids = p.is_string() ? service.text.encode(p.get_ref<const std::string&>()) : read_ids(service, fields, "prompt", p);
    if (ids.empty()) fields.wrong_value("prompt", "prompts that are not empty");
    if (echo && !request.echo_log_probabilities) request.echo.push_back(p.is_string() ? p.get<std::string>() : service.text.text_of(ids));
    request.prompts.push_back(model);
    set_prompt(service, request.prompts.back(), std::move(ids), wanted, "prompt");
  }
  return request;
}

}  // namespace serve::inline DSV3_ISA
