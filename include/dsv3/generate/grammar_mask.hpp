// Floor 6. A grammar as a token mask: it allows the tokens whose bytes the grammar allows next.
//
// Any function of a token's id may supply its bytes.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dsv3/generate/grammar_matcher.hpp"
#include "dsv3/generate/token_mask.hpp"

namespace dsv3::inline DSV3_ISA::grammar {

/// The texts of a vocabulary, sorted, so that each shares as long a prefix as possible with the one before.
class TokenTexts {
 public:
  struct Token {
    std::string text;
    int id;
    std::size_t shared;  ///< length of the prefix shared with the token before
  };

  /// text_of(id) for ids in [0, count) is the token's bytes; empty for tokens that a grammar must never allow, such as control tokens.
  template <class TextOf>
  TokenTexts(int count, TextOf&& text_of) : texts_(static_cast<std::size_t>(count)) {
    for (int id = 0; id < count; ++id) {
      const auto i = static_cast<std::size_t>(id);
      texts_[i] = std::string(text_of(id));
      if (!texts_[i].empty()) tokens_.push_back({texts_[i], id, 0});
    }
    std::sort(tokens_.begin(), tokens_.end(), [](const Token& a, const Token& b) { return a.text < b.text; });
    for (std::size_t i = 1; i < tokens_.size(); ++i) {
      const std::string &a = tokens_[i - 1].text, &b = tokens_[i].text;
      tokens_[i].shared = static_cast<std::size_t>(
          std::mismatch(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(std::min(a.size(), b.size())), b.begin()).first - a.begin());
    }
  }

  const std::vector<Token>& tokens() const { return tokens_; }
  std::string_view text(int id) const {
    return id >= 0 && static_cast<std::size_t>(id) < texts_.size() ? texts_[static_cast<std::size_t>(id)] : std::string_view();
  }

 private:
  std::vector<std::string> texts_;
  std::vector<Token> tokens_;
};

}  // namespace dsv3::inline DSV3_ISA::grammar

namespace dsv3::inline DSV3_ISA {

/// Allows only answers that the grammar matches, apart from answers that are cut short.
///
/// Copies share the automaton and the vocabulary: they may serve many sequences, but only on one thread.
class GrammarMask {
 public:
  /// `stop_ids` end an answer and are allowed where the grammar allows an end. With `after`, the grammar applies after the first such token
  /// of the answer (the end of its reasoning); until then every token except `stop_ids` is allowed.
  GrammarMask(std::shared_ptr<const grammar::TokenTexts> texts, grammar::Grammar g, std::vector<int> stop_ids,
              std::optional<int> after = {})
      : texts_(std::move(texts)),
        matcher_(std::make_shared<grammar::Matcher>(std::move(g))),
        stop_ids_(std::move(stop_ids)),
        after_(after) {}

  /// Leaves a text that already departs from the grammar unconstrained: it ends in a draft that will be rejected.
  /// Throws: as grammar::Matcher::next().
  void operator()(const TextSoFar& text, std::span<std::uint8_t> allowed) {
    std::span<const int> ids = text.generated();
    if (after_) {
      const auto mark = std::find(ids.begin(), ids.end(), *after_);
      if (mark == ids.end()) return allow(allowed, stop_ids_, 0);
      ids = ids.subspan(static_cast<std::size_t>(mark - ids.begin()) + 1);
    }
    const grammar::Matcher::State state = state_after(ids);
    if (state == grammar::Matcher::dead) return;
    std::fill(allowed.begin(), allowed.end(), std::uint8_t{0});
    if (matcher_->may_end(state)) allow(allowed, stop_ids_, 1);
    allow_tokens(state, allowed);
  }

 private:
  using State = grammar::Matcher::State;
  static constexpr State forgotten = -3;  // not a state of a Matcher

  static void allow(std::span<std::uint8_t> allowed, std::span<const int> ids, std::uint8_t value) {
    for (const int id : ids)
      if (id >= 0 && static_cast<std::size_t>(id) < allowed.size()) allowed[static_cast<std::size_t>(id)] = value;
  }

  /// The state after all ids. States of the ids in common with the last text are reused.
  State state_after(std::span<const int> ids) {
    if (seen_epoch_ != *epoch_) std::fill(states_.begin(), states_.end(), forgotten);
    seen_epoch_ = *epoch_;
    const std::size_t same = static_cast<std::size_t>(
        std::mismatch(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(std::min(ids.size(), ids_.size())), ids_.begin()).first -
        ids.begin());
    ids_.assign(ids.begin(), ids.end());
    states_.resize(same);
    states_.resize(ids.size(), forgotten);
    const bool known = same > 0 && states_[same - 1] != forgotten;
    State state = known ? states_[same - 1] : matcher_->first();
    for (std::size_t i = known ? same : 0; i < ids.size(); ++i) {
      const std::string_view bytes = texts_->text(ids[i]);
      states_[i] = state = bytes.empty() ? grammar::Matcher::dead : matcher_->next(state, bytes);
      make_room(state, i + 1);
    }
    make_room(state, ids.size());
    return state;
  }

  /// The automaton grows with every byte that is examined. Before it gets too large, it drops all states but `state`, the one after `count`
  /// ids.
  void make_room(State& state, std::size_t count) {
    if (!matcher_->is_large()) return;
    state = matcher_->keep_only(state);
    seen_epoch_ = ++*epoch_;
    std::fill(states_.begin(), states_.end(), forgotten);
    if (count > 0) states_[count - 1] = state;
  }

  void allow_tokens(State state, std::span<std::uint8_t> allowed) {
    path_.assign(1, state);                 // states after each byte of the previous token, until dead
    std::size_t dead_at = ~std::size_t{0};  // number of bytes after which it was dead
    for (const auto& [text, id, shared] : texts_->tokens()) {
      if (shared >= dead_at) continue;
      dead_at = ~std::size_t{0};
      path_.resize(std::min(shared, path_.size() - 1) + 1);
      while (path_.size() <= text.size()) {
        const State next = matcher_->next(path_.back(), static_cast<unsigned char>(text[path_.size() - 1]));
        if (next == grammar::Matcher::dead) {
          dead_at = path_.size();
          break;
        }
        path_.push_back(next);
      }
      if (dead_at > text.size() && static_cast<std::size_t>(id) < allowed.size()) allowed[static_cast<std::size_t>(id)] = 1;
    }
  }

  std::shared_ptr<const grammar::TokenTexts> texts_;
  std::shared_ptr<grammar::Matcher> matcher_;
  std::shared_ptr<int> epoch_ = std::make_shared<int>(0);  // how often the automaton was cleared
  std::vector<int> stop_ids_;
  std::optional<int> after_;
  int seen_epoch_ = 0;
  std::vector<int> ids_;       // ids of the last text
  std::vector<State> states_;  // states after each of these
  std::vector<State> path_;
};

}  // namespace dsv3::inline DSV3_ISA
