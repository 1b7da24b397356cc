// Which chat format a template is, and the tool calls of models whose template is none.
#include "dsv3/io/chat_template.hpp"

#include <doctest/doctest.h>

#include <fstream>
#include <string>
#include <vector>

#include "dsv3/io/json_call.hpp"
#include "io/temp_folder.hpp"

TEST_CASE("the chat template of a checkpoint's folder") {
  using dsv3::io::read_chat_template;
  const TempFolder folder;
  CHECK_FALSE(read_chat_template(folder.path()));
  std::ofstream(folder / "tokenizer_config.json")
      << R"({"chat_template": [{"name": "other", "template": ""}, {"name": "default", "template": "some"}]})";
  CHECK(read_chat_template(folder.path()) == "some");
  std::ofstream(folder / "chat_template.jinja") << "own";
  CHECK(read_chat_template(folder.path()) == "own");
}

TEST_CASE("a published template is known by its text") {
  using dsv3::io::chat_format;
  const std::string published = dsv3::io::read_chat_template(DSV3_TEST_DATA "/tokenizer").value();
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = published;
    const auto at = text.find(from);
    REQUIRE(at != text.npos);
    return text.replace(at, from.size(), to);
  };
  CHECK(chat_format(published) == dsv3::ChatFormat::v3);
  // Copies differ in what has no meaning in Jinja.
  CHECK(chat_format(published + "\n") == dsv3::ChatFormat::v3);
  CHECK(chat_format(with("{{bos_token}}{{ns.system_prompt}}", "{{ bos_token }}{{  ns.system_prompt\n}}")) == dsv3::ChatFormat::v3);
  CHECK(chat_format(with("'\n\n' +", "'\\n\\n'+")) == dsv3::ChatFormat::v3);
  CHECK(chat_format(with("{%- for message", "\n{%- for message")) == dsv3::ChatFormat::v3);
  // What has one makes it another template: a default system prompt, other marks, a space in a string, text between tags.
  CHECK_FALSE(chat_format(with("system_prompt=''", "system_prompt='You are Bob.'")));
  CHECK_FALSE(chat_format(with("'<｜User｜>'", "'<|user|>'")));
  CHECK_FALSE(chat_format(with("'<｜User｜>'", "'<｜User｜> '")));
  CHECK_FALSE(chat_format(with("{{bos_token}}", "{{bos_token}} ")));
  CHECK_FALSE(chat_format(with("is none", "isnone")));
  for (const char* text : {"", "{{", "{%", "'", "{{'", "<|im_start|>user", "{%- -%}  \n", "-%}"}) CHECK_FALSE(chat_format(text));
}

TEST_CASE("calls written as JSON") {
  using dsv3::io::parse_json_call;
  CHECK(parse_json_call(R"( {"name": "f", "arguments": {"b": 1, "a": [2]}} )") == dsv3::ToolCall{"f", R"({"b":1,"a":[2]})"});
  CHECK(parse_json_call(R"({"name": "f"})") == dsv3::ToolCall{"f", "{}"});
  for (const char* text :
       {"", "f", "{}", R"({"name": 5})", R"({"name": ""})", R"({"name": "f", "arguments": "{}"})", R"({"name": "f")", "[]"})
    CHECK_FALSE(parse_json_call(text));
  CHECK_FALSE(parse_json_call(R"({"name": "f", "arguments": )" + std::string(100'000, '[')));
  dsv3::ChatParser parser(false, dsv3::io::call_syntax(dsv3::ChatFormat::plain));
  const auto delta = parser.push(R"(Look: <tool_call>{"name": "f"}</tool_call>
<tool_call>{"name": "g"}</tool_call> <tool_call>oops</tool_call>)");
  CHECK(delta.content == "Look: <tool_call>oops</tool_call>");
  CHECK(delta.tool_calls == std::vector<dsv3::ToolCall>{{"f", "{}"}, {"g", "{}"}});
}
