// Floor 6. The keywords of JSON schemas that limit the length or size of a value, as expressions of GBNF.
#pragma once

#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "dsv3/core/error.hpp"
#include "dsv3/io/schema_numbers.hpp"
#include "dsv3/io/schema_strings.hpp"

namespace dsv3::inline DSV3_ISA::io::detail {

/// The values of two keywords such as minItems and maxItems; 0 and nothing if they are absent.
template <class Json>
std::pair<std::size_t, std::optional<std::size_t>> bounds(const Json& schema, const std::string& where, const char* low, const char* high) {
  const auto count = [&](const char* key) -> std::optional<std::size_t> {
    if (!schema.contains(key)) return std::nullopt;
    require(schema[key].is_number_unsigned() && schema[key].template get<std::size_t>() <= 100'000, where, ".", key,
            ": expected an integer from 0 to 100000, found ", schema[key].dump());
    return schema[key].template get<std::size_t>();
  };
  const auto least = count(low).value_or(0);
  const auto most = count(high);
  require(!most || *most >= least, where, ": ", high, " is below ", low);
  return {least, most};
}

/// "{2,5}".
inline std::string repetition(std::size_t least, std::optional<std::size_t> most) {
  std::string out = "{";  // in steps: GCC 12 at -O3 wrongly warns of "{" + std::to_string()
  out += std::to_string(least);
  out += ',';
  if (most) out += std::to_string(*most);
  out += '}';
  return out;
}

/// repetition() for two such keywords; empty if both are absent.
template <class Json>
std::string counts(const Json& schema, const std::string& where, const char* low, const char* high) {
  const auto [least, most] = bounds(schema, where, low, high);
  if (least == 0 && !most) return {};
  return repetition(least, most);
}

/// A JSON string that fits minLength, maxLength, format and pattern; `string` and `char` are rules for any string and for a character of
/// one.
template <class Json>
std::string string_expression(const Json& schema, const std::string& where) {
  const auto text = [&](const char* key) -> std::optional<std::string> {
    if (!schema.contains(key)) return std::nullopt;
    require(schema[key].is_string(), where, ".", key, ": expected a string, found ", schema[key].type_name());
    return schema[key].template get<std::string>();
  };
  const auto count = counts(schema, where, "minLength", "maxLength");
  const auto pattern = text("pattern"), format = text("format");
  auto inside = format ? format_expression(*format) : std::nullopt;
  require(!pattern || count.empty(), where, ": pattern together with minLength or maxLength is not supported");
  require(!pattern || !inside, where, ": pattern together with this format is not supported");
  if (pattern) try {
      inside = pattern_expression(*pattern);
    } catch (const Error& e) {
      fail(where, ".", e.what());
    }
  if (inside) return "\"\\\"\" (" + *inside + ") \"\\\"\"";  // lengths beside a format are ignored: two grammars cannot be intersected
  return count.empty() ? "string" : "\"\\\"\" char" + count + " \"\\\"\"";
}

/// A JSON number that fits minimum, maximum and their exclusive forms; `number` and `integer` are rules for any.
template <class Json>
std::string number_expression(const Json& schema, const std::string& where, bool integer) {
  double low = -std::numeric_limits<double>::infinity(), high = -low;
  bool open_low = false, open_high = false, bounded = false;
  const auto bound = [&](const char* key, double& value, bool& open, bool exclusive, bool is_low) {
    if (!schema.contains(key)) return;
    if (exclusive && schema[key].is_boolean()) {  // draft 4: a flag of the other keyword
      open = schema[key].template get<bool>();
      return;
    }
    require(schema[key].is_number(), where, ".", key, ": expected a number, found ", schema[key].type_name());
    const double given = schema[key].template get<double>();
    bounded = true;
    if (is_low ? given < value : given > value) return;
    open = given == value ? open || exclusive : exclusive;
    value = given;
  };
  bound("minimum", low, open_low, false, true);
  bound("exclusiveMinimum", low, open_low, true, true);
  bound("maximum", high, open_high, false, false);
  bound("exclusiveMaximum", high, open_high, true, false);
  if (!bounded) return integer ? "integer" : "number";
  try {
    return number_range(low, open_low, high, open_high, integer);
  } catch (const Error& e) {
    fail(where, ": ", e.what());
  }
}

}  // namespace dsv3::inline DSV3_ISA::io::detail
