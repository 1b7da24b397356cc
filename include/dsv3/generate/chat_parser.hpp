// Floor 6. The model's answer, piece by piece: what is reasoning, what is content, which tools it calls.
//
// Works on text (UTF-8, control tokens as their text) however it is cut. A call is told when it is complete. Whether arguments are valid
// JSON is left to the caller, as what becomes of malformed calls: their text is content.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dsv3/generate/chat.hpp"

namespace dsv3::inline DSV3_ISA {

/// What a piece of an answer added.
struct [[nodiscard]] ChatDelta {
  std::string reasoning, content;
  std::vector<ToolCall> tool_calls;
};

/// "NAME<sep>ARGUMENTS" (V3.1) or "TYPE<sep>NAME\n```json\nARGUMENTS\n```" (V3, R1; some leave "json" out), both accepted from any model;
/// none if it is neither. No arguments are those of an empty object.
[[nodiscard]] inline std::optional<ToolCall> parse_tool_call(std::string_view text) {
  const auto trim = [](std::string_view s) {
    constexpr const char* space = " \t\r\n";
    const auto first = s.find_first_not_of(space);
    return first == s.npos ? std::string_view() : s.substr(first, s.find_last_not_of(space) - first + 1);
  };
  constexpr std::string_view fence = "```", json = "json";
  const auto sep = text.find(chat::sep);
  if (sep == text.npos) return std::nullopt;
  const std::string_view before = trim(text.substr(0, sep)), after = trim(text.substr(sep + chat::sep.size()));
  ToolCall call;
  if (const auto at = after.find(fence); at != after.npos && at + 2 * fence.size() <= after.size() && after.ends_with(fence)) {
    std::string_view body = after.substr(at + fence.size(), after.size() - at - 2 * fence.size());
    if (body.starts_with(json)) body.remove_prefix(json.size());
    call.type = before;
    call.name = trim(after.substr(0, at));
    call.arguments = trim(body);
  } else {
    call.name = before;
    call.arguments = after;
  }
  if (call.arguments.empty()) call.arguments = "{}";
  return call.name.empty() ? std::nullopt : std::optional(call);
}

/// How calls are told in an answer: the marks around all of them (or none) and around each, and what reads the text between these.
struct CallSyntax {
  std::string_view begin = chat::calls_begin, open = chat::call_begin, close = chat::call_end, end = chat::calls_end;
  std::optional<ToolCall> (*parse)(std::string_view) = parse_tool_call;
};

/// Feed it the answer with push(), then finish() once.
class ChatParser {
 public:
  /// `thinking`: the prompt ended inside the reasoning (starts_thinking()).
  explicit ChatParser(bool thinking = false, const CallSyntax& calls = {}) : thinking_(thinking), calls_(calls) {}

  /// What `text` adds. Holds back what may be the start of a mark.
  ChatDelta push(std::string_view text) {
    held_ += text;
    ChatDelta delta;
    while (step(delta)) {
    }
    return delta;
  }

  /// What was held back; the text of a call that never ended is content.
  ChatDelta finish() {
    ChatDelta delta;
    if (part_ == Part::call) delta.content = std::string(calls_.open) + call_;
    emit(delta, held_);
    held_.clear();
    call_.clear();
    return delta;
  }

 private:
  enum class Part { start, reasoning, content, calls, call };

  void emit(ChatDelta& delta, std::string_view text) {
    if (part_ == Part::call) delta.content += text;  // only from finish()
    const bool reasoning = part_ == Part::reasoning || (part_ == Part::start && thinking_);
    if (reasoning) delta.reasoning += text;
    if (part_ == Part::content || (part_ == Part::start && !reasoning)) delta.content += text;
    // Between calls there is nothing but white space.
    if (part_ == Part::calls && text.find_first_not_of(" \t\r\n") != text.npos) delta.content += text;
  }

  /// Consumes text up to the next mark, and the mark; false if there is no whole one yet.
  bool step(ChatDelta& delta) {
    if (part_ == Part::start) {  // models may open their reasoning themselves, also where the prompt has opened it
      if (held_.size() < chat::think.size() && chat::think.starts_with(held_)) return false;
      const bool thinks = held_.starts_with(chat::think);
      part_ = thinks || thinking_ ? Part::reasoning : Part::content;
      if (thinks) held_.erase(0, chat::think.size());
    }
    std::string_view mark;
    std::size_t at = held_.npos;
    for (const std::string_view m : marks())
      if (const auto found = held_.find(m); found < at) {
        at = found;
        mark = m;
      }
    const std::size_t text = at != held_.npos ? at : held_.size() - possible_mark();
    if (part_ == Part::call)
      call_.append(held_, 0, text);
    else
      emit(delta, std::string_view(held_).substr(0, text));
    held_.erase(0, text + mark.size());
    if (mark.empty()) return false;
    pass(delta, mark);
    return true;
  }

  void pass(ChatDelta& delta, std::string_view mark) {
    if (mark == chat::end_think || mark == calls_.end) part_ = Part::content;
    if (mark == calls_.begin) part_ = Part::calls;
    if (mark == calls_.open) part_ = Part::call;
    if (mark == calls_.close) {
      part_ = Part::calls;
      if (const auto call = calls_.parse(call_))
        delta.tool_calls.push_back(*call);
      else
        delta.content.append(calls_.open).append(call_).append(calls_.close);
      call_.clear();
    }
  }

  /// The marks that end the present part.
  std::vector<std::string_view> marks() const {
    if (part_ == Part::reasoning) return {chat::end_think};
    if (part_ == Part::call) return {calls_.close};
    std::vector<std::string_view> marks{calls_.open, part_ == Part::calls ? calls_.end : calls_.begin};
    std::erase_if(marks, [](std::string_view mark) { return mark.empty(); });
    return marks;
  }

  /// How many bytes at the end of held_ may be the start of a mark.
  std::size_t possible_mark() const {
    std::size_t most = 0;
    for (const std::string_view m : marks())
      for (std::size_t n = std::min(held_.size(), m.size() - 1); n > most; --n)
        if (std::string_view(held_).ends_with(m.substr(0, n))) most = n;
    return most;
  }

  bool thinking_;
  CallSyntax calls_;
  Part part_ = Part::start;
  std::string held_, call_;
};

}  // namespace dsv3::inline DSV3_ISA
