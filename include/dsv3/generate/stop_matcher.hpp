// Floor 6. Stop strings in a text that arrives in pieces.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dsv3/core/error.hpp"

namespace dsv3::inline DSV3_ISA {

/// Lets bytes through until one of the stop strings has appeared, and holds back what may be the start of one, however the text is cut
/// into pieces. Time is proportional to the bytes times the number of strings (one Knuth-Morris-Pratt automaton per string).
class StopMatcher {
 public:
  /// Throws: Error if a string is empty.
  explicit StopMatcher(const std::vector<std::string>& strings = {}) {
    for (const std::string& s : strings) {
      require(!s.empty(), "stop strings: expected strings that are not empty");
      Pattern p{s, std::vector<std::size_t>(s.size()), 0};
      for (std::size_t i = 1, k = 0; i < s.size(); ++i) {
        while (k > 0 && s[i] != s[k]) k = p.border[k - 1];
        if (s[i] == s[k]) ++k;
        p.border[i] = k;
      }
      patterns_.push_back(std::move(p));
    }
  }

  /// The text that is safe to show after `bytes` have come; nothing once stopped(). The text ends before the first stop string to be
  /// complete; if several end with the same byte, before the longest.
  [[nodiscard]] std::string push(std::string_view bytes) {
    if (stopped_) return {};
    if (patterns_.empty()) return std::string(bytes);
    for (const char byte : bytes) {
      held_ += byte;
      std::size_t complete = 0;
      for (Pattern& p : patterns_) {
        while (p.matched > 0 && p.text[p.matched] != byte) p.matched = p.border[p.matched - 1];
        if (p.text[p.matched] == byte) ++p.matched;
        if (p.matched == p.text.size()) complete = std::max(complete, p.text.size());
      }
      if (complete > 0) {
        stopped_ = true;
        held_.resize(held_.size() - complete);
        return std::move(held_);
      }
    }
    std::size_t possible = 0;
    for (const Pattern& p : patterns_) possible = std::max(possible, p.matched);
    std::string text = held_.substr(0, held_.size() - possible);
    held_.erase(0, text.size());
    return text;
  }

  /// Whether a stop string has appeared.
  bool stopped() const { return stopped_; }

  /// Call at the end of the text. Returns the bytes held back, which belong to the text after all.
  [[nodiscard]] std::string finish() { return stopped_ ? std::string() : std::exchange(held_, {}); }

 private:
  struct Pattern {
    std::string text;
    std::vector<std::size_t> border;  // for each prefix, the length of the longest shorter prefix that ends it
    std::size_t matched;              // length of the prefix of `text` that the bytes so far end with
  };
  std::vector<Pattern> patterns_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace dsv3::inline DSV3_ISA
