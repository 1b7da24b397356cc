// What programs that read and write text need of a checkpoint besides its weights: tokens, chat format, how a text begins.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli.hpp"
#include "dsv3/core/config.hpp"
#include "dsv3/io/chat_template.hpp"
#include "dsv3/io/text_bounds.hpp"
#include "dsv3/io/tokenizer.hpp"

namespace cli::inline DSV3_ISA {

/// "v3", "r1-first", "r1", "v3-0324", "r1-0528", "v31" or "plain".
inline dsv3::ChatFormat parse_format(const std::string& name) {
  if (name == "v3") return dsv3::ChatFormat::v3;
  if (name == "r1-first") return dsv3::ChatFormat::r1_first;
  if (name == "r1") return dsv3::ChatFormat::r1;
  if (name == "v3-0324") return dsv3::ChatFormat::v3_0324;
  if (name == "r1-0528") return dsv3::ChatFormat::r1_0528;
  if (name == "v31") return dsv3::ChatFormat::v31;
  if (name == "plain") return dsv3::ChatFormat::plain;
  throw UsageError("--format: expected v3, r1-first, r1, v3-0324, r1-0528, v31 or plain, got '" + name + "'");
}

/// Constant once made, so threads may share one.
class TextModel {
 public:
  /// `format`: instead of that of the folder's template; without either, conversations are plain lines.
  TextModel(const std::filesystem::path& folder, const dsv3::Config& config, const std::optional<std::string>& format_name)
      : tokenizer(dsv3::io::Tokenizer::open(folder)), begin(dsv3::io::read_begin(folder, config, tokenizer)) {
    if (format_name)
      format = parse_format(*format_name);
    else if (const auto published = dsv3::io::read_chat_format(folder))
      format = *published;
    else
      has_format = false;
    texts_.resize(static_cast<std::size_t>(std::max<dsv3::Index>(tokenizer.vocab_size(), config.vocab_size)));
    for (int id = 0; id < tokenizer.vocab_size(); ++id) try {
        texts_[static_cast<std::size_t>(id)] = tokenizer.token_bytes(id);
      } catch (const dsv3::Error&) {  // a gap in the vocabulary
      }
  }

  /// The bytes of a token; none for ids without text: gaps, and rows of the embedding that only pad it.
  std::string_view text_of(int id) const { return texts_[static_cast<std::size_t>(id)]; }

  std::string text_of(std::span<const int> ids) const {
    std::string text;
    for (const int id : ids) text += text_of(id);
    return text;
  }

  /// Text to be continued, after the tokens that begin every text. Control tokens in it are recognised.
  std::vector<int> encode(std::string_view text) const { return dsv3::io::begin_text(begin, tokenizer.encode(text)); }

  std::vector<int> encode_chat(std::span<const dsv3::ChatPiece> pieces) const {
    auto ids = dsv3::encode_chat(tokenizer, pieces);
    return format == dsv3::ChatFormat::plain ? dsv3::io::begin_text(begin, std::move(ids)) : ids;  // the other formats begin themselves
  }

  dsv3::io::Tokenizer tokenizer;
  std::vector<int> begin;  ///< ids that every text begins with, mostly one or none
  dsv3::ChatFormat format = dsv3::ChatFormat::plain;
  bool has_format = true;  ///< false: plain for want of a template

 private:
  std::vector<std::string_view> texts_;
};

}  // namespace cli::inline DSV3_ISA
