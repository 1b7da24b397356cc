#include "dsv3/io/json_schema.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <map>
#include <random>
#include <regex>

#include "dsv3/generate/gbnf.hpp"
#include "dsv3/generate/grammar_matcher.hpp"
#include "dsv3/io/json.hpp"

using namespace dsv3;
using Json = nlohmann::ordered_json;

namespace {

struct Schema {
  grammar::Matcher matcher;

  explicit Schema(const char* text) : matcher(grammar::parse_gbnf(io::json_schema_grammar(Json::parse(text)))) {}
  bool allows(std::string_view text) {
    auto state = matcher.first();
    for (const char c : text) {
      if (matcher.is_large()) state = matcher.keep_only(state);
      if (state != grammar::Matcher::dead) state = matcher.next(state, static_cast<unsigned char>(c));
    }
    return matcher.may_end(state);
  }
};

std::string error_of(const char* text) {
  try {
    Schema schema(text);
  } catch (const Error& e) {
    return e.what();
  }
  return "none";
}

}  // namespace

TEST_CASE("objects have the properties of their schema, in its order") {
  Schema s(R"({"type": "object", "properties": {"z": {"type": "integer"}, "a": {"type": "string"}, "o": {"type": "boolean"}},
               "required": ["a"], "additionalProperties": false})");
  CHECK(s.allows(R"({"z":1,"a":"x","o":true})"));
  CHECK(s.allows(R"({"z": -12, "a": "x"})"));
  CHECK(s.allows(R"({"a":"","o":false})"));
  CHECK(s.allows(R"({"a":"\u00e9\n é"})"));
  for (const char* bad : {R"({"z":1})", R"({"a":1})", R"({"a":"x","z":1})", R"({"a":"x",})", R"({,"a":"x"})", R"({"a":"x","q":1})",
                          R"({"z":01,"a":""})", "{}", R"({"a":"x)", "{\"a\":\"\n\"}", R"({"a":"\q"})"}) {
    CAPTURE(bad);
    CHECK_FALSE(s.allows(bad));
  }
  Schema optional(R"({"type": "object", "properties": {"a": {}, "b": {"type": "null"}}})");
  for (const char* good : {"{}", R"({"a":[1]})", R"({"b":null})", R"({"a":{"x":1.5e3},"b":null})"}) CHECK(optional.allows(good));
  CHECK_FALSE(optional.allows(R"({"b":null,"a":1})"));
  CHECK_FALSE(optional.allows(R"({,"b":null})"));
}

TEST_CASE("values of each type") {
  Schema number(R"({"type": "number"})");
  for (const char* good : {"0", "-0", "12", "-1.25", "1e9", "1.5E-3"}) CHECK(number.allows(good));
  for (const char* bad : {"", "-", ".5", "01", "1.", "1e", "+1", "NaN"}) CHECK_FALSE(number.allows(bad));
  Schema array(R"({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3})");
  CHECK(array.allows("[1]"));
  CHECK(array.allows("[1, 2,3]"));
  for (const char* bad : {"[]", "[1,2,3,4]", "[1,]", "[\"a\"]"}) CHECK_FALSE(array.allows(bad));
  Schema list(R"({"type": "array", "items": {"type": ["string", "null"], "maxLength": 2}})");
  CHECK(list.allows(R"([])"));
  CHECK(list.allows(R"(["ab",null,""])"));
  CHECK_FALSE(list.allows(R"(["abc"])"));
  Schema choice(R"({"enum": ["a \"quoted\" \\ é", 3, null, {"x": [true]}]})");
  for (const char* good : {R"("a \"quoted\" \\ é")", "3", "null", R"({"x":[true]})"}) CHECK(choice.allows(good));
  CHECK_FALSE(choice.allows("\"a\""));
  CHECK(Schema(R"({"const": "fixed"})").allows("\"fixed\""));
  Schema any(R"({"anyOf": [{"type": "integer"}, {"type": "array", "maxItems": 0}]})");
  CHECK(any.allows("5"));
  CHECK(any.allows("[]"));
  CHECK_FALSE(any.allows("[5]"));
  Schema length(R"({"type": "string", "minLength": 2, "maxLength": 3})");
  CHECK(length.allows(R"("é\n")"));
  CHECK_FALSE(length.allows("\"a\""));
  CHECK_FALSE(length.allows("\"abcd\""));
  CHECK(Schema("{}").allows(R"([{"a": "b", "c": [1, null]}, false])"));
}

