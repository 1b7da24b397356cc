// Floor 6. Reads GBNF, llama.cpp's notation for grammars, into a Grammar.
//
//   root ::= "[" (value ("," value)*)? "]"     # comments reach to the end of the line
//   value ::= [0-9]+ | "\"" [^"\\\n]{0,20} "\""
//
// Literals "..." and classes [a-z], [^a-z] with the escapes \n \r \t \\ \" \[ \] \- \^ \xHH \uHHHH \UHHHHHHHH; any character "."; groups;
// * + ? {n} {n,} {n,m}; alternatives |. Classes may also hold \d \w \s. Token names (<think>) are not supported.
#pragma once

#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dsv3/generate/gbnf_scanner.hpp"

namespace dsv3::inline DSV3_ISA::grammar {

namespace detail {

/// A parser by recursive descent; recursion is bounded by max_depth.
class GbnfParser : GbnfScanner {
 public:
  using GbnfScanner::GbnfScanner;

  Grammar parse() {
    skip_space();
    while (at_ < text_.size()) {
      const std::string_view name = take_name();
      if (name.empty() || !take("::=")) wrong("a rule: NAME ::= ...");
      const Rule rule = rule_named(name);
      if (!defined_.insert(rule).second) fail("grammar: rule ", name, " is defined twice");
      parse_alternatives(rule, 0);
      if (at_ < text_.size() && !starts_rule()) wrong("another rule or an operator");
    }
    for (const auto& [name, rule] : rules_) require(defined_.contains(rule), "grammar: rule ", name, " is used, but not defined");
    const auto root = rules_.find("root");
    require(root != rules_.end(), "grammar: expected a rule named root, found none");
    grammar_.root = root->second;
    grammar_.finish();
    return std::move(grammar_);
  }

 private:
  using Symbols = std::vector<Symbol>;
  static constexpr int max_depth = 100;
  static constexpr std::size_t longest_chain = 256;  // rules in the chain of a repetition

  Rule rule_named(std::string_view name) {
    const auto at = rules_.find(name);
    if (at != rules_.end()) return at->second;
    const Rule rule = grammar_.add_rule(std::string(name));
    rules_.emplace(name, rule);
    return rule;
  }

  void parse_alternatives(Rule rule, int depth) {
    if (depth > max_depth) fail("grammar: groups nested deeper than ", max_depth, " in rule ", grammar_.name(rule));
    std::vector<Symbols> alternatives;
    do {
      alternatives.push_back(parse_sequence(rule, depth));
    } while (take("|"));
    grammar_.add_alternatives(rule, std::move(alternatives));
  }

  Symbols parse_sequence(Rule rule, int depth) {
    Symbols sequence;
    while (at_ < text_.size() && peek() != '|' && peek() != ')' && !starts_rule()) {
      Symbols item = parse_item(rule, depth);
      repeat(rule, std::move(item), sequence);
      require(sequence.size() < max_symbols, "grammar: rule ", grammar_.name(rule), " is larger than ", max_symbols, " symbols");
    }
    return sequence;
  }

  Symbols parse_item(Rule rule, int depth) {
    if (peek() == '"') return parse_literal();
    if (peek() == '[') return {Symbol::call(parse_class())};
    if (take(".")) return {Symbol::call(class_rule({{0, last_character}}))};
    if (take("(")) {
      const Rule group = grammar_.add_rule(grammar_.name(rule));
      parse_alternatives(group, depth + 1);
      if (!take(")")) wrong("')'");
      return {Symbol::call(group)};
    }
    const std::string_view name = take_name();
    if (name.empty()) wrong("a literal, a class, a group or the name of a rule");
    return {Symbol::call(rule_named(name))};
  }

  /// Appends `item` to the sequence, repeated as the operators after it say.
  void repeat(Rule rule, Symbols item, Symbols& sequence) {
    while (true) {
      std::size_t least = 1;
      std::size_t most = 1;
      if (take("*"))
        least = 0, most = unlimited;
      else if (take("+"))
        most = unlimited;
      else if (take("?"))
        least = 0;
      else if (take("{")) {
        least = take_count();
        most = least;
        if (take(",")) most = peek() == '}' ? unlimited : take_count();
        if (!take("}")) wrong("'}'");
        require(most >= least, "grammar: rule ", grammar_.name(rule), ": a repetition from ", least, " to ", most);
      } else {
        break;
      }
      item = repeated(rule, std::move(item), least, most);
    }
    sequence.insert(sequence.end(), item.begin(), item.end());
  }

  static constexpr std::size_t unlimited = std::numeric_limits<std::size_t>::max();

