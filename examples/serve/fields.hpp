// Typed reading of a request's fields: null counts as absent, unknown fields are not looked at, and what does not fit is an ApiError that
// names the field.
#pragma once

#include <cmath>
#include <cstdint>
#include <sstream>
#include <string>
#include <utility>

#include "api_error.hpp"
#include "dsv3/core/isa.hpp"

namespace serve::inline DSV3_ISA {

/// "messages[3]".
inline std::string indexed(std::string list, std::size_t i) {
  list += '[';
  list += std::to_string(i);
  list += ']';
  return list;
}

class Fields {
 public:
  /// `prefix` is put before names in messages: "messages[0].".
  explicit Fields(const Json& object, std::string prefix = {}) : object_(&object), prefix_(std::move(prefix)) {}

  /// The value, or null if it is absent or null.
  const Json* find(const char* name) const {
    const auto at = object_->find(name);
    return at == object_->end() || at->is_null() ? nullptr : &*at;
  }

  [[noreturn]] void wrong_type(const char* name, const char* expected) const {
    throw ApiError(400, "Invalid type for '" + prefix_ + name + "': expected " + expected + ", but got " + found(*find(name)) + " instead.",
                   prefix_ + name, "invalid_type");
  }
  [[noreturn]] void wrong_value(const char* name, const std::string& expected) const {
    throw ApiError(400, "Invalid value for '" + prefix_ + name + "': expected " + expected + ".", prefix_ + name, "invalid_value");
  }
  const Json& required(const char* name) const {
    if (const Json* value = find(name)) return *value;
    throw ApiError(400, "Missing required parameter: '" + prefix_ + name + "'.", prefix_ + name, "missing_required_parameter");
  }

  double number(const char* name, double absent, double low, double high) const {
    const Json* value = find(name);
    if (value == nullptr) return absent;
    if (!value->is_number()) wrong_type(name, "a number");
    const double number = value->get<double>();
    if (!(number >= low && number <= high)) wrong_value(name, range(low, high));
    return number;
  }

  /// Also takes 3.0.
  std::int64_t integer(const char* name, std::int64_t absent, std::int64_t low, std::int64_t high) const {
    const Json* value = find(name);
    if (value == nullptr) return absent;
    const bool whole = value->is_number_integer() || (value->is_number_float() && std::trunc(value->get<double>()) == value->get<double>());
    if (!whole) wrong_type(name, "an integer");
    const double size = value->get<double>();  // also of numbers that fit no integer
    // As a double, the largest int64 is 2^63, which is no int64: `size` alone does not tell them apart.
    const bool fits = value->is_number_unsigned() ? value->get<std::uint64_t>() <= static_cast<std::uint64_t>(INT64_MAX)
                      : value->is_number_float()  ? size < 0x1p63
                                                  : true;
    if (!fits || !(size >= static_cast<double>(low) && size <= static_cast<double>(high)))
      wrong_value(name, high == INT64_MAX ? "an integer of at least " + std::to_string(low)
                                          : "an integer from " + std::to_string(low) + " to " + std::to_string(high));
    return value->get<std::int64_t>();
  }

  bool boolean(const char* name, bool absent) const {
    const Json* value = find(name);
    if (value == nullptr) return absent;
    if (!value->is_boolean()) wrong_type(name, "a boolean");
    return value->get<bool>();
  }

  std::string text(const char* name, const std::string& absent) const {
    const Json* value = find(name);
    if (value == nullptr) return absent;
    if (!value->is_string()) wrong_type(name, "a string");
    return value->get<std::string>();
  }

  /// The object in that field; an empty one if it is absent.
  Fields object(const char* name) const {
    static const Json empty = Json::object();
    const Json* value = find(name);
    if (value != nullptr && !value->is_object()) wrong_type(name, "an object");
    return Fields(value == nullptr ? empty : *value, prefix_ + name + '.');
  }

  const Json& json() const { return *object_; }
  const std::string& prefix() const { return prefix_; }

  static std::string found(const Json& value) {
    if (value.is_number_float()) return "a decimal number";
    if (value.is_number()) return "an integer";
    return std::string(value.is_object() || value.is_array() ? "an " : "a ") + value.type_name();
  }

 private:
  static std::string range(double low, double high) {
    std::ostringstream out;
    out << "a number from " << low << " to " << high;
    return out.str();
  }

  const Json* object_;
  std::string prefix_;
};

}  // namespace serve::inline DSV3_ISA
