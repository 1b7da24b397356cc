// Floor 6. Fields: typed reading of a JSON object's fields, with defaults and with errors that name field, expectation and value.
//
// Which fields there are is the business of config_json.hpp.
#pragma once

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "dsv3/core/config.hpp"
#include "dsv3/core/error.hpp"
#include "dsv3/io/json.hpp"

namespace dsv3::inline DSV3_ISA::io {

/// A JSON object whose fields are read with conversions and defaults; null counts as absent.
class Fields {
 public:
  /// `prefix` is put before field names in messages: "config.json: rope_scaling.".
  Fields(const nlohmann::json& object, std::string prefix) : object_(&object), prefix_(std::move(prefix)) {}

  /// The value, or null if the field is absent or null.
  const nlohmann::json* find(const char* field) const {
    const auto at = object_->find(field);
    return at == object_->end() || at->is_null() ? nullptr : &*at;
  }

  /// Throws an Error about that field.
  [[noreturn]] void wrong(const char* field, std::string_view expected) const {
    const auto* value = find(field);
    fail(prefix_, field, ": expected ", expected, ", found ", value == nullptr ? "nothing" : describe(*value));
  }

  void expect(bool good, const char* field, std::string_view expected) const {
    if (!good) wrong(field, expected);
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
    if (value == nullptr) return absent;
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
    return {value == nullptr ? empty : *value, prefix_ + field + '.'};
  }

  bool contains(const char* field) const { return object_->contains(field); }
  bool empty() const { return object_->empty(); }

  /// Also takes 4096.0; sizes beyond 2^53 are no one's.
  static std::optional<Index> as_integer(const nlohmann::json& value) {
    constexpr double exact = 9007199254740992.0;
    if (!value.is_number()) return std::nullopt;
    const auto number = value.get<double>();
    if (!(std::abs(number) <= exact) || number != std::floor(number)) return std::nullopt;
    return static_cast<Index>(number);
  }

 private:
  const nlohmann::json* object_;
  std::string prefix_;
};

}  // namespace dsv3::inline DSV3_ISA::io
