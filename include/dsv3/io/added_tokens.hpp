// Floor 6. Finds added tokens (special tokens and the like) in raw text, where no merge may reach across them.
//
// Leaves out the variants that published byte-level tokenizers do not use: lstrip, rstrip, single_word.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dsv3/core/error.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// A set of strings with ids. Of overlapping occurrences the leftmost counts, and of those the longest.
class AddedTokens {
 public:
  AddedTokens() = default;

  /// `tokens` are distinct and not empty.
  explicit AddedTokens(std::vector<std::pair<std::string, int>> tokens) : tokens_(std::move(tokens)) {
    std::ranges::sort(tokens_);
    for (const auto& [text, id] : tokens_) starts_[static_cast<unsigned char>(text[0])] = true;
  }

  /// Calls `on_text(std::string_view)` and `on_token(int id)` for the parts of `text` in order; no text is empty.
  template <class OnText, class OnToken>
  void split(std::string_view text, OnText&& on_text, OnToken&& on_token) const {
    std::size_t done = 0;
    for (std::size_t i = 0; i < text.size();) {
      const Entry* token = starts_[static_cast<unsigned char>(text[i])] ? longest_at_start(text.substr(i)) : nullptr;
      if (token == nullptr) {
        ++i;
        continue;
      }
      if (i > done) on_text(text.substr(done, i - done));
      on_token(token->second);
      done = i += token->first.size();
    }
    if (done < text.size()) on_text(text.substr(done));
  }

 private:
  using Entry = std::pair<std::string, int>;

  const Entry* longest_at_start(std::string_view text) const {
    // The tokens that begin with the first `length` bytes of `text` are neighbours, and the one that has no more bytes comes first.
    const Entry* longest = nullptr;
    auto begin = tokens_.begin(), end = tokens_.end();
    for (std::size_t length = 0; begin != end; ++length) {
      if (begin->first.size() == length) longest = &*begin++;
      if (length == text.size()) break;
      const auto next = static_cast<unsigned char>(text[length]);
      const auto byte_of = [length](const Entry& token) { return static_cast<unsigned char>(token.first[length]); };
      begin = std::partition_point(begin, end, [&](const Entry& token) { return byte_of(token) < next; });
      end = std::partition_point(begin, end, [&](const Entry& token) { return byte_of(token) == next; });
    }
    return longest;
  }

  std::vector<Entry> tokens_;
  std::array<bool, 256> starts_{};
};

}  // namespace dsv3::inline DSV3_ISA::io
