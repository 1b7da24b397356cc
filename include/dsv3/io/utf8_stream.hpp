// Floor 6. Turns bytes that arrive token by token into text that can be printed at once.
//
// A token of a byte-level vocabulary may end in the middle of a character. Does not keep grapheme clusters together: an emoji made of
// several characters may arrive in parts.
#pragma once

#include <string>
#include <string_view>

#include "dsv3/core/error.hpp"
#include "dsv3/io/utf8.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// Holds back the start of a character until its last byte has come. All text it returns is valid UTF-8.
class Utf8Stream {
 public:
  /// The text that `bytes` completes, perhaps none. A sequence that can no longer become valid is replaced by U+FFFD.
  [[nodiscard]] std::string push(std::string_view bytes) {
    held_ += bytes;
    std::string text;
    std::string_view rest = held_;
    while (!rest.empty()) {
      const Utf8Sequence sequence = utf8_sequence(rest);
      if (sequence.kind == Utf8Sequence::cut) break;
      text += sequence.kind == Utf8Sequence::complete ? rest.substr(0, sequence.length) : replacement;
      rest.remove_prefix(sequence.length);
    }
    held_ = std::string(rest);
    return text;
  }

  /// Ends the text: U+FFFD if a character was left incomplete, else nothing. The stream can be used again.
  [[nodiscard]] std::string finish() {
    const bool cut = !held_.empty();
    held_.clear();
    return cut ? std::string(replacement) : std::string();
  }

 private:
  static constexpr std::string_view replacement = "\xEF\xBF\xBD";
  std::string held_;  // at most 3 bytes
};

}  // namespace dsv3::inline DSV3_ISA::io
