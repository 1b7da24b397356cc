#include <limits>

#include "api_request_common.hpp"
#include "dsv3/generate/gbnf.hpp"
#include "dsv3/io/json_call.hpp"
#include "dsv3/io/json_schema.hpp"

namespace serve::inline DSV3_ISA {
namespace {

using Role = dsv3::ChatMessage::Role;

/// A string, or an array of parts of type text.
std::optional<std::string> read_content(const Fields& message) {
  const Json* content = message.find("content");
  if (content == nullptr) return std::nullopt;
  if (content->is_string()) return content->get<std::string>();
  if (!content->is_array()) message.wrong_type("content", "a string or an array of parts");
  std::string text;
  for (const Json& part : *content) {
    if (!part.is_object()) message.wrong_type("content", "an array of objects");
    const Fields fields(part, message.prefix() + "content[].");
    if (fields.text("type", "") != "text") fields.wrong_value("type", "'text': this model reads nothing else");
    const Json& said = fields.required("text");
    if (!said.is_string()) fields.wrong_type("text", "a string");
    text += said.get_ref<const std::string&>();
  }
  return text;
}

std::vector<dsv3::ToolCall> read_calls(const Fields& message) {
  std::vector<dsv3::ToolCall> calls;
  const Json* list = message.find("tool_calls");
  if (list == nullptr) return calls;
  if (!list->is_array()) message.wrong_type("tool_calls", "an array");
  for (const Json& call : *list) {
    if (!call.is_object()) message.wrong_type("tool_calls", "an array of objects");
    const Fields fields(call, message.prefix() + "tool_calls[].");
    const Fields function = fields.object("function");
    if (function.text("name", "").empty()) function.required("name"), function.wrong_value("name", "a name");
    // OpenAI's arguments are JSON as text; some clients send the object itself.
    const Json* arguments = function.find("arguments");
    const bool object = arguments != nullptr && arguments->is_object();
    calls.push_back(
        {function.text("name", ""), object ? arguments->dump() : function.text("arguments", "{}"), fields.text("type", "function")});
  }
  return calls;
}

std::vector<dsv3::ChatMessage> read_messages(const Fields& fields) {
  const Json& list = fields.required("messages");
  if (!list.is_array()) fields.wrong_type("messages", "an array of messages");
  if (list.empty())
    throw ApiError(400, "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.",
                   "messages", "empty_array");
  std::vector<dsv3::ChatMessage> messages;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::string where = indexed("messages", i);
    if (!list[i].is_object())
      throw ApiError(400, "Invalid type for '" + where + "': expected an object, but got " + Fields::found(list[i]) + " instead.", where,
                     "invalid_type");
    const Fields message(list[i], where + ".");
    const Json& role = message.required("role");
    static const std::map<Json, Role> roles{
        {"system", Role::system}, {"developer", Role::system}, {"user", Role::user}, {"assistant", Role::assistant}, {"tool", Role::tool}};
    const auto known = roles.find(role);
    if (known == roles.end()) message.wrong_value("role", "'system', 'developer', 'user', 'assistant' or 'tool'");
    dsv3::ChatMessage m{known->second, read_content(message)};
    if (m.role == Role::assistant) m.tool_calls = read_calls(message);
    if (!m.content && m.tool_calls.empty()) message.required("content");
    if (m.content == "" && !m.tool_calls.empty()) m.content.reset();  // V3's template drops calls beside content, and many clients send ""
    messages.push_back(std::move(m));
  }
  return messages;
}

struct ToolSet {
  std::vector<dsv3::Tool> tools;
  std::vector<nlohmann::ordered_json> schemas;  // of their parameters
};

ToolSet read_tools(const Fields& fields, const std::string& body) {
  ToolSet set;
  const Json* list = fields.find("tools");
  if (list == nullptr) return set;
  if (!list->is_array()) fields.wrong_type("tools", "an array");
  const auto ordered = nlohmann::ordered_json::parse(body)["tools"];
  for (std::size_t i = 0; i < list->size(); ++i) {
    const std::string where = indexed("tools", i) + ".";
    if (!(*list)[i].is_object()) fields.wrong_type("tools", "an array of objects");
    const Fields tool((*list)[i], where);
    if (tool.text("type", "function") != "function") tool.wrong_value("type", "'function'");
    tool.required("function");
    const Fields function = tool.object("function");
    const std::string name = function.text("name", "");
    if (name.empty()) function.required("name");
    constexpr const char* letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
    if (name.empty() || name.size() > 64 || name.find_first_not_of(letters) != name.npos)
      function.wrong_value("name", "1 to 64 letters, digits, '_' and '-'");
    function.object("parameters");
    const auto& given = ordered[i]["function"];
    const auto schema =
        given.contains("parameters") && given["parameters"].is_object() ? given["parameters"] : nlohmann::ordered_json{{"type", "object"}};
    set.tools.push_back({name, function.text("description", ""), schema.dump()});
    set.schemas.push_back(schema);
  }
  return set;
}

/// The indices of tools of which one must be called; empty if the model may choose. "none" clears the tools.
std::vector<std::size_t> required_tools(const Fields& fields, ToolSet& set) {
  std::vector<std::size_t> required;
  const Json* choice = fields.find("tool_choice");
  if (choice == nullptr || *choice == "auto") return required;
  if (*choice == "none") {
    set = {};
    return required;
  }
  if (*choice != "required" && !choice->is_object()) fields.wrong_value("tool_choice", "'none', 'auto', 'required' or an object");
  const std::string name = choice->is_object() ? fields.object("tool_choice").object("function").text("name", "") : "";
  for (std::size_t i = 0; i < set.tools.size(); ++i)
    if (!choice->is_object() || set.tools[i].name == name) required.push_back(i);
  if (required.empty()) fields.wrong_value("tool_choice", "the name of one of the tools, or 'required' where there are tools");
  return required;
}

/// A call of one of `tools` is begun for the model, which writes arguments that fit the schema; before them the name, if there are several.
void force_call(const Service& service, const ToolSet& set, std::span<const std::size_t> tools, ApiRequest& request, dsv3::Request& model) {
  const auto frame = dsv3::call_frame(service.text.format);
  using Call = std::pair<std::string, nlohmann::ordered_json>;
  std::vector<Call> calls;
  for (const std::size_t i : tools) calls.emplace_back(set.tools[i].name + frame.middle, set.schemas[i]);
  request.prefill += frame.begin + frame.open;
  const auto& texts = calls.size() == 1 ? service.token_texts : service.call_texts;
  if (calls.size() == 1) request.prefill += std::exchange(calls[0].first, {});
  request.closing = frame.close + frame.end;
  std::string gbnf;
  try {
    gbnf = dsv3::io::json_schema_grammar(std::span<const Call>(calls));
  } catch (const dsv3::Error& e) {
    throw ApiError(400, std::string("Invalid schema of a tool's parameters: ") + e.what(), "tools", "invalid_value");
  }
  constrain(service, model, gbnf, "tools", texts);
}

struct ChatPrompt {
  std::vector<int> ids;
  bool starts_thinking = false;
};

/// The conversation in tokens. With `continues`, its last message is the assistant's and is left open.
ChatPrompt render(const Service& service, std::span<const dsv3::ChatMessage> messages, dsv3::ChatOptions options, bool continues) {
  if (service.text.chat_template == cli::TextModel::Template::unknown)
    throw ApiError(400, "Chats are not possible: " + cli::TextModel::unknown_template_message() + ".", {}, "unknown_chat_template");
  try {
    if (continues) options.add_generation_prompt = false;
    auto pieces = dsv3::chat_pieces(service.text.format, messages, options);
    if (continues && pieces.back().control) pieces.pop_back();  // the mark that ends the message
    if (continues && service.text.format == dsv3::ChatFormat::plain && pieces.back().text.ends_with('\n')) pieces.back().text.pop_back();
    return {service.text.encode_chat(pieces), starts_thinking(pieces)};
  } catch (const dsv3::Error& e) {
    throw ApiError(400, e.what(), "messages", "invalid_value");
  }
}

/// Whether the last message is to be continued: continue_final_message, as vLLM has it, or the message's own "prefix", as DeepSeek's API.
bool continues_last(const Fields& fields, std::span<const dsv3::ChatMessage> messages) {
  const Json& last = fields.required("messages").back();
  const bool prefix = Fields(last, indexed("messages", messages.size() - 1) + ".").boolean("prefix", false);
  const bool asked = fields.boolean("continue_final_message", false) || prefix;
  const char* field = prefix ? "messages" : "continue_final_message";
  if (asked && messages.back().role != Role::assistant) fields.wrong_value(field, "an assistant's message at the end, to be continued");
  if (asked && !prefix && fields.boolean("add_generation_prompt", false))
    fields.wrong_value("add_generation_prompt", "false where a message is continued");
  return asked;
}

dsv3::ChatOptions read_chat_options(const Fields& fields) {
  // R1 always reasons, V3.1 if asked: with the name that its template has for it, the one of other models' templates, or OpenAI's.
  const std::string effort = fields.text("reasoning_effort", "none");
  const Fields kwargs = fields.object("chat_template_kwargs");
  dsv3::ChatOptions options;
  options.thinking = kwargs.boolean("thinking", kwargs.boolean("enable_thinking", effort != "none" && effort != "minimal"));
  options.add_generation_prompt = fields.boolean("add_generation_prompt", true);
  return options;
}

}  // namespace

