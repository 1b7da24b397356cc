// What programs that read and write text need of a checkpoint besides its weights: tokens, chat format, how a text begins.
#pragma once

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli.hpp"
#include "dsv3/core/config.hpp"
#include "dsv3/generate/chat.hpp"
#include "dsv3/io/chat_template.hpp"
#include "dsv3/io/text_bounds.hpp"
#include "dsv3/io/tokenizer.hpp"

namespace cli::inline DSV3_ISA {

/// Values of --format.
inline constexpr std::array<std::pair<const char*, dsv3::ChatFormat>, 7> formats{{{"v3", dsv3::ChatFormat::v3},
                                                                                  {"r1-first", dsv3::ChatFormat::r1_first},
                                                                                  {"r1", dsv3::ChatFormat::r1},
                                                                                  {"v3-0324", dsv3::ChatFormat::v3_0324},
                                                                                  {"r1-0528", dsv3::ChatFormat::r1_0528},
                                                                                  {"v31", dsv3::ChatFormat::v31},
                                                                                  {"plain", dsv3::ChatFormat::plain}}};

/// Their names, for messages.
inline std::string format_names() {
  std::string names;
  for (const auto& [name, format] : formats)
    names += (names.empty() ? "" : name == formats.back().first ? " or " : ", ") + std::string(name);
  return names;
}

inline dsv3::ChatFormat parse_format(const std::string& name) {
  const auto found = std::ranges::find(formats, name, [](const auto& entry) { return entry.first; });
  if (found == formats.end()) throw UsageError("--format: expected " + format_names() + ", got '" + name + "'");
  return found->second;
}

/// Constant once made, so threads may share one.
class TextModel {
 public:
  /// `format`: instead of that of the folder's template; without either, conversations are plain lines. A template that is none of the
  /// published ones leaves the choice to the caller: Template::unknown.
  TextModel(const std::filesystem::path& folder, const dsv3::Config& config, const std::optional<std::string>& format_name)
      : tokenizer(dsv3::io::Tokenizer::open(folder)), begin(dsv3::io::read_begin(folder, config, tokenizer)) {
    if (format_name)
      format = parse_format(*format_name);
    else if (const auto text = dsv3::io::read_chat_template(folder); !text)
      chat_template = Template::none;
    else if (const auto published = dsv3::io::chat_format(*text))
      format = *published;
    else
      chat_template = Template::unknown;
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
  enum class Template { known, none, unknown } chat_template = Template::known;  ///< none: chats are plain lines

  /// What to say of Template::unknown: conversations would be rendered otherwise than the model expects.
  static std::string unknown_template_message() {
    return "the checkpoint's chat template is none of the published ones that are known by their text; --format says what it is: " +
           format_names();
  }

 private:
  std::vector<std::string_view> texts_;
};

}  // namespace cli::inline DSV3_ISA
