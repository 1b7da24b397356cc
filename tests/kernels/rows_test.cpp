// Kernels that work on single rows: rms_norm, swiglu, softmax.
#include "dsv3/kernels/rms_norm.hpp"
#include "dsv3/kernels/softmax.hpp"
#include "dsv3/kernels/swiglu.hpp"
#include "support/arch.hpp"
#include "support/oracle.hpp"

using namespace test;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

Real real(float x) { return static_cast<double>(x); }

/// exp(x[i] - max) / sum of the same.
Real softmax_oracle(const Vector<float>& x, Index i) {
  const Real largest = real(x.maxCoeff());
  return exp(real(x[i]) - largest) / sum(x.size(), [&](Index j) { return exp(real(x[j]) - largest); });
}

}  // namespace

TEST_CASE_TEMPLATE("rms_norm", Arch, DSV3_TEST_ARCHS) {
  Context ctx;
  Random random;
  for (const Index n : {1, 3, 16, 37, 128, 576}) {
    Matrix<float> x = random.matrix(4, n), y(4, n);
    const Vector<float> w = random.vector(n);
    x.row(1) *= 1e-6f;  // where eps decides
    x.row(2) *= 1e6f;
    const float eps = 1e-5f;
    kernels::rms_norm<Arch>(ctx, view(x), w, eps, view(y));
    for (Index t = 0; t < 4; ++t) {
      const Real squares = sum(n, [&](Index i) { return real(x(t, i)) * real(x(t, i)); });
      const Real root = sqrt(squares / Real(static_cast<double>(n)) + real(eps));
      const auto row = y.middleRows(t, 1);
      check_matrix(row, [&](Index, Index i) { return real(x(t, i)) * (Real(1) / root) * real(w[i]); });
    }
    kernels::rms_norm<Arch>(ctx, view(x), w, eps, view(x));
    CHECK(same_bits(x, y));
  }
  Matrix<float> zeros = Matrix<float>::Zero(1, 20);
  kernels::rms_norm<Arch>(ctx, view(zeros), Vector<float>::Ones(20), 1e-6f, view(zeros));
  CHECK(zeros.isZero(0));
}

TEST_CASE_TEMPLATE("swiglu", Arch, DSV3_TEST_ARCHS) {
  Context ctx;
  Random random;
  Matrix<float> gate = random.matrix(5, 45, 5), up = random.matrix(5, 45), y(5, 45);
  kernels::activate<Arch>(ctx, view(gate), view(up), view(y));
  check_matrix(y, [&](Index i, Index j) {
    const Real g = real(gate(i, j));
    return g / (Real(1) + exp(Real(-g.value))) * real(up(i, j));
  });
  kernels::activate<Arch>(ctx, view(gate), view(up), view(gate));
  CHECK(same_bits(gate, y));
}

TEST_CASE_TEMPLATE("softmax", Arch, DSV3_TEST_ARCHS) {
  Random random;
  for (const Index n : {1, 2, 7, 64, 65, 1000})
    for (const float spread : {0.1f, 3.0f, 30.0f}) {
      const Vector<float> x = random.vector(n, spread);
      Vector<float> y(n);
      kernels::softmax<Arch>(x.data(), n, y.data());
      check_matrix(y, [&](Index, Index i) { return softmax_oracle(x, i); });
    }
  Vector<float> extreme(20);
  for (Index i = 0; i < 20; ++i) extreme[i] = i % 3 == 0 ? -infinity : i == 7 ? 1e4f : -1e4f;
  kernels::softmax<Arch>(extreme.data(), 20, extreme.data());
  for (Index i = 0; i < 20; ++i) CHECK(extreme[i] == (i == 7 ? 1.0f : 0.0f));
}

TEST_CASE_TEMPLATE("online softmax over blocks, however they are cut", Arch, DSV3_TEST_ARCHS) {
  Random random;
  for (int repeat = 0; repeat < 200; ++repeat) {
    const Index n = random.between(1, 90);
    const int kind = repeat % 3;
    Vector<float> x = random.vector(n, kind == 1 ? 1e4f : 3.0f);
    if (kind == 2)
      for (Index i = 0; i < n; ++i)
        if (random.between(0, 1) == 0) x[i] = -infinity;
    x[random.between(0, n - 1)] = 0.5f;  // one score is finite

    kernels::OnlineSoftmax state;
    Vector<float> weights = x, changed = Vector<float>::Zero(n);  // how often a weight has been rescaled
    for (Index begin = 0; begin < n;) {
      const Index count = random.between(1, n - begin);
      const float factor = state.add<Arch>(weights.data() + begin, count);
      weights.head(begin) *= factor;
      changed.head(begin).array() += 1;
      begin += count;
    }
    CHECK(state.maximum == x.maxCoeff());
    for (Index i = 0; i < n; ++i) {
      // A rescaling multiplies by one more exponential, of a difference that is itself rounded.
      const Real expected = softmax_oracle(x, i);
      const double distance = std::isinf(x[i]) ? 0 : static_cast<double>(state.maximum - x[i]);
      const double once = 5 * unit + unit * distance;
      const Real bound = {expected.value,
                          expected.error + 2 * expected.value * static_cast<double>(changed.maxCoeff() + 1) * once + 0x1p-120};
      CHECK(agrees(weights[i] / state.sum, bound));
    }
  }
}

TEST_CASE("online softmax before any finite score") {
  kernels::OnlineSoftmax state;
  float nothing[] = {-infinity, -infinity}, something[] = {-infinity, 2.0f};
  CHECK(state.add(nothing, 2) == 1.0f);
  CHECK(nothing[0] == 0.0f);
  CHECK(state.sum == 0.0f);
  CHECK(state.add(something, 2) == 0.0f);
  CHECK(state.sum == 1.0f);
  CHECK(something[1] == 1.0f);
}
