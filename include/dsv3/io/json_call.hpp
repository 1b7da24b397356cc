// Floor 6. Tool calls of models without a format of their own: {"name": ..., "arguments": {...}} between <tool_call> and </tool_call>.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "dsv3/generate/chat_parser.hpp"
#include "dsv3/io/json.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// A call written as a JSON object; no arguments are those of an empty object. None if `text` is not such an object.
[[nodiscard]] inline std::optional<ToolCall> parse_json_call(std::string_view text) {
  try {
    (void)parse_json(text, "call");
  } catch (const Error&) {  // not JSON, or nested too deep to be handled
    return std::nullopt;
  }
  const auto json = nlohmann::ordered_json::parse(text);  // arguments keep their order
  if (!json.is_object() || !json.contains("name") || !json["name"].is_string()) return std::nullopt;
  ToolCall call{json["name"].get<std::string>(), "{}"};
  if (json.contains("arguments")) {
    if (!json["arguments"].is_object()) return std::nullopt;
    call.arguments = json["arguments"].dump();
  }
  return call.name.empty() ? std::nullopt : std::optional(call);
}

/// What ChatParser wants to know of a format.
inline CallSyntax call_syntax(ChatFormat format) {
  return format == ChatFormat::plain ? CallSyntax{"", chat::json_call, chat::end_json_call, "", parse_json_call} : CallSyntax{};
}

}  // namespace dsv3::inline DSV3_ISA::io
