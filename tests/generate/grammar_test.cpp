#include <doctest/doctest.h>

#include <chrono>
#include <fstream>
#include <iterator>
#include <random>

#include "dsv3/generate/gbnf.hpp"
#include "dsv3/generate/grammar_mask.hpp"

using namespace dsv3;
using grammar::Matcher;
using grammar::parse_gbnf;

namespace {

bool matches(Matcher& m, std::string_view text) { return m.may_end(m.next(m.first(), text)); }
bool matches(std::string_view gbnf, std::string_view text) {
  Matcher m(parse_gbnf(gbnf));
  return matches(m, text);
}

std::string error_of(const std::string& gbnf) {
  try {
    (void)parse_gbnf(gbnf);
  } catch (const Error& e) {
    return e.what();
  }
  return "none";
}

constexpr const char* json = R"(
root ::= value   # a comment
value ::= object | array | string | [0-9]+ | "true" | "null"
object ::= "{" (string ":" value ("," string ":" value)*)? "}"
array ::= "[" (value ("," value)*)? "]"
string ::= "\"" [^"\\]* "\""
)";

std::string utf8(grammar::Character c) {
  std::string out;
  for (const auto& s : grammar::utf8_symbols(c)) out += static_cast<char>(s.low);
  return out;
}

}  // namespace

TEST_CASE("operators of GBNF") {
  CHECK(matches("root ::= \"ab\"* \"c\"", "ababc"));
  CHECK_FALSE(matches("root ::= \"ab\"* \"c\"", "abac"));
  CHECK(matches("root ::= \"a\"+", "aaa"));
  CHECK_FALSE(matches("root ::= \"a\"+", ""));
  CHECK(matches("root ::= \"a\"? \"b\"?", ""));
  CHECK(matches("root ::= (\"a\" | \"b\" \"c\")+ | \"d\"", "abca"));
  CHECK(matches("root ::= \"d\" |\n  \"e\"\nother ::= root", "e"));
  CHECK(matches("root ::= \"\\x41\\u00e9\\U0001F600\\n\\\"\"", "A\xC3\xA9\xF0\x9F\x98\x80\n\""));
  CHECK(matches("root ::= [a-c\\]\\-é-ü]+", "b]-ö"));
  CHECK_FALSE(matches("root ::= [^a-c]", "b"));
  CHECK(matches("root ::= .", "\xE2\x82\xAC"));
  CHECK_FALSE(matches("root ::= .", "\xE2\x82"));
  CHECK_FALSE(matches("root ::= .*", "\xED\xA0\x80"));  // a surrogate
  CHECK(matches("root ::= [-a]+", "a-"));
}

TEST_CASE("counted repetition matches exactly the counts it names") {
  const std::vector<std::tuple<std::string, int, int>> cases{{"{3}", 3, 3},   {"{2,}", 2, 1000}, {"{0,4}", 0, 4},
                                                             {"{1,1}", 1, 1}, {"{0}", 0, 0},     {"{2,5}", 2, 5}};
  for (const std::string item : {"\"a\"", "\"ab\"", "[xy]"})
    for (const auto& [repeated, least, most] : cases) {
      const std::string gbnf = "root ::= " + item + repeated;
      CAPTURE(gbnf);
      Matcher m(parse_gbnf(gbnf));
      std::string text;
      for (int n = 0; n < 9; ++n) {
        CHECK(matches(m, text) == (n >= least && n <= most));
        text += item[0] == '[' ? (n % 2 ? "x" : "y") : item == "\"a\"" ? "a" : "ab";
      }
    }
}

