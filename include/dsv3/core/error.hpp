// Floor 0. The one exception type, thrown at boundaries: opening, loading, constructing, public forward calls.
//
// A message names the thing, the place, what was expected and what was found. Kernels assert instead.
#pragma once

#include <initializer_list>
#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

#include "dsv3/core/isa.hpp"

namespace dsv3::inline DSV3_ISA {

/// Bad input met at a boundary of the library: a file, a configuration, a shape, values that are not finite.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Concatenates `parts` with operator<< and throws the result as an Error.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  message.imbue(std::locale::classic());
  (message << ... << parts);
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
