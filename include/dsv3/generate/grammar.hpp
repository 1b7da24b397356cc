// Floor 6. Context-free grammars over bytes, in the form that a matcher walks, and the check that a grammar can be walked.
//
// gbnf.hpp makes them from GBNF.
#pragma once

#include <algorithm>
#include <compare>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "dsv3/core/error.hpp"

namespace dsv3::inline DSV3_ISA::grammar {

/// Largest size of a grammar, which may come from an untrusted source.
inline constexpr std::size_t max_symbols = 100'000;

using Rule = std::uint32_t;
using Position = std::uint32_t;  ///< of a symbol in Grammar

/// One element of an alternative: one byte in a range, or anything that a rule matches. `end` terminates an alternative.
struct Symbol {
  enum Kind : std::uint8_t { end, bytes, rule };
  Kind kind = end;
  std::uint8_t low = 0, high = 0;  ///< of bytes, inclusive
  Rule target = 0;                 ///< of rule

  static Symbol range(unsigned low, unsigned high) { return {bytes, static_cast<std::uint8_t>(low), static_cast<std::uint8_t>(high), 0}; }
  static Symbol call(Rule target) { return {rule, 0, 0, target}; }

  auto operator<=>(const Symbol&) const = default;
};

/// Rules with alternatives, each a sequence of symbols.
class Grammar {
 public:
  Rule root = 0;

  /// A new rule without alternatives; `name` is for messages.
  Rule add_rule(std::string name) {
    names_.push_back(std::move(name));
    alternatives_.emplace_back();
    return static_cast<Rule>(names_.size() - 1);
  }

  /// Throws: Error if the grammar becomes larger than max_symbols.
  void add_alternative(Rule rule, std::span<const Symbol> symbols) {
    require(symbols_.size() + symbols.size() < max_symbols, "grammar: larger than ", max_symbols, " symbols, at rule ", names_[rule],
            ": repetitions count as often as they repeat");
    alternatives_[rule].push_back(static_cast<Position>(symbols_.size()));
    symbols_.insert(symbols_.end(), symbols.begin(), symbols.end());
    symbols_.emplace_back();
  }

  /// The same for several alternatives, which then share common prefixes: a list of a thousand words is walked as one path, not as a
  /// thousand.
  void add_alternatives(Rule rule, std::vector<std::vector<Symbol>> alternatives) {
    using Symbols = std::span<const Symbol>;
    std::vector<std::pair<Rule, std::vector<Symbols>>> open;  // no recursion, because words may be long
    open.emplace_back(rule, std::vector<Symbols>(alternatives.begin(), alternatives.end()));
    while (!open.empty()) {
      const auto [to, list] = std::move(open.back());
      open.pop_back();
      std::map<Symbol, std::vector<Symbols>> by_first;
      for (const Symbols& one : list)
        if (!one.empty()) by_first[one[0]].push_back(one);
      if (std::any_of(list.begin(), list.end(), [](const Symbols& one) { return one.empty(); })) add_alternative(to, {});
      for (const auto& [symbol, group] : by_first) {
        Symbols common = group[0];
        for (const Symbols& one : group)
          common = common.first(
              static_cast<std::size_t>(std::mismatch(common.begin(), common.end(), one.begin(), one.end()).first - common.begin()));
        std::vector<Symbol> begin(common.begin(), common.end());
        if (group.size() > 1) {
          const Rule rest = add_rule(name(rule));
          begin.push_back(Symbol::call(rest));
          auto& rests = open.emplace_back(rest, std::vector<Symbols>()).second;
          for (const Symbols& one : group) rests.push_back(one.subspan(common.size()));
        }
        add_alternative(to, begin);
      }
    }
  }

  std::size_t rules() const { return names_.size(); }
  const std::string& name(Rule rule) const { return names_[rule]; }
  const Symbol& operator[](Position at) const { return symbols_[at]; }
  std::span<const Position> alternatives(Rule rule) const { return alternatives_[rule]; }
  bool is_last(Position at) const { return symbols_[at + 1].kind == Symbol::end; }

  /// Completes the grammar: removes alternatives that match no text (they need themselves), so that every prefix can be completed.
  /// Throws: Error if the root matches no text, or a rule is left-recursive, so that walking it would never end.
  void finish() {
    const std::vector<char> matches = derives([](const Symbol&) { return true; });
    require(matches[root], "grammar: rule ", names_[root], " matches no text: every way of it needs itself");
    for (auto& list : alternatives_)
      std::erase_if(list, [&](Position at) {
        while (symbols_[at].kind == Symbol::bytes || (symbols_[at].kind == Symbol::rule && matches[symbols_[at].target])) ++at;
        return symbols_[at].kind != Symbol::end;
      });
    check_left_recursion(derives([](const Symbol&) { return false; }));
  }