TEST_CASE("classes match exactly their characters") {
  std::mt19937 random(3);
  const std::vector<grammar::Character> edges{0, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF};
  for (int round = 0; round < 30; ++round) {
    const auto pick = [&] { return round % 2 ? edges[random() % edges.size()] : static_cast<grammar::Character>(random() % 0x110000); };
    auto low = pick(), high = pick();
    if (low > high) std::swap(low, high);
    CAPTURE(low);
    CAPTURE(high);
    std::vector<std::vector<grammar::Symbol>> sequences;
    grammar::utf8_ranges(low, high, [&](std::vector<grammar::Symbol> s) { sequences.push_back(std::move(s)); });
    int wrong = 0;
    for (grammar::Character c = 0; c <= grammar::last_character; c += round < 4 ? 1 : 1 + static_cast<grammar::Character>(random() % 200)) {
      if (c >= 0xD800 && c <= 0xDFFF) continue;
      const std::string bytes = utf8(c);
      const auto is_match = [&](const auto& s) {
        return s.size() == bytes.size() && std::equal(s.begin(), s.end(), bytes.begin(), [](const auto& symbol, char b) {
                 return symbol.low <= static_cast<unsigned char>(b) && static_cast<unsigned char>(b) <= symbol.high;
               });
      };
      wrong += std::count_if(sequences.begin(), sequences.end(), is_match) != (c >= low && c <= high ? 1 : 0);
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("nested text needs a stack") {
  Matcher m(parse_gbnf(json));
  CHECK(matches(m, R"({"a":[1,2,{"b":null}],"c":"x y"})"));
  CHECK_FALSE(matches(m, R"({"a":[1,2})"));
  CHECK_FALSE(matches(m, R"({"a":1)"));
  CHECK(m.next(m.first(), "[1}") == Matcher::dead);
  std::string deep(100, '[');
  CHECK(matches(m, deep + std::string(100, ']')));
  CHECK_FALSE(matches(m, deep + std::string(99, ']')));
  // Repetition takes no stack, nesting has its limit.
  std::string list = "[1";
  for (int i = 0; i < 2000; ++i) list += ",1";
  CHECK(matches(m, list + "]"));
  CHECK(m.next(m.first(), std::string(5000, '[')) == Matcher::dead);
  CHECK(m.states() < 3000);
}

TEST_CASE("what may be empty may be repeated") {
  CHECK(matches("root ::= (\"a\"*)* \"b\"", "aab"));
  CHECK(matches("root ::= (\"a\"? \"b\"?)+ ws ws\nws ::= [ ]*", "abba "));
}

TEST_CASE("malformed grammars are refused with the line") {
  CHECK(error_of("root = 1") == "grammar: line 1: expected a rule: NAME ::= ..., found '= 1'");
  CHECK(error_of("root ::= \"a\n") == "grammar: line 1: expected '\"', found '\n'");
  CHECK(error_of("a ::= \"x\"") == "grammar: expected a rule named root, found none");
  CHECK(error_of("root ::= b") == "grammar: rule b is used, but not defined");
  CHECK(error_of("root ::= \"a\"\nroot ::= \"b\"") == "grammar: rule root is defined twice");
  for (const std::string bad : {"", "root ::= (\"a\"", "root ::= \"a\")", "root ::= [z-a]", "root ::= [a", "root ::= \"\\q\"",
                                "root ::= \"\\xZ0\"", "root ::= \"a\"{x}", "root ::= \"a\"{2", "root ::= \"a\"{3,2}", "root ::= *",
                                "root ::= \"\\uD800\"", "root ::= [\xFF]", "root ::= \"\\U00110000\"", "root ::= [\\"}) {
    CAPTURE(bad);
    CHECK(error_of(bad).starts_with("grammar: "));
  }
}

TEST_CASE("long lists of words and large repetitions") {
  std::string words = "root ::= ";
  for (int i = 0; i < 2000; ++i) words += (i == 0 ? "\"item " : " | \"item ") + std::to_string(i) + "\"";
  for (const char* word : {"item 0", "item 7", "item 77", "item 1999"}) CHECK(matches(words, word));
  for (const char* word : {"item ", "item 2000", "item 00", "tem 1"}) CHECK(!matches(words, word));
  CHECK(matches("root ::= \"\" | \"a\" | \"ab\" | \"ab\"", ""));

  const auto repeated = [](const std::string& counts, std::size_t times) {
    return matches("root ::= \"<\" [\\d]{" + counts + "} \">\"", "<" + std::string(times, '7') + ">");
  };
  for (const std::size_t n : {0u, 1u, 255u, 256u, 257u, 299u, 300u, 301u, 511u, 512u, 513u, 999u, 1000u, 1001u, 1300u, 4000u}) {
    CAPTURE(n);
    CHECK(repeated("0,300", n) == (n <= 300));
    CHECK(repeated("300", n) == (n == 300));
    CHECK(repeated("257,", n) == (n >= 257));
    CHECK(repeated("512,1000", n) == (n >= 512 && n <= 1000));
    CHECK(repeated("1,1000", n) == (n >= 1 && n <= 1000));
    CHECK(repeated("300,301", n) == (n == 300 || n == 301));
  }
  CHECK(matches("root ::= (\"ab\" | \"c\"){2,700} [\\w\\s]", std::string(600, 'c') + "abab_"));
}

TEST_CASE("grammars that common tools write") {
  const auto grammar = [](const char* name) {
    std::ifstream in(std::string(DSV3_TEST_DATA "/cases/gbnf/") + name + ".gbnf");
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  CHECK((matches(grammar("enum_501"), "item 500") && !matches(grammar("enum_501"), "item 501")));
  CHECK((matches(grammar("shorthand"), "123x") && !matches(grammar("shorthand"), "dx")));
  CHECK((matches(grammar("big_repeat"), "\"" + std::string(5000, 'a') + "\"") && !matches(grammar("big_repeat"), "\"\"")));
}

TEST_CASE("a mask goes on where a text has more states than are remembered") {
  const auto texts = std::make_shared<const grammar::TokenTexts>(3, [](int id) { return id == 0 ? "" : id == 1 ? "aaaaaaaa" : "b"; });
  GrammarMask mask(texts, parse_gbnf("root ::= [a]{1,65536} \"b\""), {0});
  std::vector<int> ids;
  const auto allowed = [&] {
    std::vector<std::uint8_t> tokens(3, 1);
    mask({ids, 0}, tokens);
    return tokens;
  };
  CHECK(allowed() == std::vector<std::uint8_t>{0, 1, 0});
  for (int i = 0; i < 8192; ++i) {
    ids.push_back(1);
    const auto tokens = allowed();
    REQUIRE(tokens == std::vector<std::uint8_t>{0, i < 8191, 1});
  }
  ids.resize(4000);  // what lies behind is forgotten, and walked again
  CHECK(allowed() == std::vector<std::uint8_t>{0, 1, 1});
  ids.resize(8192, 1);
  ids.push_back(2);
  CHECK(allowed() == std::vector<std::uint8_t>{1, 0, 0});
}

TEST_CASE("hostile grammars are errors, not hangs") {
  CHECK(error_of("root ::= root \"a\" | \"a\"") == "grammar: rule root is left-recursive: it may begin with itself, by way of rule root");
  CHECK(error_of("root ::= x \"c\"\nx ::= y \"b\"\ny ::= z x \"d\" | \"e\"\nz ::= \"f\"?").find("left-recursive") != std::string::npos);
  CHECK(error_of("root ::= \"a\" root") == "grammar: rule root matches no text: every way of it needs itself");
  CHECK(error_of("root ::= root").find("matches no text") != std::string::npos);
  CHECK(error_of("root ::= \"a\"{1000000000000000000000}").find("repetitions of at most") != std::string::npos);
  CHECK(error_of("root ::= ((((\"ab\"{99}){99}){99}){99}){99}").find("larger than") == std::string::npos);  // shared: small
  CHECK(error_of("root ::= \"" + std::string(100'000, 'a') + "\"").find("larger than") != std::string::npos);
  CHECK(error_of("root ::= " + std::string(5000, '(')).find("nested deeper") != std::string::npos);
  // A chain of many rules is walked without recursion.
  std::string chain = "root ::= r0\n";
  for (int i = 0; i < 10'000; ++i) chain += "r" + std::to_string(i) + " ::= r" + std::to_string(i + 1) + "\n";
  CHECK(matches(chain + "r10000 ::= \"x\"", "x"));
  // Dead ends are taken out: what cannot be completed does not match.
  Matcher dead_end(parse_gbnf("root ::= \"a\" x | \"b\"\nx ::= \"c\" x"));
  CHECK(dead_end.next(dead_end.first(), "a") == Matcher::dead);
  // 2^30 ways to begin.
  std::string ways = "root ::= r0\n";
  for (int i = 0; i < 30; ++i) {
    const auto n = std::to_string(i), next = "r" + std::to_string(i + 1);
    ways += "r" + n + " ::= " + next + " \"a\" | s" + n + " \"b\"\ns" + n + " ::= " + next + "\n";
  }
  CHECK_THROWS_AS(Matcher(parse_gbnf(ways + "r30 ::= \"x\"")), Error);
  // Ambiguity that grows with the text.
  CHECK_THROWS_AS(matches("root ::= s\ns ::= \"a\" s \"b\"? s? \"c\"? | \"a\"", std::string(10'000, 'a')), Error);
}

namespace {

/// A vocabulary of all bytes and some longer tokens; 0 is the control token, 1 ends the text.
std::vector<std::string> vocabulary() {
  std::vector<std::string> words{"", ""};
  for (int b = 0; b < 256; ++b) words.emplace_back(1, static_cast<char>(b));
  for (const char* w : {"true", "tr", "ue", "null", "{\"", "\":", "[[", "]]", "],", "12", "123", ",\"", "\"}", "}}", "aé", "\xC3", "[1,",
                        "xyz", "<control>"})
    words.emplace_back(w);
  return words;
}

}  // namespace

TEST_CASE("a mask allows exactly the tokens that the grammar can follow") {
  const auto words = vocabulary();
  const auto texts = std::make_shared<const grammar::TokenTexts>(static_cast<int>(words.size()),
                                                                 [&](int id) { return words[static_cast<std::size_t>(id)]; });
  GrammarMask mask(texts, parse_gbnf(json), {1});
  Matcher oracle(parse_gbnf(json));
  std::mt19937 random(5);
  std::vector<int> ids{7, 8, 9};  // a prompt, which the grammar does not see
  std::string text;
  std::vector<std::uint8_t> allowed;
  int ends = 0, walks = 0;
  const auto restart = [&] {
    ids.resize(3);
    text.clear();
    ++walks;
  };
  while (walks < 100) {
    allowed.assign(words.size(), 1);
    mask({ids, 3}, allowed);
    const auto state = oracle.next(oracle.first(), text);
    REQUIRE(state != Matcher::dead);
    for (std::size_t i = 0; i < words.size(); ++i) {
      const bool expected = i == 1 ? oracle.may_end(state) : !words[i].empty() && oracle.next(state, words[i]) != Matcher::dead;
      if (allowed[i] != expected) FAIL_CHECK("token '" << words[i] << "' after '" << text << "'");
    }
    std::vector<int> choice;
    for (std::size_t i = 0; i < words.size(); ++i)
      if (allowed[i]) choice.push_back(static_cast<int>(i));
    const int id = choice[random() % choice.size()];
    if (id == 1 || ids.size() > 30) {
      ends += id == 1;
      restart();
      continue;
    }
    if (random() % 4 == 0 && ids.size() > 5) {  // a rejected draft: the text becomes shorter and another
      ids.pop_back();
      text.clear();
      for (std::size_t i = 3; i < ids.size(); ++i) text += words[static_cast<std::size_t>(ids[i])];
      continue;
    }
    ids.push_back(id);
    text += words[static_cast<std::size_t>(id)];
  }
  CHECK(ends > 10);
}

TEST_CASE("a mask may begin behind the reasoning") {
  const auto words = vocabulary();
  const auto texts = std::make_shared<const grammar::TokenTexts>(static_cast<int>(words.size()),
                                                                 [&](int id) { return words[static_cast<std::size_t>(id)]; });
  GrammarMask mask(texts, parse_gbnf("root ::= \"a\""), {1}, 0);
  std::vector<std::uint8_t> allowed(words.size(), 1);
  const std::vector<int> thinking{50, 60};
  mask({thinking, 0}, allowed);
  CHECK(std::count(allowed.begin(), allowed.end(), 1) == static_cast<std::ptrdiff_t>(words.size()) - 1);
  CHECK_FALSE(allowed[1]);
  allowed.assign(words.size(), 1);
  const std::vector<int> answering{50, 60, 0};
  mask({answering, 0}, allowed);
  CHECK(std::count(allowed.begin(), allowed.end(), 1) == 1);
  CHECK(allowed[2 + 'a']);
  // A draft that will be rejected anyway is no error.
  allowed.assign(words.size(), 1);
  const std::vector<int> departed{50, 60, 0, 2 + 'b'};
  mask({departed, 0}, allowed);
  CHECK(std::count(allowed.begin(), allowed.end(), 1) == static_cast<std::ptrdiff_t>(words.size()));
}
