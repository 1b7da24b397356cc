// Every code of every codec against the format's formula, and encoding against the definition: the nearest code, ties to even.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "dsv3/quant/float16.hpp"
#include "dsv3/quant/float8.hpp"
#include "support/arch.hpp"

using namespace dsv3;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity(), not_a_number = std::numeric_limits<float>::quiet_NaN();

struct Format {
  int exponent_bits, mantissa_bits, bias;
  bool has_infinity;  // the highest exponent holds infinities and NaN; otherwise only the highest code is NaN
  bool saturates;     // finite values beyond the largest become the largest, not infinity
};

template <class C>
constexpr Format format = {};
template <>
constexpr Format format<codec::E4m3> = {4, 3, 7, false, true};
template <>
constexpr Format format<codec::E5m2> = {5, 2, 15, true, true};
template <>
constexpr Format format<codec::Float16> = {5, 10, 15, true, false};
template <>
constexpr Format format<codec::BFloat16> = {8, 7, 127, true, false};

/// (-1)^sign * 1.mantissa * 2^(exponent - bias), or 0.mantissa * 2^(1 - bias) for exponent 0.
double value_of(const Format& f, unsigned code) {
  const int mantissa = static_cast<int>(code & ((1u << f.mantissa_bits) - 1));
  const int exponent = static_cast<int>(code >> f.mantissa_bits & ((1u << f.exponent_bits) - 1));
  const double sign = code >> (f.exponent_bits + f.mantissa_bits) & 1u ? -1 : 1, one = 1 << f.mantissa_bits;
  const bool top = exponent == (1 << f.exponent_bits) - 1;
  if (top && f.has_infinity) return mantissa == 0 ? sign * static_cast<double>(infinity) : static_cast<double>(not_a_number);
  if (top && mantissa == static_cast<int>(one) - 1) return static_cast<double>(not_a_number);
  if (exponent == 0) return sign * std::ldexp(mantissa / one, 1 - f.bias);
  return sign * std::ldexp(1 + mantissa / one, exponent - f.bias);
}

template <class C>
constexpr unsigned codes = 1u << (8 * sizeof(typename C::Code));

template <class C>
unsigned encoded(double x) {
  return static_cast<unsigned>(C::encode(static_cast<float>(x)));
}

/// All finite values that are not negative, in ascending order: value i has code i.
template <class C>
std::vector<double> magnitudes() {
  std::vector<double> values;
  for (unsigned code = 0; code < codes<C> / 2; ++code)
    if (const double v = value_of(format<C>, code); std::isfinite(v)) values.push_back(v);
  return values;
}

bool same(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

}  // namespace

TEST_CASE_TEMPLATE("decoding follows the formula and encoding undoes it", C, codec::E4m3, codec::E5m2, codec::Float16, codec::BFloat16) {
  for (unsigned code = 0; code < codes<C>; ++code) {
    const float found = C::decode(static_cast<typename C::Code>(code)), expected = static_cast<float>(value_of(format<C>, code));
    REQUIRE(same(found, expected));
    if (std::isnan(expected))
      REQUIRE(std::isnan(C::decode(C::encode(found))));
    else
      REQUIRE(static_cast<unsigned>(C::encode(found)) == code);
  }
}

TEST_CASE_TEMPLATE("encoding rounds to nearest, ties to even", C, codec::E4m3, codec::E5m2, codec::Float16, codec::BFloat16) {
  const auto values = magnitudes<C>();
  const unsigned sign = codes<C> / 2;
  for (unsigned i = 0; i + 1 < values.size(); ++i) {
    const double middle = (values[i] + values[i + 1]) / 2;  // exact as a float, but for bfloat16's lowest
    const float tie = static_cast<float>(middle);
    if (static_cast<double>(tie) != middle) continue;
    const unsigned even = i + i % 2;
    REQUIRE(encoded<C>(middle) == even);
    REQUIRE(encoded<C>(-middle) == (even | sign));
    REQUIRE(static_cast<unsigned>(C::encode(std::nextafter(tie, 0.0f))) == i);
    REQUIRE(static_cast<unsigned>(C::encode(std::nextafter(tie, infinity))) == i + 1);
  }

  // Floats with random bits, and every 10007th float: the nearest of all values, found by bisection.
  std::mt19937 random(1);
  for (std::uint64_t n = 0; n < (std::uint64_t{1} << 32); n += 10007) {
    for (const std::uint32_t bits : {static_cast<std::uint32_t>(n), static_cast<std::uint32_t>(random())}) {
      const float x = std::bit_cast<float>(bits);
      const double magnitude = std::abs(static_cast<double>(x));
      if (!(magnitude < values.back())) continue;
      const auto above = static_cast<std::size_t>(std::upper_bound(values.begin(), values.end(), magnitude) - values.begin());
      const double down = magnitude - values[above - 1], up = values[above] - magnitude;
      const auto nearest = static_cast<unsigned>(down < up || (down == up && above % 2 == 1) ? above - 1 : above);
      const unsigned found = static_cast<unsigned>(C::encode(x));
      if (found != (nearest | (std::signbit(x) ? sign : 0u))) {
        CAPTURE(x);
        REQUIRE(found == nearest);
      }
    }
  }
}

