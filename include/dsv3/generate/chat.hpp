// Floor 6. Chat templates: a conversation as the text that DeepSeek-V3, R1, their later versions and V3.1 were trained on.
//
// The text is that of the published templates, to the letter and with their oddities. Leaves out JSON (arguments of tool calls are text),
// which format a checkpoint has (io/chat_template.hpp), and the model's answer (chat_parser.hpp).
#pragma once

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dsv3/core/error.hpp"
#include "dsv3/generate/chat_format.hpp"

namespace dsv3::inline DSV3_ISA {

/// A part of a rendered conversation: a control token, or text in which none is meant, whoever wrote it.
struct ChatPiece {
  std::string text;
  bool control = false;
};

struct ChatMessage {
  enum class Role { system, user, assistant, tool };
  Role role = Role::user;
  std::optional<std::string> content;  ///< of an assistant that only calls tools: none. Its reasoning is not part of a conversation
  std::vector<ToolCall> tool_calls{};  ///< of an assistant
};

struct ChatOptions {
  bool add_generation_prompt = true;  ///< end where the assistant's answer begins
  bool thinking = false;              ///< V3.1: the answer begins with its reasoning. R1 reasons after each question, V3 never,
                                      ///< and R1-0528 begins its reasoning itself
};

/// Whether the answer to a prompt begins inside the reasoning (what ChatParser wants to know): no template opens it elsewhere than at the
/// end, and none behind results of tools.
inline bool starts_thinking(std::span<const ChatPiece> prompt) {
  return std::any_of(prompt.begin(), prompt.end(), [](const ChatPiece& piece) { return piece.control && piece.text == chat::think; });
}

namespace detail {

/// Renders one conversation; a member for each state that the published templates keep while they go through the messages.
class ChatRenderer {
 public:
  ChatRenderer(ChatFormat format, const ChatOptions& options) : format_(format), options_(options) {}

  [[nodiscard]] std::vector<ChatPiece> render(std::span<const ChatMessage> messages) {
    if (format_ == ChatFormat::plain) {
      for (const ChatMessage& m : messages) add_line(m);
      return std::move(pieces_);
    }
    add(chat::begin);
    add_system(messages);
    for (const ChatMessage& m : messages) {
      if (m.role == ChatMessage::Role::user) add_user(m);
      if (m.role == ChatMessage::Role::assistant)
        format_ == ChatFormat::v31 ? add_answer_v31(m) : is_later() ? add_answer_later(m) : add_answer(m);
      if (m.role == ChatMessage::Role::tool) add_output(m);
    }
    if (in_tool_ && format_ != ChatFormat::v31) add(chat::outputs_end);
    const bool begins = is_later() ? !after_user_ : format_ != ChatFormat::v31 || after_user_;
    if (options_.add_generation_prompt && !in_tool_ && begins) {
      add(chat::assistant);
      if (format_ == ChatFormat::r1) add(chat::think, "\n");
      if (format_ == ChatFormat::v31) add(options_.thinking ? chat::think : chat::end_think);
    }
    return std::move(pieces_);
  }

 private:
  void add_part(const chat::Mark& mark) { pieces_.push_back({std::string(mark), true}); }
  void add_part(std::string_view text) {
    if (pieces_.empty() || pieces_.back().control) pieces_.emplace_back();
    pieces_.back().text += text;
  }
  template <class... Parts>
  void add(const Parts&... parts) {
    (add_part(parts), ...);
  }

  static std::string_view content_of(const ChatMessage& m) { return m.content ? std::string_view(*m.content) : std::string_view(); }

  bool is_later() const { return format_ == ChatFormat::v3_0324 || format_ == ChatFormat::r1_0528; }

  /// The answer without the reasoning that stands before its last (R1) or first (V3.1) end mark. V3 has no such mark.
  std::string_view answer_of(const ChatMessage& m) const {
    const std::string_view content = content_of(m);
    if (format_ == ChatFormat::v3 || format_ == ChatFormat::v3_0324) return content;
    const auto mark = format_ == ChatFormat::v31 ? content.find(chat::end_think) : content.rfind(chat::end_think);
    return mark == content.npos ? content : content.substr(mark + chat::end_think.size());
  }

  void add_line(const ChatMessage& m) {
    if (m.role == ChatMessage::Role::tool)
      add(chat::json_result, content_of(m), chat::end_json_result);
    else
      add(content_of(m));
    const CallFrame frame = call_frame(format_);
    for (const ToolCall& call : m.tool_calls) add(frame.open, call.name, frame.middle, call.arguments, frame.close);
    add("\n");
  }

  /// All system messages, wherever they stand; R1's first template keeps only the last.
  void add_system(std::span<const ChatMessage> messages) {
    std::string text;
    const char* separator = "";
    for (const ChatMessage& m : messages) {
      if (m.role != ChatMessage::Role::system) continue;
      if (format_ == ChatFormat::r1_first)
        text = content_of(m);
      else
        text.append(separator).append(content_of(m));
      separator = "\n\n";
    }
    if (!text.empty()) add(text);
  }

