// Ids and bytes against Hugging Face's, every supported option on small hand-made tokenizers, and a message for everything refused.
#include <doctest/doctest.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "dsv3/generate/chat.hpp"
#include "dsv3/io/tokenizer.hpp"
#include "dsv3/io/utf8_stream.hpp"
#include "io/temp_folder.hpp"

namespace {

using dsv3::io::Tokenizer;
using Json = nlohmann::json;
using Ids = std::vector<int>;

Json read_json(const std::string& path) { return Json::parse(dsv3::io::read_text_file(path, 1 << 24)); }

std::string utf8(unsigned code_point) {
  if (code_point < 0x80) return {static_cast<char>(code_point)};
  return {static_cast<char>(0xC0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3F))};
}

Json byte_level(bool use_regex = false) { return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", use_regex}}; }

Json regex_split(const std::string& regex, const char* kind = "Regex") {
  const Json step{{"type", "Split"}, {"pattern", {{kind, regex}}}, {"behavior", "Isolated"}, {"invert", false}};
  return {{"type", "Sequence"}, {"pretokenizers", {step, byte_level()}}};
}

Json added(int id, const std::string& content, bool normalized = false) {
  return {{"id", id},        {"content", content},       {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", normalized}, {"special", true}};
}

/// Token i stands for byte i; then "ab" 256, "bc" 257, "abc" 258, " a" 259, of which only the last has to wait for its merge.
Json small() {
  Json vocab;
  unsigned next = 256;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool printable = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
    vocab[utf8(printable ? byte : next++)] = byte;
  }
  vocab.update({{"ab", 256}, {"bc", 257}, {"abc", 258}, {"\u0120a", 259}});
  const Json model{{"type", "BPE"}, {"vocab", vocab}, {"merges", {"b c", "a b", "a bc"}}};
  return {{"normalizer", nullptr}, {"pre_tokenizer", byte_level()}, {"decoder", {{"type", "ByteLevel"}}}, {"model", model}};
}

Tokenizer parse(const Json& json) { return Tokenizer::parse(json.dump(), "t.json"); }

/// `text` with the pieces it was encoded in between bars; merges must not matter.
std::string pieces(const Json& pre_tokenizer, std::string_view text) {
  const dsv3::io::PreTokenizer splitter(pre_tokenizer, "t.json: pre_tokenizer");
  std::string shown;
  splitter.split(text, [&](std::string_view piece) { shown.append(shown.empty() ? "" : "|").append(piece); });
  return shown;
}

/// Bytes that are no UTF-8 as U+FFFD.
std::string shown(std::string_view bytes) {
  dsv3::io::Utf8Stream stream;
  const std::string text = stream.push(bytes);
  return text + stream.finish();
}

template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const dsv3::Error& error) {
    return error.what();
  }
  return "(no error)";
}

/// The message for small() with the value at `pointer` replaced.
std::string message_with(const char* pointer, const Json& value) {
  Json json = small();
  json[Json::json_pointer(pointer)] = value;
  return message_of([&] { (void)parse(json); });
}

void check_vectors(const Tokenizer& tokenizer, const Json& cases) {
  for (const Json& expected : cases) {
    const auto text = expected["text"].get<std::string>();
    CAPTURE(text);
    const Ids ids = tokenizer.encode(text);
    CHECK(ids == expected["ids"].get<Ids>());
    CHECK(tokenizer.decode(ids) == text);
  }
}

