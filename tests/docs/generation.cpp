// Snippets of docs/generation.md that are in no example, each between // [name] and // [/name], and a check of what each of them claims.
#include <doctest/doctest.h>

#include "dsv3/dsv3.hpp"
#include "dsv3/generate/chat_parser.hpp"
#include "dsv3/generate/complete.hpp"
#include "dsv3/generate/gbnf.hpp"
#include "dsv3/generate/grammar_mask.hpp"
#include "dsv3/io/json_schema.hpp"
#include "dsv3/io/load.hpp"
#include "dsv3/io/tokenizer.hpp"

namespace {

const std::string folder = DSV3_MODELS "/shakespeare";

}  // namespace

TEST_CASE("a conversation and its answer") {
  const auto tokenizer = dsv3::io::Tokenizer::open(folder);
  // [chat]
  using Role = dsv3::ChatMessage::Role;
  const std::vector<dsv3::ChatMessage> messages{{Role::system, "You are terse."}, {Role::user, "2+2?"}};
  const dsv3::ChatOptions options{.thinking = true};
  const auto pieces = dsv3::chat_pieces(dsv3::ChatFormat::v31, messages, options);
  const std::vector<int> prompt = dsv3::encode_chat(tokenizer, pieces);
  // [/chat]
  CHECK(tokenizer.decode(prompt) == "<｜begin▁of▁sentence｜>You are terse.<｜User｜>2+2?<｜Assistant｜><think>");

  std::string reasoning, content;
  const auto show = [&](const dsv3::ChatDelta& delta) {
    reasoning += delta.reasoning;
    content += delta.content;
  };
  const std::vector<std::string> texts{"Easy.</th", "ink>4"};
  // [parse]
  dsv3::ChatParser parser(dsv3::starts_thinking(pieces));
  for (const std::string& text : texts) show(parser.push(text));
  show(parser.finish());
  // [/parse]
  CHECK(reasoning == "Easy.");
  CHECK(content == "4");
}

TEST_CASE("an answer that a schema allows") {
  const auto tokenizer = dsv3::io::Tokenizer::open(folder);
  const auto model = dsv3::io::load<dsv3::DeepSeekV3>(folder);
  dsv3::Request request{.prompt = tokenizer.encode("ROMEO:\n"), .max_new_tokens = 100};
  // [schema]
  const auto schema = nlohmann::ordered_json::parse(R"({"type": "object", "required": ["name", "dead"], "properties":
      {"name": {"type": "string", "maxLength": 20}, "dead": {"type": "boolean"}}})");
  const auto texts = std::make_shared<const dsv3::grammar::TokenTexts>(
      tokenizer.vocab_size(), [&](int id) { return tokenizer.is_added(id) ? std::string_view() : tokenizer.token_bytes(id); });
  const auto grammar = dsv3::grammar::parse_gbnf(dsv3::io::json_schema_grammar(schema));
  const dsv3::GrammarMask mask(texts, grammar, model.config().eos_token_id);
  request.processors.push_back(dsv3::sampling::Masked(mask));
  // [/schema]
  dsv3::Context ctx;
  dsv3::CachedText known{model.make_cache({.max_tokens = 200})};
  for (const dsv3::Index depth : {0, 2}) {
    std::string text;
    const auto finish = dsv3::complete(
        ctx, model, known, request, {.depth = depth},
        [&](const dsv3::Token& token) {
          text += token.text;
          return true;
        },
        [&](int id) { return tokenizer.token_bytes(id); });
    CHECK(finish.reason == dsv3::FinishReason::stop_token);
    const auto json = nlohmann::json::parse(text);
    CHECK(json["name"].is_string());
    CHECK(json["dead"].is_boolean());
  }
}
