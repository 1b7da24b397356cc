// Floor 6. GBNF, the notation for grammars that llama.cpp made common, as a Grammar.
//
//   root ::= "[" (value ("," value)*)? "]"     # comments reach to the end of the line
//   value ::= [0-9]+ | "\"" [^"\\\n]{0,20} "\""
//
// Literals "..." and classes [a-z], [^a-z] with the escapes \n \r \t \\ \" \[ \] \- \^ \xHH \uHHHH \UHHHHHHHH; any character "."; groups;
// * + ? {n} {n,} {n,m}; alternatives |. Leaves out token names (<think>).
#pragma once

#include <limits>
#include <map>
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
      if (defined_[rule]) fail("grammar: rule ", name, " is defined twice");
      defined_[rule] = true;
      parse_alternatives(rule, 0);
      if (at_ < text_.size() && !starts_rule()) wrong("another rule or an operator");
    }
    for (const auto& [name, rule] : rules_) require(defined_[rule], "grammar: rule ", name, " is used, but not defined");
    const auto root = rules_.find("root");
    require(root != rules_.end(), "grammar: expected a rule named root, found none");
    grammar_.root = root->second;
    grammar_.finish();
    return std::move(grammar_);
  }

 private:
  using Symbols = std::vector<Symbol>;
  static constexpr int max_depth = 100;

  Rule add_rule(std::string name) {
    defined_.push_back(false);
    return grammar_.add_rule(std::move(name));
  }
  Rule rule_named(std::string_view name) {
    const auto at = rules_.find(name);
    if (at != rules_.end()) return at->second;
    const Rule rule = add_rule(std::string(name));
    rules_.emplace(name, rule);
    return rule;
  }

  void parse_alternatives(Rule rule, int depth) {
    if (depth > max_depth) fail("grammar: groups nested deeper than ", max_depth, " in rule ", grammar_.name(rule));
    do {
      grammar_.add_alternative(rule, parse_sequence(rule, depth));
    } while (take("|"));
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
      const Rule group = add_rule(grammar_.name(rule));
      defined_[group] = true;
      parse_alternatives(group, depth + 1);
      if (!take(")")) wrong("')'");
      return {Symbol::call(group)};
    }
    const std::string_view name = take_name();
    if (name.empty()) wrong("a literal, a class, a group or the name of a rule");
    return {Symbol::call(rule_named(name))};
  }

  /// Appends `item` to the sequence, as often as the operators behind it say.
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

  Symbols repeated(Rule rule, Symbols item, std::size_t least, std::size_t most) {
    if (item.size() > 1) {
      const Rule whole = add_rule(grammar_.name(rule));
      defined_[whole] = true;
      grammar_.add_alternative(whole, item);
      item = {Symbol::call(whole)};
    }
    if (item.empty()) return item;
    Symbols result(least, item[0]);
    if (most == least) return result;
    // Without limit: more ::= item more | nothing. With one, a chain: more ::= item (item (item)?)? | nothing.
    Rule more = add_rule(grammar_.name(rule));
    defined_[more] = true;
    if (most == unlimited) {
      grammar_.add_alternative(more, Symbols{item[0], Symbol::call(more)});
    } else {
      grammar_.add_alternative(more, item);
      for (std::size_t i = least + 1; i < most; ++i) {
        grammar_.add_alternative(more, {});
        const Rule longer = add_rule(grammar_.name(rule));
        defined_[longer] = true;
        grammar_.add_alternative(longer, Symbols{item[0], Symbol::call(more)});
        more = longer;
      }
    }
    grammar_.add_alternative(more, {});
    result.push_back(Symbol::call(more));
    return result;
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

  Rule class_rule(const std::vector<CharacterRange>& ranges) {
    if (const auto known = classes_.find(ranges); known != classes_.end()) return known->second;
    const Rule rule = add_rule("(class)");
    defined_[rule] = true;
    for (const auto& [low, high] : ranges) utf8_ranges(low, high, [&](const Symbols& s) { grammar_.add_alternative(rule, s); });
    return classes_[ranges] = rule;
  }

  Grammar grammar_;
  std::map<std::string, Rule, std::less<>> rules_;
  std::map<std::vector<CharacterRange>, Rule> classes_;
  std::vector<bool> defined_;
};

}  // namespace detail

/// Reads a grammar in GBNF; its rule named root is what texts must match.
/// Throws: Error naming line or rule if it is malformed, incomplete, left-recursive, too large or matches nothing.
inline Grammar parse_gbnf(std::string_view text) { return detail::GbnfParser(text).parse(); }

}  // namespace dsv3::inline DSV3_ISA::grammar