TEST_CASE("the published tokenizer gives Hugging Face's ids") {
  const Tokenizer tokenizer = Tokenizer::open(DSV3_PUBLISHED_TOKENIZER);
  CHECK(tokenizer.vocab_size() == 128815);
  CHECK(tokenizer.token_id("<｜User｜>") == 128803);
  CHECK(tokenizer.token_bytes(128803) == "<｜User｜>");
  check_vectors(tokenizer, read_json(DSV3_TEST_DATA "/tokenizer/vectors.json"));
  check_vectors(tokenizer, read_json(DSV3_TEST_DATA "/tokenizer/chat.json"));
  // Where text cannot hold control tokens, conversations get the same ids, and text that looks like one of them others.
  for (const Json& c : read_json(DSV3_TEST_DATA "/tokenizer/chat.json")) {
    std::vector<dsv3::ChatMessage> messages;
    for (const Json& m : c["messages"]) {
      const bool system = m["role"] == "system", user = m["role"] == "user";
      using Role = dsv3::ChatMessage::Role;
      messages.push_back({system ? Role::system : user ? Role::user : Role::assistant, m["content"].get<std::string>()});
    }
    const auto pieces = dsv3::chat_pieces(dsv3::ChatFormat::v3, messages, {.add_generation_prompt = c["add_generation_prompt"]});
    CHECK(dsv3::encode_chat(tokenizer, pieces) == c["ids"].get<Ids>());
  }
  const Ids spelled = tokenizer.encode_text("a<｜User｜>b");
  CHECK(tokenizer.decode(spelled) == "a<｜User｜>b");
  CHECK(std::ranges::none_of(spelled, [&](int id) { return tokenizer.is_added(id); }));
  CHECK(tokenizer.is_added(128803));
  CHECK_THROWS_AS(tokenizer.encode_text("\xFF"), dsv3::Error);
  int unknown = 0;
  for (int id = 0; id < tokenizer.vocab_size(); ++id) unknown += tokenizer.token_id(tokenizer.token_bytes(id)) != id;
  CHECK(unknown == 0);
  // Long words and long runs of white space: anything but n log n would take minutes.
  for (const std::string& text : {std::string(1 << 18, 'a'), std::string(1 << 18, ' ') + "a", std::string(1 << 18, '\n')})
    CHECK((tokenizer.decode(tokenizer.encode(text)) == text));
}

TEST_CASE("the Shakespeare tokenizer") {
  const Tokenizer tokenizer = Tokenizer::open(DSV3_MODELS "/shakespeare/tokenizer.json");
  const Json greedy = read_json(DSV3_TEST_DATA "/shakespeare/greedy.json");
  const auto text = greedy["text"].get<std::string>();
  const auto ids = greedy["ids"].get<Ids>();  // prompt and continuation
  const Ids prompt = tokenizer.encode(greedy["prompt"].get<std::string>());
  REQUIRE(ids.size() > prompt.size());
  CHECK(Ids(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(prompt.size())) == prompt);
  CHECK(tokenizer.decode(ids) == text);
  CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
  for (const Json& expected : read_json(DSV3_TEST_DATA "/tokenizer/vectors.json")) {
    const auto other = expected["text"].get<std::string>();
    CHECK(tokenizer.decode(tokenizer.encode(other)) == other);
  }
}

TEST_CASE("merges apply in their order, in either notation") {
  Json json = small();
  CHECK(parse(json).encode("abc") == Ids{258});
  CHECK(parse(json).encode("abbc ab") == Ids{256, 257, 32, 256});
  json["model"]["merges"] = Json::parse(R"([["a", "b"], ["b", "c"], ["a", "bc"]])");
  CHECK(parse(json).encode("abc") == Ids{256, 99});
}

TEST_CASE("ignore_merges takes a whole piece that is in the vocabulary") {
  Json json = small();
  CHECK(parse(json).encode(" a") == Ids{32, 97});
  json["model"]["ignore_merges"] = true;
  CHECK(parse(json).encode(" a") == Ids{259});
  CHECK(parse(json).encode(" ab") == Ids{32, 256});
}

TEST_CASE("added tokens: leftmost, then longest, and those marked normalized last") {
  Json json = small();
  json["added_tokens"] = {added(300, "<a>"), added(301, "<a><b>"), added(302, "b><c"), added(303, "x<a", true), added(304, " ")};
  const Tokenizer tokenizer = parse(json);
  CHECK(tokenizer.encode("<a><b>") == Ids{301});
  CHECK(tokenizer.encode("<a>b><c<a>") == Ids{300, 302, 300});
  CHECK(tokenizer.encode("x<a>") == Ids{'x', 300});
  CHECK(tokenizer.encode("x<ax<") == Ids{303, 'x', '<'});
  CHECK(tokenizer.encode("ab c") == Ids{256, 304, 'c'});
  CHECK(tokenizer.decode(Ids{301, 97, 304}) == "<a><b>a ");
  CHECK(tokenizer.vocab_size() == 305);
  CHECK_THROWS_WITH(tokenizer.token_bytes(299), "t.json: expected a token id of the vocabulary (below 305), found 299");
}

