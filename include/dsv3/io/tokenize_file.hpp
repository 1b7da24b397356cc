// Floor 6. Text files as training data: plain text, or JSONL with a field "text", tokenized once, to be kept in a token file.
#pragma once

#include <fstream>
#include <optional>

#include "dsv3/io/json.hpp"
#include "dsv3/io/token_file.hpp"
#include "dsv3/io/tokenizer.hpp"
#include "dsv3/train/fill_in_the_middle.hpp"

namespace dsv3::inline DSV3_ISA::io {

struct TokenizeOptions {
  std::optional<int> end_token;                ///< appended to every document
  std::optional<train::FimTokens> fim_tokens;  ///< fill-in-the-middle, at fim_rate
  double fim_rate = 0;
  std::uint64_t seed = 0;
};

/// The ids of a text file (one document) or of a .jsonl file (one document per line, in its field "text").
/// Throws: Error naming the file, and the line that is not such JSON.
[[nodiscard]] inline std::vector<int> tokenize_file(const std::filesystem::path& path, const Tokenizer& tokenizer,
                                                    const TokenizeOptions& options = {}) {
  std::vector<int> ids;
  std::uint64_t documents = 0;
  const auto add = [&](std::string_view text) {
    auto document = tokenizer.encode_text(text);
    if (options.fim_tokens && options.fim_rate > 0)
      document = train::fill_in_the_middle(document, *options.fim_tokens, options.fim_rate, options.seed, documents);
    ids.insert(ids.end(), document.begin(), document.end());
    if (options.end_token) ids.push_back(*options.end_token);
    ++documents;
  };
  if (path.extension() != ".jsonl") {
    add(read_text_file(path, std::size_t{2} << 30));
    return ids;
  }
  std::ifstream lines(path);
  require(lines.good(), path.string(), ": cannot open: ", std::strerror(errno));
  std::string line;
  for (Index number = 1; std::getline(lines, line); ++number) {
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    const std::string where = path.string() + ":" + std::to_string(number);
    const auto json = parse_json(line, where);
    require(json.is_object() && json.contains("text") && json["text"].is_string(), where, ": expected an object with a string \"text\"");
    add(json["text"].get_ref<const std::string&>());
  }
  require(!lines.bad(), path.string(), ": cannot read: ", std::strerror(errno));
  return ids;
}

}  // namespace dsv3::inline DSV3_ISA::io
