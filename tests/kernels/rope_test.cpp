#include "dsv3/kernels/rope.hpp"

#include <numbers>

#include "support/oracle.hpp"

using namespace test;

namespace {

rope::Config v3() { return {64, 10000, rope::Yarn{40, 4096, 32, 1, 1, 1}}; }

template <class P = rope::Neighbours, class S = rope::YarnScaling>
Vector<float> rotated(const rope::Config& c, const Vector<float>& x, Index position) {
  const rope::Rotation<P, S> rotation(c);
  Vector<float> cos_sin(c.dim), y(c.dim);
  rotation.angles(position, cos_sin.data());
  rotation.apply(x.data(), cos_sin.data(), y.data());
  return y;
}

}  // namespace

TEST_CASE("YaRN of DeepSeek-V3: pairs below 10 turn as before, from 23 on 40 times slower") {
  const rope::Config c = v3();
  for (Index j = 0; j < 32; ++j) {
    const double plain = std::pow(10000.0, -static_cast<double>(j) / 32);
    const double ramp = j <= 10 ? 0 : j >= 23 ? 1 : static_cast<double>(j - 10) / 13;
    CHECK(rope::YarnScaling::frequency(c, j) == doctest::Approx(plain * (1 - ramp) + plain / 40 * ramp).epsilon(1e-12));
    CHECK(rope::Unscaled::frequency(c, j) == doctest::Approx(plain).epsilon(1e-12));
  }
  CHECK(rope::YarnScaling::magnitude(c) == 1.0);
  CHECK(rope::YarnScaling::softmax_factor(c) / std::sqrt(128.0 + 64) == doctest::Approx(0.1352338).epsilon(5e-7));
}

TEST_CASE("YaRN by its equations, for random settings") {
  Random random;
  const auto real = [&](double low, double high) { return low + (high - low) * static_cast<double>(random.uniform(0, 1)); };
  for (int repeat = 0; repeat < 1000; ++repeat) {
    const rope::Config c{2 * random.between(1, 64), real(100, 1e6),
                         rope::Yarn{real(1, 64), random.between(32, 8192), real(2, 64), real(0.25, 2), real(0, 2), real(0, 2)}};
    const double r = static_cast<double>(c.dim), length = static_cast<double>(c.yarn->original_max_position_embeddings), s = c.yarn->factor;
    const auto dim = [&](double turns) { return r * std::log(length / (turns * 2 * std::numbers::pi)) / (2 * std::log(c.theta)); };
    const double low = std::max(std::floor(dim(c.yarn->beta_fast)), 0.0);
    double high = std::min(std::ceil(dim(c.yarn->beta_slow)), r - 1);
    if (low == high) high += 0.001;
    for (Index j = 0; j < c.dim / 2; ++j) {
      const double f = std::pow(c.theta, -2 * static_cast<double>(j) / r);
      const double ramp = std::min(std::max((static_cast<double>(j) - low) / (high - low), 0.0), 1.0);
      REQUIRE(rope::YarnScaling::frequency(c, j) == doctest::Approx(f / s * ramp + f * (1 - ramp)).epsilon(1e-12));
    }
    const auto m = [&](double a) { return s <= 1 ? 1.0 : 0.1 * a * std::log(s) + 1; };
    REQUIRE(rope::YarnScaling::magnitude(c) == doctest::Approx(m(c.yarn->mscale) / m(c.yarn->mscale_all_dim)).epsilon(1e-12));
    REQUIRE(rope::YarnScaling::softmax_factor(c) == doctest::Approx(m(c.yarn->mscale_all_dim) * m(c.yarn->mscale_all_dim)).epsilon(1e-12));
  }
  rope::Config without{64, 10000, rope::Yarn{40, 4096, 32, 1, 0, 0}};
  CHECK(rope::YarnScaling::magnitude(without) == doctest::Approx(0.1 * std::log(40.0) + 1).epsilon(1e-12));
  CHECK(rope::YarnScaling::softmax_factor(without) == 1.0);
  without.yarn.reset();
  CHECK(rope::YarnScaling::magnitude(without) == 1.0);
  CHECK(rope::YarnScaling::frequency(without, 5) == rope::Unscaled::frequency(without, 5));
}

TEST_CASE("a YaRN ramp of no width") {
  const rope::Config c{64, 10000, rope::Yarn{40, 6, 32, 1, 1, 1}};  // low and high are both 0
  CHECK(rope::YarnScaling::frequency(c, 0) == 1.0);
  for (Index j = 1; j < 32; ++j) CHECK(rope::YarnScaling::frequency(c, j) == rope::Unscaled::frequency(c, j) / 40);
}

TEST_CASE("a rotation turns each pair by position times frequency") {
  Random random;
  for (const Index position : {0, 1, 17, 4095, 163839}) {
    const rope::Config c = v3();
    const Vector<float> x = random.vector(64), y = rotated(c, x, position);
    check_matrix(y, [&](Index, Index i) {
      const Index j = i / 2;
      // The angle is a product of floats, as in the reference.
      const float angle = static_cast<float>(position) * static_cast<float>(rope::YarnScaling::frequency(c, j));
      const Real cosine = {std::cos(static_cast<double>(angle)), unit}, sine = {std::sin(static_cast<double>(angle)), unit};
      const Real a = static_cast<double>(x[2 * j]), b = static_cast<double>(x[2 * j + 1]);
      return i % 2 == 0 ? a * cosine - b * sine : b * cosine + a * sine;
    });
    if (position == 0) CHECK(same_bits(y, x));
  }
}

TEST_CASE("neighbours and halves are permutations of each other; norms are kept") {
  Random random;
  for (const Index dim : {2, 6, 64}) {
    const rope::Config c{dim, 10000, {}};
    Vector<float> x = random.vector(dim), halves(dim), back(dim);
    const auto permute = [dim](const Vector<float>& from, Vector<float>& to) {
      for (Index j = 0; j < dim / 2; ++j) to[j] = from[2 * j], to[j + dim / 2] = from[2 * j + 1];
    };
    permute(x, halves);
    for (const Index position : {1, 1000}) {
      const Vector<float> y = rotated(c, x, position), z = rotated<rope::Halves>(c, halves, position);
      permute(y, back);
      CHECK(same_bits(back, z));
      // Two products and a sum a channel, of a cosine and sine with an error of one rounding each.
      CHECK(std::abs(y.cast<double>().norm() / x.cast<double>().norm() - 1) <= roundings(4));
    }
    rope::Rotation<> rotation(c);
    Vector<float> cos_sin(dim);
    rotation.angles(7, cos_sin.data());
    const Vector<float> expected = rotated(c, x, 7);
    rotation.apply(x.data(), cos_sin.data(), x.data());
    CHECK(same_bits(x, expected));
  }
}

TEST_CASE("only even numbers of channels have pairs") {
  CHECK(error_of([] { rope::Rotation<>({5, 10000, {}}); }) == "rope: expected an even number of channels, got 5");
}