TEST_CASE("ignore_merges never takes an added token for a piece") {
  Json json = small();
  json["model"]["ignore_merges"] = true;
  json["added_tokens"] = {added(300, "bbb"), added(256, "ab")};
  const Tokenizer tokenizer = parse(json);
  CHECK(tokenizer.encode("bbb") == Ids{300});
  CHECK(tokenizer.encode_text("bbb") == Ids{98, 98, 98});
}

TEST_CASE("every supported feature gives the ids of Hugging Face's tokenizers") {
  const Json features = read_json(DSV3_TEST_DATA "/tokenizer/features.json");
  for (const Json& variant : features["variants"]) {
    CAPTURE(variant["name"]);
    Json json = variant;
    json["model"] = features["model"];
    const Tokenizer tokenizer = parse(json);
    for (const Json& c : variant["cases"]) {
      const auto text = c[0].get<std::string>();
      CAPTURE(text);
      CHECK(tokenizer.encode(text) == c[1].get<Ids>());
      if (c[2].is_string()) CHECK(shown(tokenizer.decode(c[1].get<Ids>())) == c[2].get<std::string>());
    }
  }
}

/// A folder with the tiktoken.model of features.json.
class TiktokenFolder {
 public:
  explicit TiktokenFolder(const Json& tiktoken) {
    std::ofstream model(folder_ / "tiktoken.model");
    int id = 0;
    for (const Json& token : tiktoken["model"]) model << token.get<std::string>() << ' ' << id++ << '\n';
    write_config({{"tokenizer_class", "TikTokenTokenizer"}, {"added_tokens_decoder", tiktoken["added_tokens_decoder"]}});
  }

  void write_config(const Json& config) { std::ofstream(folder_ / "tokenizer_config.json") << config; }
  void write_model(const std::string& text) { std::ofstream(folder_ / "tiktoken.model") << text; }
  std::string open_message() const {
    return message_of([&] { (void)Tokenizer::open(folder_.path()); });
  }
  std::string path(const char* name) const { return (folder_ / name).string(); }
  Tokenizer open() const { return Tokenizer::open(folder_.path()); }

 private:
  TempFolder folder_;
};

TEST_CASE("tiktoken.model gives tiktoken's ids") {
  const Json tiktoken = read_json(DSV3_TEST_DATA "/tokenizer/features.json")["tiktoken"];
  const Tokenizer tokenizer = TiktokenFolder(tiktoken).open();
  CHECK(tokenizer.vocab_size() == 896);
  CHECK(tokenizer.token_id("<|im_end|>") == 642);
  CHECK(tokenizer.token_bytes(700) == "<|reserved_token_700|>");
  CHECK(tokenizer.post_processor().is_null());
  for (const Json& c : tiktoken["cases"]) {
    const auto text = c[0].get<std::string>();
    CAPTURE(text);
    CHECK(tokenizer.encode(text) == c[1].get<Ids>());
    CHECK(tokenizer.encode_text(text) == c[2].get<Ids>());
    CHECK(tokenizer.decode(c[1].get<Ids>()) == text);
  }
  // Long words must cost neither time nor memory out of proportion.
  for (const char* part : {"a", "A", "あ", "的", "\u0301", "!", "Aa", " "}) {
    std::string text;
    while (text.size() < (std::size_t{1} << 18)) text += part;
    CHECK((tokenizer.decode(tokenizer.encode(text)) == text));
  }
}