 private:
  /// For each rule, whether it derives: one of its alternatives has only bytes with good() and rules that derive. If good() is always
  /// false, these are the rules that match the empty text.
  template <class Good>
  std::vector<char> derives(Good&& good) const {
    struct Alternative {
      Rule rule;
      std::size_t missing;  // rules not known to derive yet, and bytes that are not good
    };
    std::vector<char> result(rules(), 0);
    std::vector<Alternative> all;
    std::vector<std::vector<std::size_t>> users(rules());  // alternatives that use a rule
    std::vector<Rule> known;
    const auto settle = [&](const Alternative& a) {
      if (a.missing > 0 || result[a.rule]) return;
      result[a.rule] = 1;
      known.push_back(a.rule);
    };
    for (Rule r = 0; r < rules(); ++r)
      for (Position at : alternatives_[r]) {
        Alternative a{r, 0};
        for (; symbols_[at].kind != Symbol::end; ++at) {
          if (symbols_[at].kind == Symbol::rule) users[symbols_[at].target].push_back(all.size());
          if (symbols_[at].kind == Symbol::rule || !good(symbols_[at])) ++a.missing;
        }
        all.push_back(a);
        settle(a);
      }
    while (!known.empty()) {
      const Rule rule = known.back();
      known.pop_back();
      for (const std::size_t user : users[rule]) {
        --all[user].missing;
        settle(all[user]);
      }
    }
    return result;
  }

  /// Throws if a rule may call itself before any byte, except as the last symbol of an alternative: the stack would grow for ever.
  void check_left_recursion(const std::vector<char>& empty) const {
    std::vector<std::vector<Rule>> first(rules());  // rules that a rule may begin with
    for (Rule r = 0; r < rules(); ++r)
      for (Position at : alternatives_[r])
        for (; symbols_[at].kind == Symbol::rule; ++at) {
          first[r].push_back(symbols_[at].target);
          if (!empty[symbols_[at].target]) break;
        }
    const std::vector<std::uint32_t> component = components(first);
    for (Rule r = 0; r < rules(); ++r)
      for (Position at : alternatives_[r])
        for (; symbols_[at].kind == Symbol::rule; ++at) {
          const Rule target = symbols_[at].target;
          require(is_last(at) || component[target] != component[r], "grammar: rule ", names_[r],
                  " is left-recursive: it may begin with itself, by way of rule ", names_[target]);
          if (!empty[target]) break;
        }
  }

  /// The strongly connected component of each node (Tarjan's algorithm with an explicit stack, because chains of rules may be long).
  static std::vector<std::uint32_t> components(const std::vector<std::vector<Rule>>& edges) {
    constexpr std::uint32_t none = ~std::uint32_t{0};
    const std::size_t n = edges.size();
    std::vector<std::uint32_t> component(n, none), index(n, none), low(n, 0), open;
    std::uint32_t next_index = 0, next_component = 0;
    struct Frame {
      Rule node;
      std::size_t edge;
    };
    std::vector<Frame> frames;
    const auto enter = [&](Rule node) {
      index[node] = low[node] = next_index++;
      open.push_back(node);
      frames.push_back({node, 0});
    };
    for (Rule start = 0; start < n; ++start) {
      if (index[start] == none) enter(start);
      while (!frames.empty()) {
        auto& [node, edge] = frames.back();
        const Rule here = node;
        if (edge < edges[here].size()) {
          const Rule to = edges[here][edge++];
          if (index[to] == none)
            enter(to);
          else if (component[to] == none)
            low[here] = std::min(low[here], index[to]);
          continue;
        }
        frames.pop_back();
        if (!frames.empty()) low[frames.back().node] = std::min(low[frames.back().node], low[here]);
        if (low[here] != index[here]) continue;
        for (Rule member = none; member != here; open.pop_back()) component[member = open.back()] = next_component;
        ++next_component;
      }
    }
    return component;
  }

  std::vector<std::string> names_;
  std::vector<std::vector<Position>> alternatives_;
  std::vector<Symbol> symbols_;
};

}  // namespace dsv3::inline DSV3_ISA::grammar
