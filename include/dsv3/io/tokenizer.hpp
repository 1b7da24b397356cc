// Floor 6. Text to token ids and back, by byte-level byte-pair encoding: a Hugging Face tokenizer.json, or Moonshot's tiktoken.model.
//
// Leaves out what the file may say about batches (truncation, padding), and does not apply the post-processor, which would add tokens that
// are not in the text: encode() adds none. Kinds of tokenizers that DeepSeek-V3 and its relatives do not use are refused with a message
// naming the field.
#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <vector>

#include "dsv3/core/error.hpp"
#include "dsv3/io/added_tokens.hpp"
#include "dsv3/io/bpe.hpp"
#include "dsv3/io/decoder.hpp"
#include "dsv3/io/json.hpp"
#include "dsv3/io/normalizer.hpp"
#include "dsv3/io/pre_tokenizer.hpp"
#include "dsv3/io/tiktoken.hpp"
#include "dsv3/io/utf8.hpp"
#include "dsv3/io/vocabulary.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// A tokenizer; constant once read, so threads may share one.
class [[nodiscard]] Tokenizer {
 public:
  /// Reads a tokenizer.json; a tiktoken.model (any name that ends so) with the tokenizer_config.json beside it; or of a folder the one that
  /// is there, tokenizer.json first.
  ///
  /// Throws: Error naming the file, the field, what was expected and what was found.
  static Tokenizer open(const std::filesystem::path& path) {
    std::error_code ignored;
    if (std::filesystem::is_directory(path, ignored)) {
      const auto file = find(path);
      require(!file.empty(), path.string(), ": expected a file tokenizer.json or tiktoken.model in this folder, found neither");
      return open(file);
    }
    if (path.extension() == ".model") return Tokenizer(read_tiktoken(path), path.string());
    return parse(read_text_file(path, std::size_t{256} << 20), path.string());
  }

  /// The file that open() reads of a folder; empty if there is none.
  [[nodiscard]] static std::filesystem::path find(const std::filesystem::path& folder) {
    std::error_code ignored;
    for (const char* name : {"tokenizer.json", "tiktoken.model"})
      if (std::filesystem::exists(folder / name, ignored)) return folder / name;
    return {};
  }

  /// Reads the text of a tokenizer.json; `name` opens the messages. Throws: as open(). A template for precompiled.hpp's sake alone.
  template <class Json = nlohmann::json>
  static Tokenizer parse(std::string_view json, std::string name);

  /// The ids of `text`. Added tokens in it (special ones too) are recognised, and none is added.
  ///
  /// Throws: Error if `text` is not valid UTF-8, naming the offset of the first bad byte, or if it is 2 GiB or longer.
  /// Cost: n log n in the length of a word, linear in the number of words.
  [[nodiscard]] std::vector<int> encode(std::string_view text) const {
    check_text(text);
    std::vector<int> ids;
    Scratch scratch;
    const auto on_token = [&](int id) { ids.push_back(id); };
    const auto on_text = [&](std::string_view part) { encode_part(part, scratch, ids); };
    const auto on_part = [&](std::string_view part) {
      added_normalized_.split(normalizer_.apply(part, scratch.normalized), on_text, on_token);
    };
    added_.split(text, on_part, on_token);
    return ids;
  }

  /// The same for text in which added tokens have no meaning: what strangers write cannot contain a control token. Throws: as encode().
  [[nodiscard]] std::vector<int> encode_text(std::string_view text) const {
    check_text(text);
    std::vector<int> ids;
    Scratch scratch;
    encode_part(normalizer_.apply(text, scratch.normalized), scratch, ids);
    return ids;
  }

  /// Exactly the bytes that `ids` stand for, after the decoder's steps if it has any besides ByteLevel; added tokens are written as their
  /// text. They need not be valid UTF-8 (see Utf8Stream). A normalizer, or a space that is put before the text, is not undone.
  ///
  /// Throws: Error if an id is not in the vocabulary.
  [[nodiscard]] std::string decode(std::span<const int> ids) const {
    std::string text;
    for (const int id : ids) text += token_bytes(id);
    return decoder_.apply(std::move(text));
  }

  /// One more than the largest id. There may be gaps below.
  int vocab_size() const { return vocabulary_.size(); }

  /// The id of the token that stands for exactly these bytes: " the", or "<|EOT|>" for an added token.
  std::optional<int> token_id(std::string_view bytes) const { return vocabulary_.id(bytes); }

  /// Whether `id` is an added token: control tokens are, and text that byte-pair encoding gives never holds one.
  bool is_added(int id) const {
    return std::ranges::any_of(vocabulary_.added(), [&](const auto& token) { return token.id == id; });
  }

  /// The bytes that `id` stands for; they live as long as the tokenizer. Throws: Error if `id` is not in the vocabulary.
  std::string_view token_bytes(int id) const {
    const std::string* bytes = vocabulary_.bytes(id);
    require(bytes != nullptr, name_, ": expected a token id of the vocabulary (below ", vocab_size(), "), found ", id);
    return *bytes;
  }

  /// The file it was read from, for messages.
  const std::string& name() const { return name_; }

  /// The value of "post_processor", null for none: for read_begin() of text_bounds.hpp.
  const nlohmann::json& post_processor() const { return post_processor_; }

 private:
  struct Scratch {
    std::string normalized;
    std::vector<int> byte_ids;
    Bpe::Workspace bpe;
  };