TEST_CASE("mistakes in tiktoken.model and beside it are named") {
  const Json tiktoken = read_json(DSV3_TEST_DATA "/tokenizer/features.json")["tiktoken"];
  TiktokenFolder folder(tiktoken);
  const std::string model = folder.path("tiktoken.model"), config = folder.path("tokenizer_config.json");
  for (const char* line :
       {"IQ== x", "IQ==", "IQ= 0", "I Q== 0", "IR== 0", " 0", "IQ== -1", "IQ== 99999999999", "IQ==IQ== 0", "{\"a\": 1}"}) {
    CAPTURE(line);
    folder.write_model("IQ== 0\n\n" + std::string(line));
    CHECK(folder.open_message().starts_with(model + ": line 3: expected a token of 1 to 512 bytes in base64, a space and an id, found "));
  }
  folder.write_model("IQ== 0\nIg== 0\n");
  CHECK(folder.open_message() == model + ": id 0 is given twice");
  folder.write_model("IQ== 0\r\nIg== 2\r\n");
  CHECK(folder.open_message() == model + ": expected ids from 0 to 1 for 2 tokens, found 2");
  folder.write_config({{"tokenizer_class", "TikTokenTokenizer"}});
  folder.write_model("IQ== 0\nIQ== 1\n");
  CHECK(folder.open_message() == model + ": token \"!\" is listed twice");
  folder.write_model("");
  CHECK(folder.open_message() == model + ": expected a token for each of the 256 bytes, found none for byte 0");
  TiktokenFolder whole(tiktoken);
  const std::string named = whole.path("tokenizer_config.json");
  const auto message = [&](const Json& names, const char* type = "TikTokenTokenizer") {
    whole.write_config({{"tokenizer_class", type}, {"added_tokens_decoder", names}});
    return whole.open_message();
  };
  CHECK(message(nullptr) == named + ": added_tokens_decoder: expected an object, found null");
  CHECK(message({}, "QWenTokenizer") ==
        named + ": tokenizer_class: expected \"TikTokenTokenizer\", found \"QWenTokenizer\" (not supported with tiktoken.model)");
  for (const char* id : {"639", "896", "-1", "x", "", "99999999999999999999"})
    CHECK(message({{id, {{"content", "<x>"}}}}) == named + ": added_tokens_decoder[\"" + id + "\"]: expected an id from 640 to 895");
  CHECK(message({{"640", {{"content", ""}}}}) == named + ": added_tokens_decoder[\"640\"].content: expected text, found \"\"");
  CHECK(message({{"640", {{"content", "x"}}}, {"641", {{"content", "x"}}}}) ==
        whole.path("tiktoken.model") + ": added token \"x\" is listed twice");
  std::filesystem::remove(named);
  CHECK(whole.open_message() == named + ": cannot open: No such file or directory");
  const TempFolder empty;
  CHECK(message_of([&] { (void)Tokenizer::open(empty.path()); }) ==
        empty.path().string() + ": expected a file tokenizer.json or tiktoken.model in this folder, found neither");
}

TEST_CASE("text that a normalizer or a decoder blows up is refused") {
  Json json = small();
  const Json twice{{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}};
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", Json::array()}};
  json["decoder"] = {{"type", "Sequence"}, {"decoders", Json::array({{{"type", "ByteLevel"}}})}};
  for (int i = 0; i < 30; ++i) json["decoder"]["decoders"].push_back(twice);
  CHECK(message_of([&] { (void)parse(json).decode(Ids{97}); }) == "decoder: expected at most 1048592 bytes of text, found more");
  for (int i = 0; i < 30; ++i) json["normalizer"]["normalizers"].push_back(twice);
  CHECK(message_of([&] { (void)parse(json).encode("a"); }) == "normalizer: expected at most 1048592 bytes of normalized text, found more");
}

TEST_CASE("marks in any order are normalized in n log n") {
  std::string text = "a";
  for (int i = 0; i < 1 << 18; ++i) text += "\u0301\u0316";
  CHECK(dsv3::io::normal_form(text, true).size() == text.size() - 1);
  CHECK(dsv3::io::normal_form("\u212B\u1E9B\u0323 각\u11A8", true) == "\u00C5\u1E9B\u0323 각\u11A8");
  CHECK(dsv3::io::normal_form("\u1E9B\u0323 각", false) == "\u017F\u0323\u0307 \u1100\u1161\u11A8");
}

TEST_CASE("a token outside the byte-level alphabet stands for its text") {
  Json json = small();
  json["model"]["vocab"]["<｜x｜>"] = 260;
  CHECK(parse(json).decode(Ids{260}) == "<｜x｜>");
  json["added_tokens"] = Json::array({added(260, "<｜x｜>")});
  CHECK(parse(json).encode("a<｜x｜>") == Ids{97, 260});
}

