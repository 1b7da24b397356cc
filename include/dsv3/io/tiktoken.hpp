// Floor 6. Moonlight's and Kimi's tokenizer: tiktoken.model has the tokens, tokenizer_config.json the names of control tokens.
//
// A line of tiktoken.model is a token in base64, a space, and its id, which is also how late its merge is. The pattern that cuts text is in
// neither file, but in the Python program that Moonshot publishes beside them; so is the rule for control tokens without a name.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dsv3/core/error.hpp"
#include "dsv3/io/added_tokens.hpp"
#include "dsv3/io/bpe.hpp"
#include "dsv3/io/json.hpp"
#include "dsv3/io/vocabulary.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// What the two files say.
struct TiktokenFiles {
  std::vector<std::string> tokens;  ///< by id
  std::vector<AddedToken> added;    ///< with the ids behind
};

/// Runs of Han, words with their ending, up to three digits, signs, line ends, white space.
inline constexpr std::string_view moonshot_pattern =
    "[\\p{Han}]+"
    "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]+(?i:'s|'t|'re|'ve|"
    "'m|'ll|'d)?"
    "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]*(?i:'s|'t|'re|'ve|"
    "'m|'ll|'d)?"
    "|\\p{N}{1,3}"
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+"
    "|\\s+(?!\\S)"
    "|\\s+";

namespace detail {

/// The bytes that `text` is the base64 form of, padded and without spaces; nothing if it is not of that form.
inline std::optional<std::string> bytes_of_base64(std::string_view text) {
  static constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  static constexpr auto value_of = [] {
    std::array<int, 256> table{};
    table.fill(-1);
    for (std::size_t i = 0; i < digits.size(); ++i) table[static_cast<unsigned char>(digits[i])] = static_cast<int>(i);
    return table;
  }();
  if (text.size() % 4 != 0) return std::nullopt;
  std::string_view body = text;
  for (int i = 0; i < 2 && body.ends_with('='); ++i) body.remove_suffix(1);
  std::string bytes;
  std::uint32_t bits = 0;
  int held = 0;
  for (const char digit : body) {
    const int value = value_of[static_cast<unsigned char>(digit)];
    if (value < 0) return std::nullopt;
    bits = (bits << 6 | static_cast<std::uint32_t>(value)) & 0xFFFF;
    if ((held += 6) >= 8) bytes += static_cast<char>(bits >> (held -= 8) & 0xFF);
  }
  return (bits & ((1u << held) - 1)) == 0 ? std::optional(std::move(bytes)) : std::nullopt;
}

/// A whole number in decimal digits; nothing if it is another text or above 999,999,999.
inline std::optional<int> small_number(std::string_view text) {
  int value = 0;
  if (text.empty() || text.size() > 9) return std::nullopt;
  for (const char digit : text) {
    if (digit < '0' || digit > '9') return std::nullopt;
    value = 10 * value + (digit - '0');
  }
  return value;
}

}  // namespace detail

/// Reads the text of a tiktoken.model: the bytes of the ids from 0 up. `name` opens the messages.
///
/// Throws: Error naming the line, what was expected and what was found.
inline std::vector<std::string> parse_tiktoken(std::string_view text, const std::string& name) {
  static constexpr std::size_t max_token_bytes = 512;  // published ones have up to 128: a token is cut at each of its bytes in turn
  std::vector<std::pair<std::string, int>> lines;
  std::size_t number = 0;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == text.npos ? text.size() : end + 1);
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    const std::size_t space = line.find(' ');
    auto bytes = detail::bytes_of_base64(line.substr(0, space));
    const auto id = space == line.npos ? std::nullopt : detail::small_number(line.substr(space + 1));
    if (!bytes || bytes->empty() || bytes->size() > max_token_bytes || !id)
      fail(name, ": line ", number, ": expected a token of 1 to ", max_token_bytes, " bytes in base64, a space and an id, found ",
           quote(line));
    lines.emplace_back(std::move(*bytes), *id);
  }
  std::vector<std::string> tokens(lines.size());
  for (auto& [bytes, id] : lines) {
    const auto at = static_cast<std::size_t>(id);
    require(at < tokens.size(), name, ": expected ids from 0 to ", tokens.size() - 1, " for ", tokens.size(), " tokens, found ", id);
    require(tokens[at].empty(), name, ": id ", id, " is given twice");
    tokens[at] = std::move(bytes);
  }
  return tokens;
}

/// The control tokens of Moonlight's and Kimi's tokenizers with `tokens` plain tokens. `config` is their tokenizer_config.json and `name`
/// opens the messages.
///
/// Throws: Error if it is the file of another tokenizer, or a name is missing, of a wrong type or given to a plain token.
inline std::vector<AddedToken> moonshot_added_tokens(const nlohmann::json& config, int tokens, const std::string& name) {
  static constexpr int reserved = 256;  // early versions of the program count two more, for which the models have no rows
  const std::string& type = json_string(config, "tokenizer_class", name);
  require(type == "TikTokenTokenizer", name, ": tokenizer_class: expected \"TikTokenTokenizer\", found ", quote(type),
          " (not supported with tiktoken.model)");
  std::vector<AddedToken> added(reserved);
  for (int i = 0; i < reserved; ++i) {
    added[static_cast<std::size_t>(i)].id = tokens + i;
    added[static_cast<std::size_t>(i)].text = "<|reserved_token_" + std::to_string(tokens + i) + "|>";
  }
  const nlohmann::json names = config.value("added_tokens_decoder", nlohmann::json::object());
  require(names.is_object(), name, ": added_tokens_decoder: expected an object, found ", describe(names));
  for (const auto& [key, value] : names.get_ref<const nlohmann::json::object_t&>()) {
    const std::string where = name + ": added_tokens_decoder[" + quote(key) + "]";
    const auto id = detail::small_number(key);
    require(id && *id >= tokens && *id < tokens + reserved, where, ": expected an id from ", tokens, " to ", tokens + reserved - 1);
    const std::string& text = json_string(value, "content", where);
    require(!text.empty(), where, ".content: expected text, found \"\"");
    added[static_cast<std::size_t>(*id - tokens)].text = text;
  }
  return added;
}

/// Reads tiktoken.model `path` and the tokenizer_config.json beside it. Throws: Error naming the file and the place in it.
inline TiktokenFiles read_tiktoken(const std::filesystem::path& path) {
  TiktokenFiles files;
  files.tokens = parse_tiktoken(read_text_file(path, std::size_t{64} << 20), path.string());
  const auto config = path.parent_path() / "tokenizer_config.json";
  files.added = moonshot_added_tokens(parse_json(read_text_file(config, std::size_t{64} << 20), config.string()),
                                      static_cast<int>(files.tokens.size()), config.string());
  return files;
}

/// The merges that tiktoken makes: any two tokens that are together a third one, the one with the smallest id first.
inline Bpe merges_by_id(const Vocabulary& vocabulary, int tokens) {
  Bpe bpe;
  for (int id = 0; id < tokens; ++id) {
    const std::string_view bytes = *vocabulary.bytes(id);
    bool is_first = true;
    for (std::size_t cut = 1; cut < bytes.size(); ++cut) {
      const auto left = vocabulary.plain_id(bytes.substr(0, cut));
      const auto right = left ? vocabulary.plain_id(bytes.substr(cut)) : std::nullopt;
      if (!right) continue;
      if (is_first)
        bpe.add_merge(*left, *right, id);
      else
        bpe.add_equal_merge(*left, *right);
      is_first = false;
    }
  }
  return bpe;
}

}  // namespace dsv3::inline DSV3_ISA::io