  void add_user(const ChatMessage& m) {
    in_tool_ = false;
    after_user_ = true;
    if (format_ == ChatFormat::v31) calls_open_ = false;
    add(chat::user, content_of(m));
    if (is_later()) add(chat::assistant);
  }

  void add_output(const ChatMessage& m) {
    in_tool_ = true;
    after_user_ = false;
    if (format_ != ChatFormat::v31 && !outputs_open_) add(chat::outputs_begin);
    const bool adjacent = format_ == ChatFormat::v31 || format_ == ChatFormat::r1;
    if (!adjacent && outputs_open_) add("\n");
    outputs_open_ = true;
    add(chat::output_begin, content_of(m), chat::output_end);
  }

  void add_call(const ToolCall& call) {
    add(chat::call_begin, call.type, chat::sep, call.name, "\n```json\n", call.arguments, "\n```", chat::call_end);
  }

  // V3 and R1. Their templates open the lists of calls and of outputs once in a conversation, not once in an answer.
  void add_answer(const ChatMessage& m) {
    const bool v3 = format_ != ChatFormat::r1;  // V3's and R1's first
    if (v3 ? !m.content.has_value() : !m.tool_calls.empty()) {
      in_tool_ = false;
      for (const ToolCall& call : m.tool_calls) {
        const bool first = !calls_open_;
        if (first)
          add(chat::assistant, content_of(m), chat::calls_begin);
        else
          add("\n");
        add_call(call);
        if (v3 && !first) add(chat::calls_end, chat::end);
        calls_open_ = true;
      }
      if (!v3) add(chat::calls_end, chat::end);
    } else if (in_tool_) {
      add(chat::outputs_end, content_of(m), chat::end);
      in_tool_ = false;
    } else {
      add(chat::assistant, answer_of(m), chat::end);
    }
  }

  void add_answer_later(const ChatMessage& m) {
    if (in_tool_) add(chat::outputs_end);
    after_user_ = in_tool_ = false;
    add(answer_of(m));
    if (!m.tool_calls.empty()) {
      outputs_open_ = false;
      add(chat::calls_begin);
      for (const ToolCall& call : m.tool_calls) {
        if (&call != &m.tool_calls[0]) add("\n");
        add_call(call);
      }
      add(chat::calls_end);
    }
    add(chat::end);
  }

  void add_answer_v31(const ChatMessage& m) {
    if (after_user_) add(chat::assistant, chat::end_think);
    after_user_ = false;
    if (!m.tool_calls.empty()) {
      calls_open_ = in_tool_ = false;
      for (const ToolCall& call : m.tool_calls) {
        if (!calls_open_) add(content_of(m), chat::calls_begin);
        calls_open_ = true;
        add(chat::call_begin, call.name, chat::sep, call.arguments, chat::call_end);
      }
      add(chat::calls_end, chat::end);
    } else {
      add(in_tool_ ? content_of(m) : answer_of(m), chat::end);
      in_tool_ = false;
    }
  }

  ChatFormat format_;
  ChatOptions options_;
  std::vector<ChatPiece> pieces_;
  bool in_tool_ = false, after_user_ = false, calls_open_ = false, outputs_open_ = false;
};

}  // namespace detail

/// The conversation, text and control tokens apart.
/// Throws: Error if there is no message, an assistant's message has neither content nor calls, or another role has calls or no content.
[[nodiscard]] inline std::vector<ChatPiece> chat_pieces(ChatFormat format, std::span<const ChatMessage> messages,
                                                        const ChatOptions& options = {}) {
  require(!messages.empty(), "chat: expected at least one message, got none");
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& m = messages[i];
    if (m.role == ChatMessage::Role::assistant)
      require(m.content || !m.tool_calls.empty(), "chat: message ", i, " (assistant): expected content or tool calls, found neither");
    else
      require(m.content && m.tool_calls.empty(), "chat: message ", i, ": expected content, and tool calls only of the assistant");
  }
  return detail::ChatRenderer(format, options).render(messages);
}

/// The conversation as one text. Control tokens that stand in a message are not told from the template's own any more: to encode what
/// strangers write, use encode_chat(). Throws: as chat_pieces().
[[nodiscard]] inline std::string render_chat(ChatFormat format, std::span<const ChatMessage> messages, const ChatOptions& options = {}) {
  std::string text;
  for (const ChatPiece& piece : chat_pieces(format, messages, options)) text += piece.text;
  return text;
}

/// The ids of a conversation. Messages cannot hold control tokens: such text in them is encoded as the characters it is made of.
/// `tokenizer` has encode(text), which recognises control tokens, and encode_text(text), which does not (io::Tokenizer).
template <class Tokenizer>
[[nodiscard]] std::vector<int> encode_chat(const Tokenizer& tokenizer, std::span<const ChatPiece> pieces) {
  std::vector<int> ids;
  for (const ChatPiece& piece : pieces) {
    const std::vector<int> more = piece.control ? tokenizer.encode(piece.text) : tokenizer.encode_text(piece.text);
    ids.insert(ids.end(), more.begin(), more.end());
  }
  return ids;
}

}  // namespace dsv3::inline DSV3_ISA