TEST_CASE("all bytes survive, and what is not UTF-8 is refused") {
  const Tokenizer tokenizer = parse(small());
  Ids all;
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) {
    all.push_back(byte);
    bytes += static_cast<char>(byte);
  }
  CHECK(tokenizer.decode(all) == bytes);
  CHECK(tokenizer.encode(std::string_view("\0\x7F", 2)) == Ids{0, 127});
  CHECK(tokenizer.encode("") == Ids{});
  CHECK_THROWS_WITH(tokenizer.encode("abc\xFF"), "text to encode: expected UTF-8, found an invalid sequence at byte 3");
  for (const char* bad : {"\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE0\x80\x80", "\xF0\x80\x80\x80", "\x80", "\xE4\xB8", "\xF5"})
    CHECK_THROWS_AS(tokenizer.encode(bad), dsv3::Error);
  for (const int id : {-1, 260, 1 << 30}) CHECK_THROWS_AS(tokenizer.decode(Ids{id}), dsv3::Error);
}

TEST_CASE("pre-tokenizer steps") {
  CHECK(pieces(byte_level(), "I'll go 12") == "I'll go 12");
  CHECK(pieces(byte_level(true), "I'll  go 12!") == "I|'ll| | go| 12|!");
  CHECK(pieces(regex_split("\\p{N}{1,3}"), "a1234b") == "a|123|4|b");
  CHECK(pieces(regex_split("a*"), "baab") == "b|aa|b");
  CHECK(pieces(regex_split("(?=b)|$"), "éabb") == "éa|b|b");
  CHECK(pieces(regex_split(".", "String"), "a.b") == "a|.|b");
  CHECK(pieces(regex_split("\\s+$"), "a \nb ") == "a| |\nb| ");
  // Oniguruma's \s is White_Space: with U+0085, without U+180E.
  CHECK(pieces(regex_split("\\s"), "a\u0085b\u180Ec") == "a|\u0085|b\u180Ec");
  CHECK(pieces(regex_split("[^\\s]+"), "a\u0085b\u180Ec") == "a|\u0085|b\u180Ec");
  for (const bool each : {true, false}) {
    const Json digits{{"type", "Digits"}, {"individual_digits", each}};
    CHECK(pieces({{"type", "Sequence"}, {"pretokenizers", {digits, byte_level()}}}, "a12") == (each ? "a|1|2" : "a|12"));
  }
}

TEST_CASE("patterns that PCRE2 would read in another way are refused") {
  for (const char* pattern :
       {"\\w",     "\\bx",   "\\h",     "\\K",     "\\C",     "\\p{^Han}", "\\p{Any}", "\\pL",        "\\x41",           "[[:alpha:]]",
        "[[]a]",   "[a&&]",  "[&&a]",   "[a&&&b]", "[a-[b]]", "[[a]-b]",   "[a-\\S]",  "a{,3}",       "a{2}+",           "(?i)a",
        "(?<n>a)", "(?m:a)", "(*FAIL)", "(?R)",    "(a)\\1",  "[]a]",      "a\\",      "(?i:\\p{L})", "(?i:(x[\\p{L}]))"}) {
    CAPTURE(pattern);
    const std::string message = message_of([&] { pieces(regex_split(pattern), "a"); });
    CHECK(message.starts_with("t.json: pre_tokenizer.pretokenizers[0]: pattern "));
    CHECK(message.ends_with(" is not supported"));
  }
}

