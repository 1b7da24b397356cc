// Floor 6. Chat formats: their control tokens, how they write a call of a tool, and how the model is told of its tools.
//
// Conversations in these formats are rendered by chat.hpp, answers taken apart by chat_parser.hpp.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "dsv3/core/isa.hpp"

namespace dsv3::inline DSV3_ISA {

/// Whose published template: DeepSeek-V3 (December 2024), DeepSeek-R1 and its first version (January 2025), which leaves it to the model to
/// begin its reasoning, their versions V3-0324 and R1-0528, DeepSeek-V3.1; or plain, each message on a line of its own, for models that
/// were not trained on conversations.
enum class ChatFormat { v3, r1, r1_first, v3_0324, r1_0528, v31, plain };

/// The text of control tokens.
namespace chat {
struct Mark : std::string_view {
  constexpr explicit Mark(const char* text) : std::string_view(text) {}
};
inline constexpr Mark begin{"<｜begin▁of▁sentence｜>"}, end{"<｜end▁of▁sentence｜>"}, user{"<｜User｜>"}, assistant{"<｜Assistant｜>"};
inline constexpr Mark think{"<think>"}, end_think{"</think>"};
inline constexpr Mark calls_begin{"<｜tool▁calls▁begin｜>"}, calls_end{"<｜tool▁calls▁end｜>"}, call_begin{"<｜tool▁call▁begin｜>"},
    call_end{"<｜tool▁call▁end｜>"}, sep{"<｜tool▁sep｜>"};
inline constexpr Mark outputs_begin{"<｜tool▁outputs▁begin｜>"}, outputs_end{"<｜tool▁outputs▁end｜>"},
    output_begin{"<｜tool▁output▁begin｜>"}, output_end{"<｜tool▁output▁end｜>"};

// Plain text, not control tokens: how models without marks of their own write calls and their results.
inline constexpr std::string_view json_call = "<tool_call>", end_json_call = "</tool_call>";
inline constexpr std::string_view json_result = "<tool_response>", end_json_result = "</tool_response>";
}  // namespace chat

/// A function that the model asks to be called.
struct ToolCall {
  std::string name, arguments;  ///< arguments: a JSON object as text
  std::string type = "function";

  bool operator==(const ToolCall&) const = default;
};

/// A function that the model may ask for: `parameters` is a JSON schema as text.
struct Tool {
  std::string name, description, parameters;
};

/// How a format writes a call: `open` NAME `middle` ARGUMENTS `close`, all calls of an answer between `begin` and `end`. Plain chats have
/// the form that most other models use, whose frame is JSON: `<tool_call>{"name": ..., "arguments": ...}</tool_call>`.
struct CallFrame {
  std::string begin, open, middle, close, end;
};
inline CallFrame call_frame(ChatFormat format) {
  using std::string;
  if (format == ChatFormat::plain)
    return {"", string(chat::json_call) + R"({"name": ")", R"(", "arguments": )", "}" + string(chat::end_json_call), ""};
  const string begin(chat::calls_begin), open(chat::call_begin), sep(chat::sep), close(chat::call_end), end(chat::calls_end);
  if (format == ChatFormat::v31) return {begin, open, sep, close, end};
  return {begin, open + "function" + sep, "\n```json\n", "\n```" + close, end};
}

/// What tells the model of its tools; to be appended to the system prompt. V3.1 has a published form (its model card), whose frame the
/// other formats get with their own way of writing a call.
inline std::string tools_prompt(ChatFormat format, std::span<const Tool> tools) {
  std::string text = "## Tools\nYou have access to the following tools:\n";
  for (const Tool& tool : tools)
    text += "\n### " + tool.name + "\nDescription: " + tool.description + "\n\nParameters: " + tool.parameters + "\n";
  const auto add = [&](auto... parts) { ((text += parts), ...); };
  const CallFrame frame = call_frame(format);
  add("\nIMPORTANT: ALWAYS adhere to this exact format for tool use:\n", frame.begin, frame.open, "tool_call_name", frame.middle,
      "tool_call_arguments", frame.close, "{additional_tool_calls}", frame.end, "\n\nWhere:\n");
  add("- `tool_call_name` must be an exact match to one of the available tools\n");
  add("- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema\n");
  add("- For multiple tool calls, chain them directly without separators or spaces\n");
  return text;
}

}  // namespace dsv3::inline DSV3_ISA
