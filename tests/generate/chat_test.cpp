#include "dsv3/generate/chat.hpp"

#include <doctest/doctest.h>

#include <map>
#include <random>

#include "dsv3/generate/chat_parser.hpp"
#include "dsv3/io/json.hpp"

using namespace dsv3;

namespace {

nlohmann::json read_json(const std::string& name) {
  const std::string path = DSV3_TEST_DATA "/tokenizer/" + name;
  return io::parse_json(io::read_text_file(path, std::size_t{1} << 24), path);
}

std::vector<ChatMessage> messages_of(const nlohmann::json& list) {
  std::vector<ChatMessage> messages;
  for (const auto& m : list) {
    const std::string role = m["role"];
    ChatMessage message{role == "system"      ? ChatMessage::Role::system
                        : role == "user"      ? ChatMessage::Role::user
                        : role == "assistant" ? ChatMessage::Role::assistant
                                              : ChatMessage::Role::tool,
                        {}};
    if (!m["content"].is_null()) message.content = m["content"].get<std::string>();
    for (const auto& call : m.value("tool_calls", nlohmann::json::array()))
      message.tool_calls.push_back({call["function"]["name"], call["function"]["arguments"], call["type"]});
    messages.push_back(std::move(message));
  }
  return messages;
}

struct Answer {
  std::string reasoning, content;
  std::vector<ToolCall> calls;

  void add(const ChatDelta& d) {
    reasoning += d.reasoning;
    content += d.content;
    calls.insert(calls.end(), d.tool_calls.begin(), d.tool_calls.end());
  }
};

/// Parses `text` in pieces of random length, up to `most` bytes.
Answer parse(const std::string& text, bool thinking, std::size_t most, unsigned seed) {
  std::mt19937 random(seed);
  ChatParser parser(thinking);
  Answer answer;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t n = 1 + random() % most;
    answer.add(parser.push(std::string_view(text).substr(at, n)));
    at += n;
  }
  answer.add(parser.finish());
  return answer;
}

}  // namespace

TEST_CASE("rendered conversations are those of the published templates") {
  for (const auto& c : read_json("chat.json"))
    CHECK(render_chat(ChatFormat::v3, messages_of(c["messages"]), {.add_generation_prompt = c["add_generation_prompt"]}) ==
          c["text"].get<std::string>());
  int cases = 0;  // as rendered by the published chat templates
  for (const auto& c : read_json("chat_templates.json")) {
    const std::string name = c["format"];
    CAPTURE(c.dump(1));
    const std::map<std::string, ChatFormat> formats{{"v3", ChatFormat::v3},
                                                    {"r1", ChatFormat::r1},
                                                    {"v3_0324", ChatFormat::v3_0324},
                                                    {"r1_0528", ChatFormat::r1_0528},
                                                    {"v31", ChatFormat::v31}};
    const auto format = formats.at(name);
    const ChatOptions options{.add_generation_prompt = c["add_generation_prompt"], .thinking = c["thinking"]};
    CHECK(render_chat(format, messages_of(c["messages"]), options) == c["text"].get<std::string>());
    ++cases;
  }
  CHECK(cases == 151);
}

TEST_CASE("an answer begins inside the reasoning if its prompt opens it") {
  using Role = ChatMessage::Role;
  const std::vector<ChatMessage> question{{Role::user, "q <think>"}},
      results{{Role::user, "q"}, {Role::assistant, {}, {{"f", "{}"}}}, {Role::tool, "1"}};
  const auto thinks = [](ChatFormat format, const std::vector<ChatMessage>& messages, bool thinking) {
    return starts_thinking(chat_pieces(format, messages, {.thinking = thinking}));
  };
  CHECK(thinks(ChatFormat::r1, question, false));
  CHECK(thinks(ChatFormat::v31, question, true));
  CHECK_FALSE(thinks(ChatFormat::v31, question, false));
  CHECK_FALSE(thinks(ChatFormat::v3, question, true));
  CHECK_FALSE(thinks(ChatFormat::plain, question, true));
  for (const auto format : {ChatFormat::v3, ChatFormat::r1, ChatFormat::v3_0324, ChatFormat::r1_0528, ChatFormat::v31})
    CHECK_FALSE(thinks(format, results, true));
}

TEST_CASE("conversations that no template covers are refused") {
  using Role = ChatMessage::Role;
  const std::vector<ChatMessage> none;
  CHECK_THROWS_WITH(render_chat(ChatFormat::v3, none), "chat: expected at least one message, got none");
  const std::vector<ChatMessage> empty{{Role::user, "q"}, {Role::assistant, {}}};
  CHECK_THROWS_WITH(render_chat(ChatFormat::v31, empty), "chat: message 1 (assistant): expected content or tool calls, found neither");
  const std::vector<ChatMessage> user_calls{{Role::user, "q", {{"f", "{}"}}}};
  CHECK_THROWS_AS(render_chat(ChatFormat::r1, user_calls), Error);
  const std::vector<ChatMessage> no_content{{Role::tool, {}}};
  CHECK_THROWS_AS(render_chat(ChatFormat::r1, no_content), Error);
}

TEST_CASE("R1's first template leaves it to the model to begin its reasoning") {
  using Role = ChatMessage::Role;
  const std::vector<ChatMessage> talk{{Role::user, "q"}, {Role::assistant, "<think>hm</think>a"}, {Role::user, "r"}};
  CHECK(render_chat(ChatFormat::r1, talk) == render_chat(ChatFormat::r1_first, talk) + "<think>\n");
  const std::vector<ChatMessage> systems{{Role::system, "a"}, {Role::system, "b"}, {Role::user, "q"}};  // it keeps the last one only
  CHECK(render_chat(ChatFormat::r1_first, systems) == "<｜begin▁of▁sentence｜>b<｜User｜>q<｜Assistant｜>");
  CHECK(render_chat(ChatFormat::r1_first, talk).find("hm") == std::string::npos);  // earlier reasoning is taken out
}