TEST_CASE("what is not supported is named") {
  const auto sequence = [](const Json& step) { return Json{{"type", "Sequence"}, {"normalizers", Json::array({step})}}; };
  CHECK(message_with("/normalizer", {{"type", "Lowercase"}}) ==
        "t.json: normalizer.type: expected NFC, NFD, Prepend, Replace, Strip or Sequence, found \"Lowercase\" (not supported)");
  CHECK(message_with("/normalizer", sequence({{"type", "NFKC"}})) ==
        "t.json: normalizer.normalizers[0].type: expected NFC, NFD, Prepend, Replace, Strip or Sequence, found \"NFKC\" (not supported)");
  CHECK(message_with("/normalizer", {{"type", "Replace"}, {"pattern", {{"Regex", "a*"}}}, {"content", "b"}}) ==
        "t.json: normalizer.pattern: expected one that cannot match nothing, found one that can (not supported)");
  CHECK(message_with("/normalizer", {{"type", "Sequence"}, {"normalizers", Json::array()}}) == "(no error)");
  CHECK(message_with("/pre_tokenizer", {{"type", "Metaspace"}}) ==
        "t.json: pre_tokenizer.type: expected Sequence, Split, Digits or ByteLevel, found \"Metaspace\" (not supported)");
  CHECK(message_with("/pre_tokenizer", {{"type", "Digits"}, {"individual_digits", true}}) ==
        "t.json: pre_tokenizer: expected ByteLevel as the last step, found none (only byte-level tokenizers are supported)");
  CHECK(message_with("/pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {byte_level(), byte_level()}}}) ==
        "t.json: pre_tokenizer.pretokenizers[1]: expected nothing after ByteLevel, found another step");
  CHECK(message_with("/decoder/type", "WordPiece") ==
        "t.json: decoder.type: expected \"ByteLevel\" or \"Sequence\", found \"WordPiece\" (not supported)");
  CHECK(message_with("/decoder", {{"type", "Sequence"}, {"decoders", {{{"type", "ByteLevel"}}, {{"type", "ByteFallback"}}}}}) ==
        "t.json: decoder.decoders[1].type: expected Fuse, Replace or Strip, found \"ByteFallback\" (not supported)");
  CHECK(message_with("/decoder", {{"type", "Sequence"}, {"decoders", {{{"type", "Fuse"}}, {{"type", "ByteLevel"}}}}}) ==
        "t.json: decoder.decoders[0].type: expected ByteLevel, found \"Fuse\" (not supported)");
  CHECK(message_with("/model/type", "Unigram") == "t.json: model.type: expected \"BPE\", found \"Unigram\" (not supported)");
  CHECK(message_with("/model/dropout", 0.1) == "t.json: model.dropout: expected null, found 0.1 (not supported)");
  CHECK(message_with("/model/end_of_word_suffix", "</w>") ==
        "t.json: model.end_of_word_suffix: expected null, found \"</w>\" (not supported)");
  Json split = regex_split("a");
  split["pretokenizers"][0]["behavior"] = "Merged";
  CHECK(message_with("/pre_tokenizer", split) ==
        "t.json: pre_tokenizer.pretokenizers[0].behavior: expected Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous, "
        "found \"Merged\"");
  CHECK(message_with("/pre_tokenizer", regex_split("\\p{Klingon}")) ==
        "t.json: pre_tokenizer.pretokenizers[0]: pattern \"\\\\p{Klingon}\": not a valid regular expression: unknown property after \\P or "
        "\\p");
  CHECK(message_with("/added_tokens", Json::array({added(233, "é")})) ==
        "t.json: added_tokens[0].content: \"é\" stands for other bytes in model.vocab (not supported)");
}

TEST_CASE("contradictions in the file are named") {
  CHECK(message_with("/added_tokens", Json::array({added(300, "<x>"), added(301, "<x>")})) ==
        "t.json: added_tokens[1].content: \"<x>\" is listed twice");
  CHECK(message_with("/added_tokens", Json::array({added(97, "<x>")})) == "t.json: added_tokens[0]: id 97 is already that of \"a\"");
  CHECK(message_with("/added_tokens", Json::array({added(98, "a")})) ==
        "t.json: added_tokens[0].id: expected 97 as in model.vocab, found 98");
  CHECK(message_with("/added_tokens", Json::array({added(300, "")})) == "t.json: added_tokens[0].content: expected text, found \"\"");
  CHECK(message_with("/added_tokens", Json::array({added(97, "a")})) == "(no error)");
  CHECK(message_with("/model/vocab/ab", 97) == "t.json: model.vocab[\"ab\"]: id 97 is already that of \"a\"");
  CHECK(message_with("/model/vocab/", 300) == "t.json: model.vocab[\"\"]: expected no empty token");
  CHECK(message_with("/model/merges/1", "x yz") == "t.json: model.merges[1]: expected tokens of model.vocab, found \"yz\"");
  CHECK(message_with("/model/merges/1", "b b") == "t.json: model.merges[1]: expected tokens of model.vocab, found \"bb\"");
  for (const Json& merge :
       {Json("ab"), Json(" a"), Json("a "), Json("a b c"), Json::array({"a"}), Json::array({"a", 1}), Json(7), Json::array({"", "a"})})
    CHECK(message_with("/model/merges/1", merge).starts_with("t.json: model.merges[1]: expected \"left right\" or"));
}

TEST_CASE("a value of any other type anywhere is an Error or harmless, never another exception") {
  Json json = small();
  json["added_tokens"] = Json::array({added(300, "<x>")});
  json["pre_tokenizer"] = regex_split("a");
  json["normalizer"] = Json::parse(R"({"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"String": "x"}, "content": "y"},
      {"type": "Strip", "strip_left": true, "strip_right": true}, {"type": "Prepend", "prepend": "z"}, {"type": "NFC"}]})");
  json["decoder"] = Json::parse(R"({"type": "Sequence", "decoders": [{"type": "ByteLevel"},
      {"type": "Replace", "pattern": {"String": "x"}, "content": "y"}, {"type": "Strip", "content": " ", "start": 1, "stop": 1}]})");
  json["model"].update({{"ignore_merges", true}, {"dropout", nullptr}, {"end_of_word_suffix", ""}});
  const Json flat = json.flatten();
  std::vector<std::string> places;
  for (const auto& [place, value] : flat.items()) {
    if (place.starts_with("/model/vocab/") && !place.ends_with("/ab")) continue;
    for (std::string prefix = place; !prefix.empty(); prefix.resize(prefix.rfind('/'))) places.push_back(prefix);
  }
  for (const std::string& place : places) {
    CAPTURE(place);
    for (const Json& value :
         {Json(), Json(true), Json(-1), Json(1.5), Json("x"), Json(""), Json::array(), Json::object(), Json::array({1, 2})}) {
      Json changed = json;
      changed[Json::json_pointer(place)] = value;
      try {
        const Tokenizer tokenizer = parse(changed);
        (void)tokenizer.decode(tokenizer.encode("ab<x>"));
      } catch (const dsv3::Error& error) {
        CHECK(std::string_view(error.what()).starts_with("t.json: "));
      }
    }
    const std::size_t slash = place.rfind('/');
    Json without = json;
    Json& parent = without[Json::json_pointer(place.substr(0, slash))];
    if (!parent.is_object()) continue;
    parent.erase(place.substr(slash + 1));
    try {
      (void)parse(without);
    } catch (const dsv3::Error& error) {
      CHECK(std::string_view(error.what()).starts_with("t.json: "));
    }
  }
}

