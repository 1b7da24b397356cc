// Floor 0. The one exception type, thrown at boundaries: opening, loading, constructing, public forward calls.
//
// A message names the thing, the place, what was expected and what was found. Kernels on the caller's memory throw it too if shapes do not
// fit, in every build.
#pragma once

#include <charconv>
#include <cmath>
#include <initializer_list>
#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

#include "dsv3/core/isa.hpp"

namespace dsv3::inline DSV3_ISA {

/// Bad input met at a boundary of the library: a file, a configuration, a shape, values that are not finite.
class [[nodiscard]] Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

namespace detail {
template <class T>
void put(std::ostream& out, const T& part) {
  if constexpr (std::is_floating_point_v<T>) {  // shortest digits that read back as the same value; whole numbers without exponent
    char text[64];
    const bool whole = std::abs(part) < T(1e15) && part == std::trunc(part);
    const auto end =
        whole ? std::to_chars(text, text + sizeof text, part, std::chars_format::fixed) : std::to_chars(text, text + sizeof text, part);
    out << std::string_view(text, end.ptr);
  } else {
    out << part;
  }
}
}  // namespace detail

/// Concatenates `parts` with operator<< and throws the result as an Error. Numbers are written in full.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  message.imbue(std::locale::classic());
  (detail::put(message, parts), ...);
  throw Error(message.str());
}

/// Throws fail(parts...) unless `condition` holds. The parts are formatted only on failure.
template <class... Parts>
void require(bool condition, const Parts&... parts) {
  if (!condition) [[unlikely]]
    fail(parts...);
}

/// "[1536, 7168]" for a shape given as a list or any range of integers.
template <class Range = std::initializer_list<long long>>
std::string shape_string(const Range& dims) {
  std::ostringstream out;
  out.imbue(std::locale::classic());
  const char* separator = "[";
  for (const auto d : dims) {
    out << separator << d;
    separator = ", ";
  }
  if (*separator == '[') out << '[';
  out << ']';
  return out.str();
}

}  // namespace dsv3::inline DSV3_ISA
