// Floor 6. Finds added tokens (special tokens and the like) in raw text, where no merge may reach across them.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dsv3/io/regex.hpp"
#include "dsv3/io/utf8.hpp"
#include "dsv3/io/white_space.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// One of "added_tokens" of a tokenizer.json.
struct AddedToken {
  std::string text;
  int id = 0;
  bool normalized = false;              ///< looked for after all the others, and after the normalizer
  bool single_word = false;             ///< counts only where no letter, digit or mark is next to it
  bool lstrip = false, rstrip = false;  ///< takes the white space before it, behind it
};

/// A set of them. Of overlapping occurrences the leftmost counts, and of those the longest.
class AddedTokens {
 public:
  AddedTokens() = default;

  /// Texts are not empty. Of those with the same text the first counts.
  explicit AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
    std::ranges::stable_sort(tokens_, {}, &AddedToken::text);
    const auto same = [](const AddedToken& a, const AddedToken& b) { return a.text == b.text; };
    tokens_.erase(std::unique(tokens_.begin(), tokens_.end(), same), tokens_.end());
    for (const AddedToken& token : tokens_) starts_[static_cast<unsigned char>(token.text[0])] = true;
    if (std::ranges::any_of(tokens_, &AddedToken::single_word)) word_.emplace(word_pattern, false, "added_tokens");
  }

  /// Calls `on_text(std::string_view)` and `on_token(int id)` for the parts of `text`, valid UTF-8, in order; no text is empty.
  template <class OnText, class OnToken>
  void split(std::string_view text, OnText&& on_text, OnToken&& on_token) const {
    std::size_t done = 0, space_end = 0;  // space_end: of the white space that was last looked through
    for (std::size_t i = 0; i < text.size();) {
      const AddedToken* token = starts_[static_cast<unsigned char>(text[i])] ? longest_at_start(text.substr(i)) : nullptr;
      if (token == nullptr) {
        ++i;
        continue;
      }
      std::size_t begin = i, end = i += token->text.size();
      if (token->single_word && touches_word(text.substr(0, begin), text.substr(end))) continue;
      if (token->lstrip && begin > done) begin -= trailing_space(text.substr(done, begin - done));
      if (token->rstrip) end = space_end = end < space_end ? space_end : end + leading_space(text.substr(end));
      if (begin > done) on_text(text.substr(done, begin - done));
      on_token(token->id);
      done = end;  // a token of white space may follow inside what this one took: then it counts as well, as in Hugging Face's
    }
    if (done < text.size()) on_text(text.substr(done));
  }

 private:
  // Alphabetic, marks, decimal digits, connectors and joiners: \w of Unicode's regular expressions (UTS 18).
  static constexpr std::string_view word_pattern =
      "[\\p{L}\\p{Nl}\\p{M}\\p{Nd}\\p{Pc}\\x{200C}\\x{200D}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{"
      "1F189}]";

  bool touches_word(std::string_view before, std::string_view after) const {
    const auto is_word = [&](std::string_view character) {
      bool found = false;
      if (!character.empty())
        word_->each_match(character, Regex::Limits(character.size()), [&](std::size_t, std::size_t) { found = true; });
      return found;
    };
    std::size_t last = before.size();
    while (last > 0 && (static_cast<unsigned char>(before[--last]) & 0xC0) == 0x80) continue;
    return is_word(before.substr(last)) || (!after.empty() && is_word(after.substr(0, utf8_sequence(after).length)));
  }

  const AddedToken* longest_at_start(std::string_view text) const {
    // The tokens that begin with the first `length` bytes of `text` are neighbours, and the one that has no more bytes comes first.
    const AddedToken* longest = nullptr;
    auto begin = tokens_.begin(), end = tokens_.end();
    for (std::size_t length = 0; begin != end; ++length) {
      if (begin->text.size() == length) longest = &*begin++;
      if (length == text.size()) break;
      const auto next = static_cast<unsigned char>(text[length]);
      const auto byte_of = [length](const AddedToken& token) { return static_cast<unsigned char>(token.text[length]); };
      begin = std::partition_point(begin, end, [&](const AddedToken& token) { return byte_of(token) < next; });
      end = std::partition_point(begin, end, [&](const AddedToken& token) { return byte_of(token) == next; });
    }
    return longest;
  }

  std::vector<AddedToken> tokens_;
  std::array<bool, 256> starts_{};
  std::optional<Regex> word_;  // if any token is marked single_word
};

}  // namespace dsv3::inline DSV3_ISA::io
