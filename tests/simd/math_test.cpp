#include "dsv3/simd/math.hpp"

#include <doctest/doctest.h>

#include <numeric>

#include "support/arch.hpp"
#include "support/oracle.hpp"

using namespace test;

TEST_CASE_TEMPLATE("sums and maxima of a vector", Arch, DSV3_TEST_ARCHS) {
  constexpr Index n = simd::width<Arch>;
  Random random;
  for (int repeat = 0; repeat < 100; ++repeat) {
    const Vector<float> x = random.vector(n);
    const auto v = simd::load<Arch>(x.data());
    CHECK(simd::max<Arch>(v) == x.maxCoeff());
    CHECK(agrees(simd::sum<Arch>(v), sum(n, [&](Index i) { return Real(static_cast<double>(x[i])); })));
  }
}

TEST_CASE_TEMPLATE("partial loads and stores touch nothing else", Arch, DSV3_TEST_ARCHS) {
  constexpr Index width = simd::width<Arch>;
  for (Index n = 0; n < width; ++n) {
    std::vector<float> exact(static_cast<std::size_t>(n), 3.0f);  // an address sanitizer sees a read behind the end
    Vector<float> y = Vector<float>::Constant(width, -1.0f);
    const auto v = simd::load_partial<Arch>(exact.data(), n);
    CHECK(simd::sum<Arch>(v) == 3.0f * static_cast<float>(n));
    simd::store_partial<Arch>(y.data(), v, n);
    for (Index i = 0; i < width; ++i) CHECK(y[i] == (i < n ? 3.0f : -1.0f));
  }
}

TEST_CASE_TEMPLATE("codes are widened without sign", Arch, DSV3_TEST_ARCHS) {
  constexpr auto width = static_cast<std::size_t>(simd::width<Arch>);
  std::vector<std::uint8_t> bytes(256 + width);
  std::vector<std::uint16_t> words(65536 + width);
  std::iota(bytes.begin(), bytes.end(), std::uint8_t{0});
  std::iota(words.begin(), words.end(), std::uint16_t{0});
  std::array<std::int32_t, width> found;
  for (std::size_t i = 0; i < 256; ++i) {
    simd::widen<Arch>(&bytes[i]).store_unaligned(found.data());
    for (std::size_t j = 0; j < width; ++j) REQUIRE(found[j] == bytes[i + j]);
    simd::widen_halves<Arch>(&bytes[i]).store_unaligned(found.data());
    for (std::size_t j = 0; j < width; ++j) REQUIRE(found[j] == (bytes[i + j / 2] >> (j % 2 * 4) & 15));
  }
  for (std::size_t i = 0; i < 65536; i += 7) {
    simd::widen<Arch>(&words[i]).store_unaligned(found.data());
    for (std::size_t j = 0; j < width; ++j) REQUIRE(found[j] == words[i + j]);
  }
}

TEST_CASE_TEMPLATE("sigmoid and SiLU", Arch, DSV3_TEST_ARCHS) {
  using Floats = simd::Floats<Arch>;
  for (float x = -80; x < 80; x += 0.37f) {
    const Real value = static_cast<double>(x), denominator = Real(1) + exp(Real(-static_cast<double>(x)));
    CHECK(agrees(simd::sum<Arch>(simd::sigmoid<Arch>(Floats(x))) / static_cast<float>(simd::width<Arch>), Real(1) / denominator));
    CHECK(agrees(simd::sum<Arch>(simd::silu<Arch>(Floats(x))) / static_cast<float>(simd::width<Arch>), value / denominator));
  }
  // Where exp(-x) overflows or vanishes the limits hold: 0, x and 1.
  for (const float x : {-1e4f, -100.0f, 100.0f, 1e4f}) {
    CHECK(std::abs(simd::max<Arch>(simd::sigmoid<Arch>(Floats(x))) - (x > 0 ? 1.0f : 0.0f)) <= 0x1p-119f);
    CHECK(std::abs(simd::max<Arch>(simd::silu<Arch>(Floats(x))) - std::max(x, 0.0f)) <= 0x1p-119f);
  }
}

TEST_CASE_TEMPLATE("a function applied to a row, and summed over it", Arch, DSV3_TEST_ARCHS) {
  using Floats = simd::Floats<Arch>;
  Random random;
  for (Index n = 0; n < 70; ++n) {
    const Vector<float> a = random.vector(n), b = random.vector(n);
    Vector<float> y(n);
    simd::map<Arch>([](const Floats& x, const Floats& z) { return x + z; }, n, y.data(), a.data(), b.data());
    CHECK(same_bits(y, a + b));
    const float found = simd::map_sum<Arch>([](const Floats& x, const Floats& total) { return simd::fma<Arch>(x, x, total); }, n, a.data());
    CHECK(agrees(found, sum(n, [&](Index i) { return Real(static_cast<double>(a[i])) * Real(static_cast<double>(a[i])); })));
  }
}