TEST_CASE("hostile files end in an Error that names the file") {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(DSV3_TEST_DATA "/hostile/tokenizer")) {
    const std::string path = entry.path().string();
    CAPTURE(path);
    const std::string message = message_of([&] { (void)Tokenizer::open(path).encode(std::string(64, 'a')); });
    CHECK(message.starts_with(path + ": "));
    ++files;
  }
  CHECK(files >= 12);
  CHECK_THROWS_WITH(Tokenizer::open("no/such/tokenizer.json"), "no/such/tokenizer.json: cannot open: No such file or directory");
  CHECK_THROWS_WITH(Tokenizer::open(DSV3_TEST_DATA),
                    DSV3_TEST_DATA ": expected a file tokenizer.json or tiktoken.model in this folder, found neither");
}

TEST_CASE("Utf8Stream returns whole characters only") {
  const std::string text = "aé東👩\u200D👧\u00FF";
  for (std::size_t step = 1; step < 6; ++step) {
    dsv3::io::Utf8Stream stream;
    std::string shown;
    for (std::size_t i = 0; i < text.size(); i += step) {
      const std::string part = stream.push(std::string_view(text).substr(i, step));
      CHECK(dsv3::io::valid_utf8_prefix(part) == part.size());
      shown += part;
    }
    CHECK(shown + stream.finish() == text);
  }
  dsv3::io::Utf8Stream stream;
  CHECK(stream.push("\xE6\x9D") == "");
  CHECK(stream.push("a\xFF") == "\uFFFDa\uFFFD");
  CHECK(stream.push("\xF0\x9F") == "");
  CHECK(stream.finish() == "\uFFFD");
  CHECK(stream.finish() == "");
}

}  // namespace
