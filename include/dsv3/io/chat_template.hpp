// Floor 6. Which chat format a checkpoint uses, going by the template in its folder.
//
// Templates are programs in Jinja. They are not run: those of the published models are known by their text, and generate/chat.hpp renders
// their formats itself. A template that differs in one word is not known, since its conversations may differ too.
#pragma once

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "dsv3/generate/chat_format.hpp"
#include "dsv3/io/json.hpp"

namespace dsv3::inline DSV3_ISA::io {

namespace detail {

/// A template without what has no meaning in Jinja, which differs from copy to copy: white space inside tags, and around tags whose dashes
/// strip it. "\n" in a string becomes a newline.
inline std::string canonical_template(std::string_view text) {
  const auto space = [](char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; };
  const auto word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; };
  std::string out;
  bool in_tag = false, strip = false;
  char quote = '\0';
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const std::string_view rest = text.substr(i);
    if (quote != '\0') {
      if (c == '\\' && rest.size() > 1) {  // an escaped quote does not end the string
        out += rest[1] == 'n' ? "\n" : std::string(rest.substr(0, 2));
        ++i;
      } else {
        out += c;
        if (c == quote) quote = '\0';
      }
    } else if (in_tag) {
      if (space(c)) {
        if (!out.empty() && word(out.back())) {  // a space is kept between words
          const auto next = std::ranges::find_if_not(rest, space);
          if (next != rest.end() && word(*next)) out += ' ';
        }
        continue;
      }
      if (c == '\'' || c == '"') quote = c;
      if (rest.starts_with("}}") || rest.starts_with("%}")) {
        in_tag = false;
        strip = out.ends_with('-');
        out += rest.substr(0, 2);
        ++i;
      } else {
        out += c;
      }
    } else if (rest.starts_with("{{") || rest.starts_with("{%")) {
      in_tag = true;
      if (rest.substr(2).starts_with('-'))
        while (!out.empty() && space(out.back())) out.pop_back();
      out += rest.substr(0, 2);
      ++i;
    } else if (!strip || !space(c)) {
      strip = false;
      out += c;
    }
  }
  while (!out.empty() && space(out.back())) out.pop_back();
  return out;
}

/// FNV-1a with 64 bits.
constexpr std::uint64_t fingerprint(std::string_view text) {
  std::uint64_t hash = 0xCBF29CE484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  return hash;
}

}  // namespace detail

/// The format of a published template (`chat_template` of tokenizer_config.json); none for any other text.
[[nodiscard]] inline std::optional<ChatFormat> chat_format(std::string_view chat_template) {
  constexpr std::array<std::pair<std::uint64_t, ChatFormat>, 7> known{{
      {0xD25F372520BB97C2u, ChatFormat::v3},
      {0xB82BAC9987566442u, ChatFormat::r1_first},
      {0xEE1EF6560D1AB891u, ChatFormat::r1},
      {0x29AA0D02C7065488u, ChatFormat::v3_0324},
      {0x6DA9DF4618EF3C8Cu, ChatFormat::r1_0528},
      {0x3CB27D895C954B83u, ChatFormat::r1_0528},  // its later revision, which takes arguments that are objects, too
      {0x550B43C89AC3226Eu, ChatFormat::v31},
  }};
  const std::uint64_t found = detail::fingerprint(detail::canonical_template(chat_template));
  const auto format = std::ranges::find(known, found, [](const auto& entry) { return entry.first; });
  return format == known.end() ? std::nullopt : std::optional(format->second);
}

/// The template of a checkpoint's folder: the text of chat_template.jinja, or "chat_template" in tokenizer_config.json (of several, that
/// named "default"); none if there is none. Throws: Error if a file is there and cannot be read.
[[nodiscard]] inline std::optional<std::string> read_chat_template(const std::filesystem::path& folder) {
  constexpr std::size_t most = std::size_t{64} << 20;
  if (const auto file = folder / "chat_template.jinja"; std::filesystem::exists(file)) return read_text_file(file, most);
  const auto file = folder / "tokenizer_config.json";
  if (!std::filesystem::exists(file)) return std::nullopt;
  const auto settings = parse_json(read_text_file(file, most), file.string());
  if (!settings.is_object() || !settings.contains("chat_template")) return std::nullopt;
  const auto& chosen = settings["chat_template"];
  if (chosen.is_string()) return chosen.get<std::string>();
  if (chosen.is_array())
    for (const auto& named : chosen)
      if (named.is_object() && named.value("name", nlohmann::json()) == "default" && named.value("template", nlohmann::json()).is_string())
        return named["template"].get<std::string>();
  return std::nullopt;
}

}  // namespace dsv3::inline DSV3_ISA::io