TEST_CASE("references, also to themselves") {
  Schema tree(R"({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object",
    "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/node"}}}, "required": ["v", "kids"]}}})");
  CHECK(tree.allows(R"({"v":1,"kids":[{"v":2,"kids":[]},{"v":3,"kids":[]}]})"));
  CHECK_FALSE(tree.allows(R"({"v":1,"kids":[{"v":2}]})"));
  CHECK(error_of(R"({"$ref": "#"})").find("grammar: ") == 0);                    // it means nothing
  CHECK(error_of(R"({"anyOf": [{"$ref": "#"}, {"type": "null"}]})") == "none");  // null, said in a strange way
  CHECK(error_of(R"({"$ref": "#/$defs/none"})").find("schema.$ref") == 0);
  CHECK(error_of(R"({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})").find("matches no text") !=
        std::string::npos);
}

TEST_CASE("one of several documents, each behind a text of its own") {
  const Json tree = Json::parse(R"({"$ref": "#/$defs/t", "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}})"),
             other = Json::parse(R"({"$ref": "#/$defs/t", "$defs": {"t": {"enum": [1, 2]}}})");
  const std::vector<std::pair<std::string, Json>> choices{{"f\n\"", tree}, {"fg ", other}, {"", Json::parse(R"({"type": "null"})")}};
  const std::string gbnf = io::json_schema_grammar(std::span(choices));
  grammar::Matcher matcher(grammar::parse_gbnf(gbnf));
  const auto allows = [&](std::string_view text) { return matcher.may_end(matcher.next(matcher.first(), text)); };
  for (const char* good : {"f\n\"[[], [[]]]", "fg 2", "null"}) CHECK(allows(good));
  for (const char* bad : {"[]", "f\n\"1", "fg []", "fg null", "f", "fg "}) CHECK_FALSE(allows(bad));
}

TEST_CASE("what is not covered is refused by name") {
  CHECK(error_of(R"({"type": "array", "uniqueItems": true})") == "schema: keyword \"uniqueItems\" is not supported here");
  CHECK(error_of(R"({"type": "object", "properties": {"a": {"type": "number", "multipleOf": 3}}})") ==
        "schema.a: keyword \"multipleOf\" is not supported here");
  CHECK(error_of(R"x({"type": "object", "properties": {"a": {"pattern": "a(?=b)"}}})x").starts_with("schema.a.pattern: expected '(?:'"));
  CHECK(error_of(R"({"allOf": [{"type": "string"}, {"type": "integer"}]})") ==
        "schema: keyword \"type\" has two values here, which cannot be joined");
  for (const char* bad : {"[]",
                          "3",
                          "false",
                          R"({"type": "date"})",
                          R"({"type": 3})",
                          R"({"enum": []})",
                          R"({"enum": 3})",
                          R"({"type": "array", "prefixItems": []})",
                          R"({"type": "object", "additionalProperties": 3})",
                          R"({"type": "object", "required": [3]})",
                          R"({"type": "integer", "minimum": 3, "maximum": 2})",
                          R"({"type": "integer", "minimum": "1"})",
                          R"({"type": "number", "exclusiveMinimum": 1, "maximum": 1})",
                          R"({"allOf": []})",
                          R"({"nullable": 3})",
                          R"({"$ref": "#/$defs"})",
                          R"({"type": "string", "format": 3})",
                          R"({"type": "string", "pattern": "(a"})",
                          R"x({"type": "string", "pattern": "a)"})x",
                          R"({"type": "string", "pattern": "[a"})",
                          R"({"type": "string", "pattern": "a**"})",
                          R"({"type": "string", "pattern": "a{,3}"})",
                          R"({"type": "string", "pattern": "a$b"})",
                          R"({"type": "string", "pattern": "\\1"})",
                          R"({"minProperties": 2, "type": "object", "properties": {"a": {}}})",
                          R"({"type": "array", "minItems": 3, "maxItems": 2})",
                          R"({"type": "array", "maxItems": 1000000})",
                          R"({"type": "array", "maxItems": -1})",
                          R"({"oneOf": []})",
                          R"({"type": "object", "properties": []})",
                          R"({"type": "array", "items": {"type": "array", "items": {"type": "nothing"}}})"}) {
    CAPTURE(bad);
    CHECK(error_of(bad).starts_with("schema"));
  }
  CHECK(error_of(R"({"type": "string", "title": "T", "description": "D", "default": "x"})") == "none");
}

TEST_CASE("numbers in a range are those of the range") {
  std::mt19937 random(5);
  const auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  for (int i = 0; i < 60; ++i) {
    const int size = i % 3 == 0 ? 12 : i % 3 == 1 ? 150 : 3000;
    const int low = pick(-size, size), high = pick(low, size);
    CAPTURE(low);
    CAPTURE(high);
    const std::string range = R"("minimum": )" + std::to_string(low) + R"(, "maximum": )" + std::to_string(high) + "}";
    Schema integer((R"({"type": "integer", )" + range).c_str()), number((R"({"type": "number", )" + range).c_str());
    for (int value = -size - 2; value <= size + 2; ++value) {
      const std::string text = std::to_string(value);
      const bool inside = value >= low && value <= high;
      CHECK(integer.allows(text) == inside);
      CHECK(number.allows(text) == inside);
      CHECK(number.allows(text + ".0") == inside);
      CHECK(!integer.allows(text + ".0"));
      const bool between = value >= 0 ? value >= low && value < high : value > low && value <= high;  // 5.25, -5.25
      if (value != 0 || low > 0) CHECK(number.allows(text + ".25") == between);
    }
    CHECK(!integer.allows("007"));
    CHECK(!integer.allows("-0"));
  }
  Schema half(R"({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5})");
  for (const char* good : {"0.1", "0.5", "0.500000", "0.000001", "0.25"}) CHECK(half.allows(good));
  for (const char* bad : {"0", "0.0", "0.51", "1", "-0.1", "0.500001", ".5"}) CHECK(!half.allows(bad));
  Schema least(R"({"type": "integer", "exclusiveMinimum": 9})");
  CHECK((least.allows("10") && least.allows("100000000000") && !least.allows("9") && !least.allows("-10")));
  CHECK(error_of(R"({"type": "integer", "minimum": 1e12})") == "schema: expected a range that reaches into [-1e11, 1e11]");
  Schema draft4(R"({"type": "integer", "minimum": 9, "exclusiveMinimum": true, "maximum": 10})");
  CHECK((draft4.allows("10") && !draft4.allows("9")));
}

TEST_CASE("patterns are those of regular expressions") {
  std::mt19937 random(6);
  constexpr std::string_view letters = "abAZ09_- .\"\\\n\t(]^$";
  for (const char* pattern : {"^[A-Z]{3}$",  "^a+b?$",    "b",   "^b",     "0$",       "^(ab|A[^b])*$", "^[^a-z]*$",
                              "^\\d{2,}$",   "^[\\w-]+$", "\\s", "^\\S+$", "^a.c?",    "^\"\\\\$",      "^(?:a|b){1,2}$|^Z",
                              "^[\\]^$(]+$", "^[!-~]*$",  "^$",  "^\\.$",  "^a*?b+?$", "[\"\\\\]"}) {
    const std::string shown = pattern;
    CAPTURE(shown);
    const std::regex oracle(pattern, std::regex::ECMAScript);
    Schema schema(Json{{"type", "string"}, {"pattern", pattern}}.dump().c_str());
    int matched = 0;
    for (int i = 0; i < 3000; ++i) {
      std::string value;
      for (int n = std::uniform_int_distribution<int>(0, 5)(random); n > 0; --n) value += letters[random() % letters.size()];
      const bool expected = std::regex_search(value, oracle);
      matched += expected;
      const std::string text = Json(value).dump();
      CAPTURE(text);
      CHECK(schema.allows(text) == expected);
    }
    CHECK(matched > 0);
  }
  Schema accents(R"({"pattern": "^[\u00e0-\u00ff\u4e00]+$"})");
  CHECK((accents.allows("\"\u00e9\u4e00\"") && !accents.allows("\"e\"")));
}

TEST_CASE("formats, dictionaries, tuples, joined schemas") {
  const auto check = [](const char* schema, std::initializer_list<const char*> good, std::initializer_list<const char*> bad) {
    CAPTURE(schema);
    Schema s(schema);
    for (const char* text : good) CHECK_MESSAGE(s.allows(text), text);
    for (const char* text : bad) CHECK_MESSAGE(!s.allows(text), text);
  };
  check(R"({"type": "string", "format": "date-time"})", {R"("2026-11-27T23:59:59Z")", R"("2026-02-28T00:00:00.125+01:00")"},
        {R"("2026-02-29T00:00:00Z")", R"("2026-13-01T00:00:00Z")", R"("2026-04-31T00:00:00Z")", R"("2026-11-27T24:00:00Z")",
         R"("2026-11-27")", R"("x")"});
  check(R"({"format": "uuid"})", {R"("123e4567-e89b-12d3-a456-426614174000")"}, {R"("123e4567")"});
  check(R"({"type": "string", "format": "ipv4"})", {R"("192.168.0.255")"}, {R"("192.168.0.256")", R"("1.2.3")"});
  check(R"({"type": "string", "format": "email"})", {R"("ann@x.org")"}, {R"("ann")", R"("@x.org")"});
  check(R"({"type": "string", "format": "what is that", "maxLength": 2})", {R"("ab")"}, {R"("abc")"});
  check(R"({"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 2})",
        {"{}", R"({"a": 1})", R"({"a": 1, "b": 2})"}, {R"({"a": "x"})", R"({"a": 1, "b": 2, "c": 3})"});
  check(R"({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["b", "a"]})", {R"({"a": "x", "b": [1]})"},
        {R"({"a": "x"})", "{}"});
  check(R"({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}], "items": false})", {"[1, null]"},
        {"[1]", "[1, null, 2]", "[]"});
  check(R"({"type": "array", "prefixItems": [{"type": "integer"}], "items": {"type": "null"}, "minItems": 2, "maxItems": 3})",
        {"[1, null]", "[1, null, null]"}, {"[1]", "[1, null, null, null]"});
  check(R"({"oneOf": [{"type": "string"}, {"type": "integer"}], "discriminator": {"propertyName": "x"}})", {"\"a\"", "1"}, {"null"});
  check(
      R"({"allOf": [{"$ref": "#/$defs/a"}, {"properties": {"y": {"type": "null"}}, "required": ["y"]}], "$defs": {"a": {"type": "object", "properties": {"x": {"const": 1}}, "required": ["x"]}}})",
      {R"({"x": 1, "y": null})"}, {R"({"x": 1})", R"({"y": null})"});
  check(R"({"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 2}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]})",
        {R"({"a": 1})", R"({"b": 2})", R"({"a": 1, "b": 2})"}, {"{}"});
  check(R"({"type": "string", "enum": ["x"], "nullable": true})", {"\"x\"", "null"}, {"1"});
  check(R"({"properties": {"a": {"type": "string"}, "b": {"$ref": "#/properties/a", "maxLength": 1}}, "required": ["a", "b"]})",
        {R"({"a": "xyz", "b": "x"})"}, {R"({"a": "xyz", "b": "xy"})", R"({"a": 1, "b": "x"})"});
  // Schemas that would grow without end are refused.
  std::string doubling = R"({"$ref": "#/$defs/d0", "$defs": {)";
  for (int i = 0; i < 40; ++i) {
    const std::string next = "{\"$ref\": \"#/$defs/d" + std::to_string(i + 1) + "\"}";
    doubling += "\"d" + std::to_string(i) + "\": {\"allOf\": [" + next + ", " + next + "]}, ";
  }
  CHECK(error_of((doubling + R"("d40": {"type": "null"}}})").c_str()).starts_with("#/$defs/"));
  CHECK(error_of(R"({"$ref": "#", "minLength": 1})").find("nested deeper than") != std::string::npos);
}

TEST_CASE("schemas that common tools write") {
  const std::string ten_thousand(10'000, 'y');
  const std::map<std::string, std::pair<std::vector<std::string>, std::vector<std::string>>> cases{
      {"datetime_format", {{R"({"when": "2026-11-27T12:00:00Z"})"}, {R"({"when": "noon"})", "{}"}}},
      {"dict_str_int", {{R"({"m": {}})", R"({"m": {"a": 1, "b": -2}})"}, {R"({"m": {"a": "1"}})", R"({"m": 1})"}}},
      {"enum_501", {{"\"item 0\"", "\"item 250\"", "\"item 500\""}, {"\"item 501\"", "\"item \"", "\"item 5000\""}}},
      {"long_string", {{R"({"content": ""})"}, {R"({"content": 1})"}}},
      {"minimum", {{R"({"n": 0})", R"({"n": 10})"}, {R"({"n": 11})", R"({"n": -1})", R"({"n": 1.5})"}}},
      {"nullable_openapi", {{R"({"a": null})", R"({"a": "x"})"}, {R"({"a": 1})", "{}"}}},
      {"oneOf", {{"\"x\"", "5"}, {"null", "1.5"}}},
      {"pattern", {{R"({"id": "ABC"})"}, {R"({"id": "ABCD"})", R"({"id": "abc"})", R"({"id": ""})"}}},
      {"pydantic_enum_allof", {{R"({"thing": "bar"})", "{}"}, {R"({"thing": "baz"})"}}},
      {"ref_to_property", {{R"({"a": "x", "b": "y"})"}, {R"({"a": "x", "b": 1})", R"({"a": "x"})"}}},
      {"required_unknown", {{R"({"a": "x", "b": [1, null]})"}, {R"({"a": "x"})"}}},
      {"three_len_10000",
       {{R"({"a": ")" + ten_thousand + R"(", "b": "", "c": "z"})"}, {R"({"a": ")" + ten_thousand + R"(y", "b": "", "c": "z"})"}}}};
  std::size_t found = 0;
  for (const auto& file : std::filesystem::directory_iterator(DSV3_TEST_DATA "/cases/schema")) {
    const std::string name = file.path().stem();
    CAPTURE(name);
    REQUIRE(cases.contains(name));
    ++found;
    Schema schema(io::read_text_file(file.path(), 1 << 20).c_str());
    for (const std::string& good : cases.at(name).first) CHECK(schema.allows(good));
    for (const std::string& bad : cases.at(name).second) CHECK(!schema.allows(bad));
  }
  CHECK(found == cases.size());
}

TEST_CASE("every text that a random walk finds is JSON that fits") {
  Schema s(R"({"type": "object", "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"enum": ["x", "y"]}},
               "size": {"type": "number"}, "any": {}}, "required": ["name", "size"], "additionalProperties": false})");
  std::mt19937 random(11);
  int whole = 0;
  for (int walk = 0; walk < 200; ++walk) {
    std::string text;
    auto state = s.matcher.first();
    for (int n = 0; n < 400; ++n) {
      std::vector<unsigned char> bytes;
      for (int b = 0; b < 256; ++b)
        if (s.matcher.next(state, static_cast<unsigned char>(b)) != grammar::Matcher::dead) bytes.push_back(static_cast<unsigned char>(b));
      if (bytes.empty()) break;
      // Quotes and brackets end what was begun; without a liking for them walks seldom end.
      auto byte = bytes[random() % bytes.size()];
      for (const char end : {'"', '}', ']'})
        if (random() % 3 == 0 && std::find(bytes.begin(), bytes.end(), static_cast<unsigned char>(end)) != bytes.end())
          byte = static_cast<unsigned char>(end);
      text += static_cast<char>(byte);
      state = s.matcher.next(state, byte);
    }
    if (!s.matcher.may_end(state)) continue;
    ++whole;
    CAPTURE(text);
    const Json value = Json::parse(text);
    CHECK(value["name"].is_string());
    CHECK(value["size"].is_number());
    for (const auto& tag : value.value("tags", Json::array())) CHECK((tag == "x" || tag == "y"));
  }
  CHECK(whole > 50);
}
