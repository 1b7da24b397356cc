// Floor 6. Walks a grammar byte by byte: an automaton whose states are sets of stacks, created on demand.
//
// A stack holds the symbols that are still to be matched, the next one on top. A state's successors are cached, so that repetitive text
// (the inside of a JSON string) costs one look-up per byte.
#pragma once

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "dsv3/generate/grammar.hpp"

namespace dsv3::inline DSV3_ISA::grammar {

/// The automaton of one grammar. Not for several threads at once: looking ahead adds states.
class Matcher {
 public:
  using State = int;
  static constexpr State dead = -1;

  /// Limits: stacks per state (more: the grammar is too ambiguous), symbols per stack (nesting; deeper text does not match), states,
  /// symbols in all their stacks plus 32 per stack, and stacks examined for one byte.
  static constexpr std::size_t max_stacks = 500, max_depth = 300, max_states = 50'000, max_held = 8'000'000, max_steps = 20'000;

  /// `grammar` is finished. Throws: Error as next().
  explicit Matcher(Grammar grammar) : grammar_(std::move(grammar)) { start_ = start(); }

  State first() const { return start_; }

  /// The state after one more byte, or dead if no text continues so.
  /// Throws: Error if the grammar is too ambiguous, or max_states or max_held are reached.
  State next(State state, unsigned char byte) {
    State& known = states_[static_cast<std::size_t>(state)].next[byte];
    if (known != unknown) return known;
    Builder builder(*this);
    for (const Stack& stack : *states_[static_cast<std::size_t>(state)].stacks) {
      if (stack.empty()) continue;
      const Symbol& symbol = grammar_[stack.back()];
      if (byte < symbol.low || byte > symbol.high) continue;
      Stack rest = stack;
      advance(rest);
      builder.add(std::move(rest));
    }
    const State result = add(builder.finish());
    return states_[static_cast<std::size_t>(state)].next[byte] = result;  // `known` may have moved
  }

  /// The state after all of `text`.
  State next(State state, std::string_view text) {
    for (const char c : text) {
      if (state == dead) break;
      state = next(state, static_cast<unsigned char>(c));
    }
    return state;
  }

  /// Whether the text may end here.
  bool may_end(State state) const { return state != dead && states_[static_cast<std::size_t>(state)].stacks->begin()->empty(); }

  std::size_t states() const { return states_.size(); }
  /// Whether half of a limit is used, so that keep_only() should be called soon.
  bool is_large() const { return states_.size() > max_states / 2 || held_ > max_held / 2; }

  /// Drops all states but `state`. States given out before are invalid; returns the one that replaces `state`.
  State keep_only(State state) {
    Stacks kept = state == dead ? Stacks() : *states_[static_cast<std::size_t>(state)].stacks;
    states_.clear();
    ids_.clear();
    held_ = 0;
    start_ = start();
    return add(std::move(kept));
  }

 private:
  using Stack = std::vector<Position>;
  using Stacks = std::set<Stack>;  // the empty stack, if any, comes first
  static constexpr State unknown = -2;

  struct Entry {
    const Stacks* stacks;  // a key of ids_
    std::array<State, 256> next;
  };

  /// Moves on to the next symbol of the alternative on top, or pops it at its end.
  void advance(Stack& stack) const {
    if (grammar_.is_last(stack.back()))
      stack.pop_back();
    else
      ++stack.back();
  }

  /// Collects the stacks with a byte on top (or empty) that result from expanding all rules on top.
  class Builder {
   public:
    explicit Builder(const Matcher& matcher) : matcher_(matcher) {}

    void add(Stack&& stack) {
      if (stack.size() > max_depth) return;
      const auto [at, is_new] = seen_.insert(std::move(stack));
      if (is_new) open_.push_back(&*at);
      require(seen_.size() <= max_steps, "grammar: too ambiguous: more than ", max_steps, " ways to go on at one place");
    }

    Stacks finish() {
      const Grammar& g = matcher_.grammar_;
      Stacks result;
      while (!open_.empty()) {
        const Stack& stack = *open_.back();
        open_.pop_back();
        if (stack.empty() || g[stack.back()].kind == Symbol::bytes) {
          result.insert(stack);
          require(result.size() <= max_stacks, "grammar: too ambiguous: more than ", max_stacks, " ways to read a text so far");
          continue;
        }
        // Tail call: the last call of an alternative is replaced by its rule, not left below it, so repetition takes no depth.
        Stack rest = stack;
        const Rule rule = g[rest.back()].target;
        matcher_.advance(rest);
        for (const Position at : g.alternatives(rule)) {
          Stack inner = rest;
          if (g[at].kind != Symbol::end) inner.push_back(at);
          add(std::move(inner));
        }
      }
      return result;
    }

   private:
    const Matcher& matcher_;
    Stacks seen_;
    std::vector<const Stack*> open_;
  };

  State start() {
    Builder builder(*this);
    for (const Position at : grammar_.alternatives(grammar_.root)) builder.add(grammar_[at].kind == Symbol::end ? Stack{} : Stack{at});
    return add(builder.finish());
  }

  State add(Stacks&& stacks) {
    if (stacks.empty()) return dead;
    if (const auto known = ids_.find(stacks); known != ids_.end()) return known->second;
    for (const Stack& stack : stacks) held_ += stack.size() + 32;
    require(states_.size() < max_states && held_ <= max_held, "grammar: too many ways that a text may go on: ", states_.size(), " states");
    const auto id = static_cast<State>(states_.size());
    states_.push_back({&ids_.emplace(std::move(stacks), id).first->first, {}});
    states_.back().next.fill(unknown);
    return id;
  }

  Grammar grammar_;
  std::map<Stacks, State> ids_;
  std::vector<Entry> states_;
  std::size_t held_ = 0;
  State start_ = dead;
};

}  // namespace dsv3::inline DSV3_ISA::grammar