  /// `least` to `most` times `item`.
  Symbols repeated(Rule rule, Symbols item, std::size_t least, std::size_t most) {
    if (item.size() > 1) item = {define(rule, {item})};
    if (item.empty()) return item;
    Symbols result = times(rule, item[0], least);
    if (most == unlimited) {
      const Rule more = grammar_.add_rule(grammar_.name(rule));
      grammar_.add_alternative(more, Symbols{item[0], Symbol::call(more)});
      grammar_.add_alternative(more, {});
      result.push_back(Symbol::call(more));
    } else if (most > least) {
      result.push_back(up_to(rule, item[0], most - least));
    }
    return result;
  }

  Symbol define(Rule rule, const std::vector<Symbols>& alternatives) {
    const Rule made = grammar_.add_rule(grammar_.name(rule));
    for (const Symbols& a : alternatives) grammar_.add_alternative(made, a);
    return Symbol::call(made);
  }

  /// Exactly n times: written out for small n, else as a sum of powers of two; each power's rule calls the one before twice.
  Symbols times(Rule rule, Symbol item, std::size_t n) {
    if (n <= longest_chain) return Symbols(n, item);
    Symbols result;
    for (Symbol power = item; n > 0; n >>= 1, power = define(rule, {{power, power}}))
      if ((n & 1) != 0) result.push_back(power);
    return result;
  }

  /// Zero to n times, as a chain: item (item (item)?)?. A chain has n rules, so a large n is written in blocks of about sqrt(n) items:
  /// fewer items than a block, or a block and then the rest. A text is then read in two ways at most.
  Symbol up_to(Rule rule, Symbol item, std::size_t n) {
    const auto chain = [&](std::size_t most) {
      Symbol more = define(rule, {{}});
      for (; most > 0; --most) more = define(rule, {{item, more}, {}});
      return more;
    };
    if (n <= longest_chain) return chain(n);
    const auto block = static_cast<std::size_t>(std::sqrt(static_cast<double>(n)));
    const Symbol fewer = chain(block - 1), one = define(rule, {times(rule, item, block)});
    Symbol more = chain(n % block);
    for (std::size_t blocks = n / block; blocks > 0; --blocks) more = define(rule, {{fewer}, {one, more}});
    return more;
  }

  Symbols parse_literal() {
    Symbols symbols;
    for (++at_; peek() != '"';) {
      if (at_ >= text_.size() || peek() == '\n') wrong("'\"'");
      if (peek() == '\\') {
        const Symbols escaped = utf8_symbols(take_escape());
        symbols.insert(symbols.end(), escaped.begin(), escaped.end());
      } else {
        const auto byte = static_cast<unsigned char>(text_[at_++]);
        symbols.push_back(Symbol::range(byte, byte));
      }
    }
    ++at_;
    skip_space();
    return symbols;
  }

  Rule parse_class() {
    ++at_;
    const bool negated = peek() == '^';
    if (negated) ++at_;
    std::vector<CharacterRange> ranges;
    while (peek() != ']') {
      if (const auto more = take_shorthand(); !more.empty()) {
        ranges.insert(ranges.end(), more.begin(), more.end());
        continue;
      }
      const Character low = take_character();
      Character high = low;
      if (peek() == '-' && at_ + 1 < text_.size() && text_[at_ + 1] != ']') {
        ++at_;
        high = take_character();
      }
      if (high < low) wrong("a range from a lower to a higher character");
      ranges.emplace_back(low, high);
    }
    ++at_;
    skip_space();
    ranges = merged(std::move(ranges));
    return class_rule(negated ? complement(ranges) : ranges);
  }

  /// The ASCII characters of \d, \w or \s, if one of these comes next, else nothing.
  std::vector<CharacterRange> take_shorthand() {
    if (peek() != '\\' || at_ + 1 >= text_.size()) return {};
    std::vector<CharacterRange> ranges;
    switch (text_[at_ + 1]) {
      case 'd':
        ranges = {{'0', '9'}};
        break;
      case 'w':
        ranges = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
        break;
      case 's':
        ranges = {{'\t', '\r'}, {' ', ' '}};
        break;
      default:
        return {};
    }
    at_ += 2;
    return ranges;
  }

  Rule class_rule(const std::vector<CharacterRange>& ranges) {
    if (const auto known = classes_.find(ranges); known != classes_.end()) return known->second;
    const Rule rule = grammar_.add_rule("(class)");
    for (const auto& [low, high] : ranges) utf8_ranges(low, high, [&](const Symbols& s) { grammar_.add_alternative(rule, s); });
    return classes_[ranges] = rule;
  }

  Grammar grammar_;
  std::map<std::string, Rule, std::less<>> rules_;
  std::map<std::vector<CharacterRange>, Rule> classes_;
  std::set<Rule> defined_;  // named rules that have a definition
};

}  // namespace detail

/// Reads a grammar in GBNF; texts must match its rule named root.
/// Throws: Error naming line or rule if it is malformed, incomplete, left-recursive, too large or matches nothing.
[[nodiscard]] inline Grammar parse_gbnf(std::string_view text) { return detail::GbnfParser(text).parse(); }

}  // namespace dsv3::inline DSV3_ISA::grammar
