// Floor 6. Ranges of numbers as expressions of GBNF: minimum and maximum of JSON schemas.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

#include "dsv3/core/error.hpp"

namespace dsv3::inline DSV3_ISA::io {

namespace detail {

/// Numbers by their decimal digits; the last `decimals` digits follow a point.
class DigitRange {
 public:
  explicit DigitRange(std::size_t decimals) : decimals_(decimals) {}

  /// The numbers from low to high, both in units of the last digit; 0 <= low <= high.
  std::string between(std::int64_t low, std::int64_t high) const {
    const std::size_t shortest = decimals_ + 1;
    std::string out;
    for (std::size_t length = shortest; length <= 18; ++length) {
      const std::int64_t least = length == shortest ? 0 : power(length - 1), most = power(length) - 1;
      if (high < least) break;
      if (low > most) continue;
      out += (out.empty() ? "" : " | ") + expression(digits(std::max(low, least), length), digits(std::min(high, most), length));
    }
    return out;
  }

  static std::int64_t power(std::size_t exponent) {
    std::int64_t value = 1;
    for (; exponent > 0; --exponent) value *= 10;
    return value;
  }

 private:
  static std::string digits(std::int64_t value, std::size_t length) {
    std::string text = std::to_string(value);
    return std::string(length - text.size(), '0') + text;
  }

  /// One digit from a to b; `left` digits remain, including this one.
  std::string digit(char a, char b, std::size_t left) const {
    std::string out = left == decimals_ ? "\".\" [" : "[";
    out += a;
    if (a != b) (out += '-') += b;
    return out + "] ";
  }

  std::string expression(std::string_view low, std::string_view high) const {
    std::string out;
    while (!low.empty() && low[0] == high[0]) {
      out += digit(low[0], low[0], low.size());
      low.remove_prefix(1);
      high.remove_prefix(1);
    }
    if (low.empty()) return out;
    const std::size_t left = low.size();
    const std::string nines(left - 1, '9'), zeros(left - 1, '0');
    const bool from_zeros = low.substr(1) == zeros, to_nines = high.substr(1) == nines;
    const char first = static_cast<char>(low[0] + (from_zeros ? 0 : 1)), last = static_cast<char>(high[0] - (to_nines ? 0 : 1));
    std::string parts;
    const auto add = [&](const std::string& part) { parts += (parts.empty() ? "" : "| ") + part; };
    if (!from_zeros) add(digit(low[0], low[0], left) + expression(low.substr(1), nines));
    if (first <= last) {
      std::string part = digit(first, last, left);
      for (std::size_t i = left - 1; i > 0; --i) part += digit('0', '9', i);
      add(part);
    }
    if (!to_nines) add(digit(high[0], high[0], left) + expression(zeros, high.substr(1)));
    return out + "(" + parts + ") ";
  }

  std::size_t decimals_;
};

}  // namespace detail

/// The numbers from low to high with that many decimals (0: integers). Bounds are in units of the last decimal, within +-10^17.
/// Throws: Error if there are none.
inline std::string number_range(std::int64_t low, std::int64_t high, std::size_t decimals = 0) {
  const detail::DigitRange range(decimals);
  require(low <= high, "expected a range that has a number");
  std::string out;
  if (high >= 0) out = range.between(std::max(low, std::int64_t{0}), high);
  if (low < 0) out += (out.empty() ? "" : " | ") + std::string("\"-\" (") + range.between(std::max(-high, std::int64_t{1}), -low) + ")";
  return "(" + out + ")";
}

/// The numbers from low to high, without low if `open_low` and without high if `open_high`: integers and, unless `integer`, numbers of 1 to
/// 6 decimals. Bounds are clamped to +-1e11; infinite bounds are allowed. Throws: Error if there are none.
inline std::string number_range(double low, bool open_low, double high, bool open_high, bool integer) {
  constexpr double largest = 1e11;
  require(low <= largest && high >= -largest, "expected a range that reaches into [-1e11, 1e11]");
  std::string out;
  for (std::size_t decimals = 0; decimals <= (integer ? 0u : 6u); ++decimals) {
    const auto unit = static_cast<double>(detail::DigitRange::power(decimals));
    const auto scaled = [&](double bound, bool open, double inward) {
      const double clamped = std::clamp(bound, -largest, largest) * unit, nearest = std::round(clamped);
      // A bound such as 0.1 is not exact as a double: a bound this close to a decimal is taken for that decimal.
      const bool exact = std::abs(clamped - nearest) < 1e-6;
      const double inside = exact ? nearest : inward > 0 ? std::ceil(clamped) : std::floor(clamped);
      return static_cast<std::int64_t>(inside + (exact && open ? inward : 0));
    };
    const std::int64_t from = scaled(low, open_low, 1), to = scaled(high, open_high, -1);
    if (from <= to) out += (out.empty() ? "" : " | ") + number_range(from, to, decimals);
  }
  require(!out.empty(), "expected a range that has a number", integer ? " without decimals" : " of at most 6 decimals");
  return "(" + out + ")";
}

}  // namespace dsv3::inline DSV3_ISA::io