namespace {

/// encode() gives the length of each text as a negative id, encode_text() as a positive one.
struct Lengths {
  std::vector<int> encode(std::string_view text) const { return {-static_cast<int>(text.size())}; }
  std::vector<int> encode_text(std::string_view text) const { return {static_cast<int>(text.size())}; }
};

}  // namespace

TEST_CASE("control tokens in a message are text") {
  using Role = ChatMessage::Role;
  const std::vector<ChatMessage> messages{{Role::system, "A"}, {Role::system, "B"}, {Role::user, "x<｜Assistant｜>y"}};
  const auto pieces = chat_pieces(ChatFormat::v31, messages);
  std::vector<bool> control;
  for (const auto& piece : pieces) control.push_back(piece.control);
  CHECK(control == std::vector<bool>{true, false, true, false, true, true});
  CHECK(pieces[1].text == "A\n\nB");
  const auto size = [](std::string_view text) { return static_cast<int>(text.size()); };
  CHECK(encode_chat(Lengths{}, pieces) == std::vector<int>{-size(chat::begin), 4, -size(chat::user), 2 + size(chat::assistant),
                                                           -size(chat::assistant), -size(chat::end_think)});
}

TEST_CASE("plain conversations are lines") {
  using Role = ChatMessage::Role;
  const std::vector<ChatMessage> messages{{Role::system, "S"}, {Role::user, "q"}, {Role::assistant, "a"}};
  CHECK(render_chat(ChatFormat::plain, messages) == "S\nq\na\n");
  const std::vector<ChatMessage> calls{{Role::assistant, "a", {{"f", "{}"}}}, {Role::tool, "1"}};
  CHECK(render_chat(ChatFormat::plain, calls) ==
        "a<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>\n<tool_response>1</tool_response>\n");
}

TEST_CASE("answers that stray from their format a little") {
  for (unsigned seed = 0; seed < 30; ++seed) {
    const auto twice = parse("<think>\nhm</think>a", true, 1 + seed % 12, seed);  // the prompt has opened it already
    CHECK((twice.reasoning == "\nhm" && twice.content == "a"));
    const auto short_one = parse("<thi", true, 1 + seed % 12, seed);
    CHECK((short_one.reasoning == "<thi" && short_one.content.empty()));
  }
  CHECK(parse_tool_call("function<｜tool▁sep｜>f\n```\n{\"a\": 1}\n```") == ToolCall{"f", "{\"a\": 1}"});
  CHECK(parse_tool_call("function<｜tool▁sep｜>f\n```json\n\n```") == ToolCall{"f", "{}"});
  CHECK(parse_tool_call("f<｜tool▁sep｜>") == ToolCall{"f", "{}"});
}

TEST_CASE("reasoning, content and calls are told apart however the answer is cut") {
  const std::string v31 =
      "weighing it</think>Let me look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{\"city\": "
      "\"Köln\"}<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
  const std::string v3 =
      "<think>hm < 3</think>Yes.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": \"```\"}\n```"
      "<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
  for (unsigned seed = 0; seed < 50; ++seed) {
    CAPTURE(seed);
    const auto a = parse(v31, true, 1 + seed % 12, seed);
    CHECK(a.reasoning == "weighing it");
    CHECK(a.content == "Let me look.");
    CHECK(a.calls == std::vector<ToolCall>{{"get_weather", "{\"city\": \"Köln\"}"}, {"now", "{}"}});
    const auto b = parse(v3, false, 1 + seed % 12, seed);
    CHECK(b.reasoning == "hm < 3");
    CHECK(b.content == "Yes.");
    CHECK(b.calls == std::vector<ToolCall>{{"f", "{\"a\": \"```\"}"}, {"g", "{}"}});
  }
}

TEST_CASE("nothing of a malformed answer is lost") {
  CHECK(parse("no end of thought", true, 3, 1).reasoning == "no end of thought");
  CHECK(parse("a<｜tool▁call", false, 3, 1).content == "a<｜tool▁call");
  CHECK(parse("<thi", false, 1, 1).content == "<thi");
  CHECK(parse("", true, 1, 1).content.empty());
  const std::string unfinished = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a";
  CHECK(parse(unfinished, false, 5, 1).content == unfinished.substr(chat::calls_begin.size()));
  const auto nameless = parse("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{}<｜tool▁call▁end｜>", false, 5, 1);
  CHECK(nameless.calls.empty());
  CHECK(nameless.content == "<｜tool▁call▁begin｜>{}<｜tool▁call▁end｜>");
  CHECK(parse("later <think> stays", false, 4, 1).content == "later <think> stays");
}

TEST_CASE("what a format writes as a call is parsed as that call") {
  using Role = ChatMessage::Role;
  const ToolCall call{"f", R"({"x": [1, "a"]})"};
  for (const auto format : {ChatFormat::v3, ChatFormat::r1, ChatFormat::v3_0324, ChatFormat::r1_0528, ChatFormat::v31}) {
    const std::vector<ChatMessage> messages{{Role::user, "q"}, {Role::assistant, {}, {call}}};
    const std::string text = render_chat(format, messages, {.add_generation_prompt = false});
    CHECK(parse(text.substr(text.find(chat::calls_begin)), false, 7, 3).calls == std::vector{call});
    const std::vector<Tool> tools{{"f", "does it", "{}"}};
    CHECK(tools_prompt(format, tools).find("### f\nDescription: does it\n\nParameters: {}\n") != std::string::npos);
  }
}
