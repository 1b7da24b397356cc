// What programs that read and write text need of a checkpoint besides its weights: tokens, chat format, how a text begins.
#pragma once

#include <filesystem>
#include <map>
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

inline constexpr const char* format_names = "v3, r1-first, r1, v3-0324, r1-0528, v31 or plain";

/// One of format_names.
inline dsv3::ChatFormat parse_format(const std::string& name) {
  using enum dsv3::ChatFormat;
  static const std::map<std::string, dsv3::ChatFormat> formats{
      {"v3", v3}, {"r1-first", r1_first}, {"r1", r1}, {"v3-0324", v3_0324}, {"r1-0528", r1_0528}, {"v31", v31}, {"plain", plain}};
  const auto found = formats.find(name);
  if (found == formats.end()) throw UsageError("--format: expected " + std::string(format_names) + ", got '" + name + "'");
  return found->second;
}

/// Constant once made, so threads may share one.
class TextModel {
 public:
  /// `format`: instead of that of the folder's template; without either, conversations are plain lines. A template that is none of the
  /// published ones leaves the choice to the caller: see `unknown_template`.
  TextModel(const std::filesystem::path& folder, const dsv3::Config& config, const std::optional<std::string>& format_name)
      : tokenizer(dsv3::io::Tokenizer::open(folder)), begin(dsv3::io::read_begin(folder, config, tokenizer)) {
    if (format_name)
      format = parse_format(*format_name);
    else if (const auto text = dsv3::io::read_chat_template(folder); !text)
      has_template = false;
    else if (const auto published = dsv3::io::chat_format(*text))
      format = *published;
    else
      unknown_template = true;
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
  bool has_template = true;       ///< false: plain for want of a template
  bool unknown_template = false;  ///< conversations would be rendered otherwise than the model expects

  /// What to say where unknown_template is set.
  static std::string unknown_template_message() {
    return "the checkpoint's chat template is none of the published ones that are known by their text; --format says which format its "
           "chats "
           "have: " +
           std::string(format_names);
  }

 private:
  std::vector<std::string_view> texts_;
};

}  // namespace cli::inline DSV3_ISA
