// Floor 6. Which bytes each token id stands for: "model.vocab" and "added_tokens" of a tokenizer.json, or tokens in their order.
//
// Leaves out the flag "special" of added tokens: encoding and decoding treat all of them alike.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "dsv3/core/error.hpp"
#include "dsv3/io/added_tokens.hpp"
#include "dsv3/io/byte_level.hpp"
#include "dsv3/io/json.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// Token ids and their bytes, each way.
class Vocabulary {
 public:
  /// Reads the values of "model.vocab" and "added_tokens" (null for none); `file` names the file in messages.
  ///
  /// Throws: Error if an id is given twice or out of proportion to their number, a byte has no token, or a field is not as expected.
  Vocabulary(const nlohmann::json& vocab, const nlohmann::json& added, const std::string& file) : file_(file) {
    require(vocab.is_object(), file_, ": model.vocab: expected an object, found ", describe(vocab));
    require(added.is_null() || added.is_array(), file_, ": added_tokens: expected an array, found ", describe(added));
    // Published ids have few gaps or none, and a single large one must not make us allocate gigabytes.
    max_ids_ = 2 * (vocab.size() + added.size()) + 4096;
    read_vocab(vocab);
    for (std::size_t i = 0; i < added.size(); ++i) read_added(vocab, added[i], i);
  }

  /// `tokens`: the bytes of ids from 0 up, none of them empty. `file` names them in messages.
  ///
  /// Throws: Error if a token or an id is given twice, or a byte has no token.
  Vocabulary(std::span<const std::string> tokens, std::span<const AddedToken> added, const std::string& file)
      : file_(file), bytes_(tokens.begin(), tokens.end()) {
    for (std::size_t i = 0; i < tokens.size(); ++i)
      require(plain_.emplace(tokens[i], static_cast<int>(i)).second, file_, ": token ", quote(tokens[i]), " is listed twice");
    find_bytes(file_);
    for (const AddedToken& token : added) {
      const auto where = [&] { return file_ + ": added token " + quote(token.text); };
      if (added_ids_.contains(token.text)) fail(where(), " is listed twice");
      set_bytes(token.id, token.text, where);
      add(token);
    }
  }

  /// One more than the largest id.
  int size() const { return static_cast<int>(bytes_.size()); }

  /// What `id` stands for, null if there is no such token.
  const std::string* bytes(int id) const {
    if (id < 0 || id >= size() || bytes_[static_cast<std::size_t>(id)].empty()) return nullptr;
    return &bytes_[static_cast<std::size_t>(id)];
  }

  /// Of an added token and a plain one that stand for the same bytes the added one counts.
  std::optional<int> id(std::string_view bytes) const {
    const auto found = added_ids_.find(bytes);
    return found == added_ids_.end() ? plain_id(bytes) : std::optional(found->second);
  }

  /// The same for tokens that are not added ones.
  std::optional<int> plain_id(std::string_view bytes) const {
    const auto found = plain_.find(bytes);
    return found == plain_.end() ? std::nullopt : std::optional(found->second);
  }

  int id_of_byte(char byte) const { return byte_ids_[static_cast<unsigned char>(byte)]; }

  const std::vector<AddedToken>& added() const { return added_; }

 private:
  using Json = nlohmann::json;

  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };

  void read_vocab(const Json& vocab) {
    for (const auto& [text, value] : vocab.get_ref<const Json::object_t&>()) {
      const auto where = [&, &token = text] { return file_ + ": model.vocab[" + quote(token) + "]"; };
      if (text.empty()) fail(where(), ": expected no empty token");
      const std::optional<std::string> bytes = bytes_of_byte_level(text);
      const int id = read_id(value, where);
      set_bytes(id, bytes.value_or(text), where);  // like Hugging Face, what is not byte-level stands for its own text
      if (bytes) plain_.emplace(*bytes, id);
    }
    find_bytes(file_ + ": model.vocab");
  }

  void find_bytes(const std::string& where) {
    for (std::size_t byte = 0; byte < byte_ids_.size(); ++byte) {
      const std::optional<int> found = plain_id(std::string(1, static_cast<char>(byte)));
      require(found.has_value(), where, ": expected a token for each of the 256 bytes, found none for byte ", byte);
      byte_ids_[byte] = *found;
    }
  }

  void read_added(const Json& vocab, const Json& token, std::size_t index) {
    const std::string place = file_ + ": added_tokens[" + std::to_string(index) + "]";
    const auto where = [&] { return place; };
    const std::string& text = json_string(token, "content", place);
    require(!text.empty(), place, ".content: expected text, found \"\"");
    const int id = read_id(json_member(token, "id", place), [&] { return place + ".id"; });
    require(!added_ids_.contains(text), place, ".content: ", quote(text), " is listed twice");
    if (const auto in_vocab = vocab.find(text); in_vocab != vocab.end()) {
      require(in_vocab->get<int>() == id, place, ".id: expected ", in_vocab->dump(), " as in model.vocab, found ", id);
      require(*bytes(id) == text, place, ".content: ", quote(text), " stands for other bytes in model.vocab (not supported)");
    } else {
      set_bytes(id, text, where);
    }
    const auto flag = [&](const char* key) { return json_bool(token, key, place); };
    add({text, id, flag("normalized"), flag("single_word"), flag("lstrip"), flag("rstrip")});
  }

  /// The plain token with the same bytes, if there is one with this id, is no longer a plain one: text cannot spell it.
  void add(const AddedToken& token) {
    if (const auto found = plain_.find(token.text); found != plain_.end() && found->second == token.id) plain_.erase(found);
    added_ids_.insert_or_assign(token.text, token.id);
    added_.push_back(token);
  }

  template <class Where>
  int read_id(const Json& value, const Where& where) const {
    const auto id = value.is_number_integer() ? value.get<std::int64_t>() : -1;
    if (id < 0 || std::cmp_greater_equal(id, max_ids_))
      fail(where(), ": expected an id from 0 to ", max_ids_ - 1, ", found ", describe(value));
    return static_cast<int>(id);
  }

  template <class Where>
  void set_bytes(int id, const std::string& bytes, const Where& where) {
    const auto at = static_cast<std::size_t>(id);
    if (at >= bytes_.size()) bytes_.resize(at + 1);
    if (!bytes_[at].empty()) fail(where(), ": id ", id, " is already that of ", quote(bytes_[at]));
    bytes_[at] = bytes;
  }

  std::string file_;
  std::size_t max_ids_ = 0;
  std::vector<std::string> bytes_;  // by id, empty where there is no token
  std::unordered_map<std::string, int, Hash, std::equal_to<>> plain_, added_ids_;
  std::array<int, 256> byte_ids_{};
  std::vector<AddedToken> added_;
};

}  // namespace dsv3::inline DSV3_ISA::io
