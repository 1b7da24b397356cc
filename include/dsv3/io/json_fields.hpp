// Floor 6. Fields: typed reading of a JSON object's fields, with defaults and with errors that name field, expectation and value. It
// records which fields have been read, so that unread ones can be reported.
//
// config_json.hpp and variants' own configurations know which fields there are.
#pragma once

#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dsv3/core/config.hpp"
#include "dsv3/core/error.hpp"
#include "dsv3/io/json.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// A JSON object whose fields are read with conversions and defaults; null counts as absent, and as false where true or false is expected.
class Fields {
 public:
  /// `place` (a file name) begins every error message. The object must outlive this and all copies.
  Fields(const nlohmann::json& object, const std::string& place)
      : object_(&object), prefix_(place + ": "), read_(std::make_shared<std::set<std::string>>()) {}

  /// The value, or null if the field is absent or null. The field counts as read.
  const nlohmann::json* find(const char* field) const {
    read_->insert(path_ + field);
    const auto at = object_->find(field);
    return at == object_->end() || at->is_null() ? nullptr : &*at;
  }

  /// Throws an Error about that field.
  [[noreturn]] void wrong(const char* field, std::string_view expected, std::string_view hint = {}) const {
    const auto* value = find(field);
    fail(prefix_, path_, field, ": expected ", expected, ", found ", value == nullptr ? "nothing" : describe(*value), hint);
  }

  /// Throws an Error about that field unless `good`. `hint` ends the message.
  void expect(bool good, const char* field, std::string_view expected, std::string_view hint = {}) const {
    if (!good) wrong(field, expected, hint);
  }

  // The value of a field of that type, or `absent`. Throws: Error for another type.
  double number(const char* field, double absent) const {
    const auto* value = find(field);
    if (value == nullptr) return absent;
    expect(value->is_number(), field, "a number");
    return value->get<double>();
  }

  /// Without `absent` the field is required.
  Index integer(const char* field, std::optional<Index> absent) const {
    const auto* value = find(field);
    if (value == nullptr && absent) return *absent;
    const auto number = value == nullptr ? std::nullopt : as_integer(*value);
    expect(number.has_value(), field, "an integer");
    return *number;
  }

  bool boolean(const char* field, bool absent) const {
    const auto* value = find(field);
    if (value == nullptr) return contains(field) ? false : absent;  // Python takes None for false
    expect(value->is_boolean(), field, "true or false");
    return value->get<bool>();
  }

  std::string text(const char* field, std::string_view absent) const {
    const auto* value = find(field);
    if (value == nullptr) return std::string(absent);
    expect(value->is_string(), field, "a string");
    return value->get<std::string>();
  }

  /// The object in that field; an empty one if it is absent.
  Fields object(const char* field) const {
    static const auto empty = nlohmann::json::object();
    const auto* value = find(field);
    expect(value == nullptr || value->is_object(), field, "an object");
    Fields inner(*this);
    inner.object_ = value == nullptr ? &empty : value;
    inner.path_ += std::string(field) + '.';
    return inner;
  }

  /// The fields of this object that are not null and were not read, including fields of nested objects of which another field was read.
  std::vector<std::string> unread() const {
    std::vector<std::string> out;
    for (const auto& [name, value] : object_->items()) {
      if (value.is_null()) continue;
      if (!read_->contains(path_ + name)) {
        out.push_back(path_ + name);
      } else if (value.is_object() && something_read_in(path_ + name + '.')) {
        const auto inner = object(name.c_str()).unread();
        out.insert(out.end(), inner.begin(), inner.end());
      }
    }
    return out;
  }

  bool contains(const char* field) const { return object_->contains(field); }
  bool empty() const { return object_->empty(); }

  /// Also takes 4096.0. Refuses numbers beyond 2^53, which a double does not hold exactly.
  static std::optional<Index> as_integer(const nlohmann::json& value) {
    constexpr double exact = 9007199254740992.0;
    if (!value.is_number()) return std::nullopt;
    const auto number = value.get<double>();
    if (!(std::abs(number) <= exact) || number != std::floor(number)) return std::nullopt;
    return static_cast<Index>(number);
  }

 private:
  bool something_read_in(const std::string& path) const {
    const auto at = read_->lower_bound(path);
    return at != read_->end() && at->starts_with(path);
  }

  const nlohmann::json* object_;
  std::string prefix_, path_;
  std::shared_ptr<std::set<std::string>> read_;  // paths, of the whole document
};

}  // namespace dsv3::inline DSV3_ISA::io