ApiRequest parse_chat_completion(const Service& service, const std::string& body) {
  const Json json = parse_body(body);
  const Fields fields(json);
  ApiRequest request;
  request.chat = true;
  dsv3::Request model;
  read_common(service, fields, request, model);
  auto messages = read_messages(fields);

  request.log_probabilities = fields.boolean("logprobs", false);
  request.top_log_probabilities = fields.integer("top_logprobs", 0, 0, max_top_log_probabilities);
  if (request.top_log_probabilities > 0 && !request.log_probabilities) fields.wrong_value("top_logprobs", "none unless logprobs is true");
  if (request.log_probabilities) model.log_probabilities = std::max(model.log_probabilities.value_or(0), request.top_log_probabilities);

  dsv3::ChatOptions options = read_chat_options(fields);
  const bool continues = continues_last(fields, messages);
  auto set = read_tools(fields, body);
  const auto required = required_tools(fields, set);
  if (continues && !required.empty()) fields.wrong_value("tool_choice", "'none' or 'auto' where a message is continued");
  if (!set.tools.empty()) {
    request.calls = dsv3::io::call_syntax(service.text.format);
    const std::string prompt = tools_prompt(service.text.format, set.tools);
    const auto system = std::find_if(messages.rbegin(), messages.rend(), [](const auto& m) { return m.role == Role::system; });
    if (system != messages.rend())
      *system->content += "\n\n" + prompt;
    else
      messages.insert(messages.begin(), {Role::system, prompt});
  }
  const bool plain = service.text.format == dsv3::ChatFormat::plain;
  if (plain) model.stop_strings.push_back("\n\n");
  if (!required.empty()) options.thinking = false;
  auto [prompt, thinking] = render(service, messages, options, continues);
  request.starts_thinking = thinking;
  if (!required.empty()) {
    if (request.starts_thinking) request.prefill = std::string(dsv3::chat::end_think) + "\n\n";
    force_call(service, set, required, request, model);
  } else if (const Structure s = response_structure(fields, body); !s.gbnf.empty()) {
    const auto end_think = service.text.tokenizer.token_id(dsv3::chat::end_think);
    constrain(service, model, s.gbnf, s.field, service.token_texts, request.starts_thinking ? end_think : std::nullopt);
  }
  if (!request.prefill.empty()) {
    const auto more = service.text.tokenizer.encode(request.prefill);
    prompt.insert(prompt.end(), more.begin(), more.end());
  }
  std::optional<std::int64_t> wanted;
  for (const char* name : {"max_tokens", "max_completion_tokens"})
    if (fields.find(name) != nullptr)
      wanted = fields.integer(name, 0, model.report_prompt ? 0 : 1, std::numeric_limits<std::int64_t>::max());
  set_prompt(service, model, std::move(prompt), wanted, "messages");
  request.prompts.push_back(std::move(model));
  return request;
}

