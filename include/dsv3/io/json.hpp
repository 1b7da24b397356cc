// Floor 6. Reading small text files and JSON documents that may be hostile, with errors that name the file.
//
// Numbers, strings and nesting are checked here; callers check what the fields mean. nlohmann::json writes JSON. The part that is slowest
// to compile is a template, so that programs can link it precompiled (precompiled.hpp).
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "dsv3/core/error.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// Deepest nesting of arrays and objects that parse_json() accepts.
inline constexpr std::size_t max_json_depth = 64;

/// `text` in double quotes, control characters escaped and long text cut: for messages about files that may be hostile.
template <class Json = nlohmann::json>
std::string quote(std::string_view text) {
  return Json(text.substr(0, 80)).dump(-1, ' ', false, Json::error_handler_t::replace) + (text.size() > 80 ? "..." : "");
}

/// A value as error messages show it: a short value itself, else its type.
inline std::string describe(const nlohmann::json& value) {
  if (value.is_string()) return quote(value.get_ref<const std::string&>());
  return value.is_structured() ? value.type_name() : value.dump();
}

namespace detail {

/// Builds a nlohmann::json like its own parser, but refuses deep nesting and repeated keys.
class JsonBuilder : public nlohmann::json_sax<nlohmann::json> {
  using Json = nlohmann::json;

 public:
  explicit JsonBuilder(std::string_view what) : what_(what) {}

  Json take() { return std::move(root_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }  // JSON text has no binary values

  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    const auto [place, is_new] = open_.back()->get_ref<Json::object_t&>().try_emplace(name);
    require(is_new, what_, ": key ", quote(name), " appears twice in one JSON object");
    value_of_key_ = &place->second;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    // The message reads "[json.exception.parse_error.101] parse error at line ...": the tag is of no use to a reader.
    const std::string_view text = error.what();
    const std::size_t tag_end = text.find("] ");
    fail(what_, ": not valid JSON at byte ", position, ": ", text.substr(tag_end == text.npos ? 0 : tag_end + 2).substr(0, 300));
  }

 private:
  template <class Value>
  bool add(Value&& value) {
    put(std::forward<Value>(value));
    return true;
  }

  template <class Value>
  Json* put(Value&& value) {
    if (open_.empty()) return &(root_ = std::forward<Value>(value));
    if (open_.back()->is_object()) return &(*value_of_key_ = std::forward<Value>(value));
    return &open_.back()->get_ref<Json::array_t&>().emplace_back(std::forward<Value>(value));
  }

  bool open(Json&& empty) {
    require(open_.size() < max_json_depth, what_, ": JSON nested deeper than ", max_json_depth, " levels");
    open_.push_back(put(std::move(empty)));
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  std::string_view what_;
  Json root_;
  std::vector<Json*> open_;  // a parent gets no further element while its last one is open, so these stay valid
  Json* value_of_key_ = nullptr;
};

}  // namespace detail

/// The value of `key`; `where` names the object in the message.
///
/// Throws: Error if `object` is not an object or has no such key.
inline const nlohmann::json& json_member(const nlohmann::json& object, const char* key, std::string_view where) {
  require(object.is_object(), where, ": expected an object, found ", describe(object));
  const auto found = object.find(key);
  require(found != object.end(), where, ": key \"", key, "\" is missing");
  return *found;
}

/// The string under `key`. Throws: Error like json_member, and if it is not a string.
inline const std::string& json_string(const nlohmann::json& object, const char* key, std::string_view where) {
  const nlohmann::json& value = json_member(object, key, where);
  require(value.is_string(), where, ".", key, ": expected a string, found ", describe(value));
  return value.get_ref<const std::string&>();
}

/// The truth value under `key`. Throws: Error like json_member, and if it is neither true nor false.
inline bool json_bool(const nlohmann::json& object, const char* key, std::string_view where) {
  const nlohmann::json& value = json_member(object, key, where);
  require(value.is_boolean(), where, ".", key, ": expected true or false, found ", describe(value));
  return value.get<bool>();
}

/// Parses one JSON document and reports its contents to `events`.
template <class Json>
void parse_json_events(std::string_view text, nlohmann::json_sax<Json>& events) {
  Json::sax_parse(text.begin(), text.end(), &events);
}

/// Parses one JSON document; `what` (a file name) begins every error message.
///
/// Throws: Error if the text is not valid JSON, is nested deeper than max_json_depth, or repeats a key within an object.
[[nodiscard]] inline nlohmann::json parse_json(std::string_view text, std::string_view what) {
  detail::JsonBuilder builder(what);
  parse_json_events<nlohmann::json>(text, builder);
  return builder.take();
}

/// Throws: Error if `begin`, the first bytes of a file, show that it is a git-lfs pointer instead of the file itself.
inline void check_is_fetched(std::string_view begin, std::string_view name) {
  require(!begin.starts_with("version https://git-lfs"), name,
          ": is a git-lfs pointer, not the file itself: fetch it with 'git lfs pull', or download the file anew");
}

/// Reads a whole file of at most `max_bytes` bytes.
///
/// Throws: Error if it cannot be opened or read, is a directory, or is longer.
[[nodiscard]] inline std::string read_text_file(const std::filesystem::path& path, std::size_t max_bytes) {
  std::error_code ignored;
  require(!std::filesystem::is_directory(path, ignored), path.string(), ": expected a file, found a directory");
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  require(file.is_open(), path.string(), ": cannot open: ", errno != 0 ? std::strerror(errno) : "unknown reason");
  std::string text;
  // In pieces rather than by the file's size, so that pipes work and a wrong size allocates nothing.
  std::vector<char> piece(std::size_t{1} << 16);
  while (file.read(piece.data(), static_cast<std::streamsize>(piece.size())) || file.gcount() > 0) {
    text.append(piece.data(), static_cast<std::size_t>(file.gcount()));
    require(text.size() <= max_bytes, path.string(), ": expected at most ", max_bytes, " bytes, found more");
  }
  require(!file.bad(), path.string(), ": cannot read: ", errno != 0 ? std::strerror(errno) : "unknown reason");
  check_is_fetched(text, path.string());
  return text;
}

}  // namespace dsv3::inline DSV3_ISA::io