  template <class Json>
  Tokenizer(const Json& file, std::string name)
      : name_(std::move(name)),
        normalizer_(optional_member(file, "normalizer"), name_ + ": normalizer"),
        pre_tokenizer_(json_member(file, "pre_tokenizer", name_), name_ + ": pre_tokenizer"),
        decoder_(json_member(file, "decoder", name_), name_ + ": decoder"),
        post_processor_(optional_member(file, "post_processor")),
        vocabulary_(json_member(json_member(file, "model", name_), "vocab", name_ + ": model"), optional_member(file, "added_tokens"),
                    name_) {
    read_model(file["model"]);
    set_added();
  }

  Tokenizer(const TiktokenFiles& files, std::string name)
      : name_(std::move(name)),
        pre_tokenizer_(Regex(moonshot_pattern, false, name_)),
        vocabulary_(files.tokens, files.added, name_),
        bpe_(merges_by_id(vocabulary_, static_cast<int>(files.tokens.size()))),
        ignore_merges_(true) {
    set_added();
  }

  /// Null if `file` has no such member.
  template <class Json>
  Json optional_member(const Json& file, const char* key) const {
    require(file.is_object(), name_, ": expected an object, found ", describe(file));
    return file.value(key, Json());
  }

  /// Those marked "normalized" are looked for as the normalizer would write them.
  void set_added() {
    std::vector<AddedToken> first, last;
    for (AddedToken token : vocabulary_.added()) {
      if (token.normalized) {
        std::string storage;
        token.text = normalizer_.apply(token.text, storage);
        if (token.text.empty()) continue;
      }
      (token.normalized ? last : first).push_back(std::move(token));
    }
    added_ = AddedTokens(std::move(first));
    added_normalized_ = AddedTokens(std::move(last));
  }

  static void check_text(std::string_view text) {
    const std::size_t valid = valid_utf8_prefix(text);
    require(valid == text.size(), "text to encode: expected UTF-8, found an invalid sequence at byte ", valid);
    require(text.size() < std::size_t{1} << 31, "text to encode: expected less than 2 GiB, found ", text.size(), " bytes");
  }

  template <class Json>
  void read_model(const Json& model) {
    const std::string where = name_ + ": model";
    const std::string& type = json_string(model, "type", where);
    require(type == "BPE", where, ".type: expected \"BPE\", found ", quote(type), " (not supported)");
    for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
      const Json value = model.value(key, Json());
      const bool zero = value.is_number() && value.template get<double>() == 0,
                 no_text = value.is_string() && value.template get_ref<const std::string&>().empty();
      require(value.is_null() || zero || no_text, where, ".", key, ": expected null, found ", describe(value), " (not supported)");
    }
    ignore_merges_ = model.contains("ignore_merges") && json_bool(model, "ignore_merges", where);

    const Json& merges = json_member(model, "merges", where);
    require(merges.is_array(), where, ".merges: expected an array, found ", describe(merges));
    std::unordered_map<std::string_view, int> ids;  // of the tokens as the file writes them, in its byte-level alphabet
    for (const auto& [token, id] : model["vocab"].template get_ref<const typename Json::object_t&>())
      ids.emplace(token, id.template get<int>());
    std::string joined;
    for (std::size_t i = 0; i < merges.size(); ++i) {
      const auto id_of = [&](std::string_view token) {
        const auto found = ids.find(token);
        if (found == ids.end()) fail(where, ".merges[", i, "]: expected tokens of model.vocab, found ", quote(token));
        return found->second;
      };
      const auto [left, right] = merge_parts(merges[i]);
      if (left.empty() || right.empty())
        fail(where, ".merges[", i, "]: expected \"left right\" or [\"left\", \"right\"], found ", describe(merges[i]));
      joined.assign(left).append(right);
      const int left_id = id_of(left), right_id = id_of(right);
      bpe_.add_merge(left_id, right_id, id_of(joined));
    }
  }

  /// Two empty strings if `merge` is of neither form.
  static std::pair<std::string_view, std::string_view> merge_parts(const nlohmann::json& merge) {
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
      return {merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>()};
    if (!merge.is_string()) return {};
    const std::string_view text = merge.get_ref<const std::string&>();
    const std::size_t space = text.find(' ');
    if (space == text.npos || text.find(' ', space + 1) != text.npos) return {};
    return {text.substr(0, space), text.substr(space + 1)};
  }

  void encode_part(std::string_view text, Scratch& scratch, std::vector<int>& ids) const {
    pre_tokenizer_.split(text, [&](std::string_view piece) { encode_piece(piece, scratch, ids); });
  }

  void encode_piece(std::string_view piece, Scratch& scratch, std::vector<int>& ids) const {
    if (ignore_merges_) {
      if (const std::optional<int> whole = vocabulary_.plain_id(piece)) return ids.push_back(*whole);
    }
    scratch.byte_ids.clear();
    for (const char byte : piece) scratch.byte_ids.push_back(vocabulary_.id_of_byte(byte));
    bpe_.encode(scratch.byte_ids, scratch.bpe, ids);
  }

  std::string name_;
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  Decoder decoder_;
  nlohmann::json post_processor_;
  Vocabulary vocabulary_;
  AddedTokens added_, added_normalized_;  // Hugging Face looks for those marked "normalized" in what the others leave
  Bpe bpe_;
  bool ignore_merges_ = false;
};

template <class Json>
Tokenizer Tokenizer::parse(std::string_view json, std::string name) {
  const Json file = parse_json(json, name);
  return Tokenizer(file, std::move(name));
}

}  // namespace dsv3::inline DSV3_ISA::io