TEST_CASE_TEMPLATE("beyond the largest value", C, codec::E4m3, codec::E5m2, codec::Float16, codec::BFloat16) {
  const auto values = magnitudes<C>();
  const double largest = values.back(), half_step = (largest - values[values.size() - 2]) / 2;
  const auto last = static_cast<unsigned>(values.size() - 1);
  const unsigned beyond = format<C>.saturates ? last : last + 1;  // the code after the largest is infinity's
  CHECK(encoded<C>(largest) == last);
  if (largest + half_step < static_cast<double>(std::numeric_limits<float>::max())) {
    CHECK(static_cast<unsigned>(C::encode(std::nextafter(static_cast<float>(largest + half_step), 0.0f))) == last);
    CHECK(encoded<C>(largest + half_step) == beyond);
  }
  CHECK(static_cast<unsigned>(C::encode(std::numeric_limits<float>::max())) == beyond);
  CHECK(static_cast<unsigned>(C::encode(infinity)) == (format<C>.has_infinity ? last + 1 : last));
  CHECK(static_cast<unsigned>(C::encode(-infinity)) == ((format<C>.has_infinity ? last + 1 : last) | codes<C> / 2));
  for (const std::uint32_t bits : {0x7fc00000u, 0xffc00000u, 0x7f800001u, 0xffffffffu})
    CHECK(std::isnan(C::decode(C::encode(std::bit_cast<float>(bits)))));
}

TEST_CASE("e8m0: powers of two, rounded up") {
  using C = codec::E8m0;
  for (unsigned code = 0; code < 255; ++code) {
    const double power = std::ldexp(1.0, static_cast<int>(code) - 127);
    const float p = static_cast<float>(power);
    REQUIRE(static_cast<double>(C::decode(static_cast<std::uint8_t>(code))) == power);
    REQUIRE(C::encode(p) == code);
    REQUIRE(C::encode(std::nextafter(p, infinity)) == std::min(code + 1, 254u));
    if (code > 0) REQUIRE(C::encode(std::nextafter(p, 0.0f)) == code);
  }
  CHECK(std::isnan(C::decode(255)));
  CHECK(C::encode(not_a_number) == 255);
  CHECK(C::encode(infinity) == 254);
  for (const float x : {0.0f, -1.0f, -infinity, 0x1p-149f}) CHECK(C::encode(x) == 0);
}

TEST_CASE("float32 is itself") {
  for (const float x : {0.0f, -1.5f, 0x1p-149f, infinity}) CHECK(same(codec::Float32::decode(codec::Float32::encode(x)), x));
}

TEST_CASE_TEMPLATE("a vector of codes is decoded as each alone", Arch, DSV3_TEST_ARCHS) {
  constexpr auto width = static_cast<std::size_t>(simd::width<Arch>);
  const auto check = []<class C>(C) {
    std::vector<typename C::Code> all(codes<C> + width);
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<typename C::Code>(i);
    std::array<float, width> found;
    for (std::size_t i = 0; i < codes<C>; i += width - 1) {  // at every alignment
      C::template load<Arch>(&all[i]).store_unaligned(found.data());
      for (std::size_t j = 0; j < width; ++j) REQUIRE(same(found[j], C::decode(all[i + j])));
      const std::size_t n = i % width;
      codec::load_partial<C, Arch>(&all[i], static_cast<Index>(n)).store_unaligned(found.data());
      for (std::size_t j = 0; j < width; ++j) REQUIRE(same(found[j], j < n ? C::decode(all[i + j]) : 0.0f));
    }
  };
  check(codec::E4m3{});
  check(codec::E5m2{});
  check(codec::E8m0{});
  check(codec::Float16{});
  check(codec::BFloat16{});
}