Json tokenize(const Service& service, const std::string& body) {
  const Json json = parse_body(body);
  const Fields fields(json);
  check_model(service, fields);
  std::vector<int> ids;
  if (fields.find("messages") != nullptr) {
    const auto messages = read_messages(fields);
    ids = render(service, messages, read_chat_options(fields), continues_last(fields, messages)).ids;
  } else {
    const Json& prompt = fields.required("prompt");
    if (!prompt.is_string()) fields.wrong_type("prompt", "a string");
    const auto& text = prompt.get_ref<const std::string&>();
    ids = fields.boolean("add_special_tokens", true) ? service.text.encode(text) : service.text.tokenizer.encode(text);
  }
  Json texts;
  if (fields.boolean("return_token_strs", false))
    for (const int id : ids) texts.push_back(std::string(service.text.text_of(id)));
  return {
      {"count", ids.size()}, {"max_model_len", service.engine->options().max_tokens}, {"tokens", ids}, {"token_strs", std::move(texts)}};
}

Json detokenize(const Service& service, const std::string& body) {
  const Json json = parse_body(body);
  const Fields fields(json);
  check_model(service, fields);
  const Json& tokens = fields.required("tokens");
  if (!tokens.is_array()) fields.wrong_type("tokens", "an array of token ids");
  return {{"prompt", service.text.text_of(read_ids(service, fields, "tokens", tokens))}};
}

}  // namespace serve::inline DSV3_ISA
