#include "dsv3/kernels/linear.hpp"

#include <array>

#include "support/arch.hpp"
#include "support/threads.hpp"
#include "support/weight.hpp"

using namespace test;

namespace {

using Fp8 = Fp8Block<128, 128>;
using Sizes = std::vector<std::array<Index, 3>>;  // T, N, K

const Sizes odd_sizes = {{1, 1, 1},     {2, 3, 5},      {3, 37, 300},  {17, 37, 300}, {5, 576, 131},
                         {1, 129, 257}, {40, 130, 128}, {16, 16, 127}, {61, 70, 300}};

Matrix<float> product(Context& ctx, const Matrix<float>& x, const auto& w) {
  Matrix<float> y = Matrix<float>::Constant(x.rows(), weight_rows(w), NAN);  // overwritten, not added to
  kernels::linear(ctx, view(x), w, view(y));
  return y;
}

Matrix<float> transposed_product(Context& ctx, const Matrix<float>& x, const auto& w) {
  Matrix<float> y = Matrix<float>::Constant(x.rows(), weight_cols(w), NAN);
  kernels::linear_transposed(ctx, view(x), w, view(y));
  return y;
}

Real term(float x, Real w) { return Real(static_cast<double>(x)) * w; }

}  // namespace

TEST_CASE_TEMPLATE("y = x W^T and y = x W over every storage", S, F32, Bf16, F16, Fp8) {
  Context ctx;
  Random random;
  for (const auto& [t, n, k] : odd_sizes) {
    const Weight<S> w(random.matrix(n, k));
    const Matrix<float> x = random.matrix(t, k), z = random.matrix(t, n);
    const AnyStorage::View any = w.view();
    const auto y = product(ctx, x, w.view());
    check_matrix(y, [&, columns = k](Index i, Index j) { return sum(columns, [&](Index c) { return term(x(i, c), w(j, c)); }); });
    CHECK(same_bits(y, product(ctx, x, any)));
    const auto u = transposed_product(ctx, z, w.view());
    check_matrix(u, [&, rows = n](Index i, Index j) { return sum(rows, [&](Index r) { return term(z(i, r), w(r, j)); }); });
    CHECK(same_bits(u, transposed_product(ctx, z, any)));
  }
}

TEST_CASE_TEMPLATE("weights that begin inside a block of scales", S, F32, Bf16, F16, Fp8) {
  Context ctx;
  Random random;
  const Weight<S> w(random.matrix(300, 200));
  const Matrix<float> x = random.matrix(20, 200);
  const auto whole = product(ctx, x, w.view());
  for (const auto& [begin, count] : {std::pair<Index, Index>{0, 300}, {1, 130}, {127, 2}, {100, 57}, {200, 100}, {299, 1}}) {
    const auto part = w.view().slice(begin, count);
    CHECK(same_bits(product(ctx, x, part), whole.middleCols(begin, count)));
    const Matrix<float> z = random.matrix(3, count);
    check_matrix(transposed_product(ctx, z, part), [&, first = begin, rows = count](Index i, Index j) {
      return sum(rows, [&](Index r) { return term(z(i, r), w(first + r, j)); });
    });
  }
}

TEST_CASE_TEMPLATE("a row has the same bits in any batch", S, F32, Bf16, F16, Fp8) {
  Context ctx;
  Random random;
  const Weight<S> w(random.matrix(70, 203));
  const Matrix<float> x = random.matrix(100, 203), z = random.matrix(100, 70);
  Matrix<float> y(100, 70), u(100, 203);
  for (Index t = 0; t < 100; ++t) {
    y.row(t) = product(ctx, x.row(t), w.view());
    u.row(t) = transposed_product(ctx, z.row(t), w.view());
  }
  std::vector<Index> batches(40);
  std::iota(batches.begin(), batches.end(), Index{1});
  batches.insert(batches.end(), {48, 49, 53, 97, 100});
  for (const Index t : batches) {
    CAPTURE(t);
    CHECK(same_bits(product(ctx, x.bottomRows(t), w.view()), y.bottomRows(t)));
    CHECK(same_bits(transposed_product(ctx, z.bottomRows(t), w.view()), u.bottomRows(t)));
  }
}

TEST_CASE("NaN and infinity in a row of x or of W reach no other row or column") {
  Context ctx;
  Random random;
  Matrix<float> values = random.matrix(40, 150), x = random.matrix(65, 150);
  const auto clean = product(ctx, x, Weight<F32>(values).view());
  values.row(7).setConstant(NAN);
  x.row(50).setConstant(INFINITY);
  const auto y = product(ctx, x, Weight<F32>(values).view());
  for (Index t = 0; t < 65; ++t)
    for (Index n = 0; n < 40; ++n) CHECK((t == 50 || n == 7 ? !std::isfinite(y(t, n)) : y(t, n) == clean(t, n)));
}

TEST_CASE("the number of threads changes no bit") {
  Random random;
  const Weight<Fp8> w(random.matrix(1000, 500));
  for (const Index t : {2, 30, 70}) {
    const Matrix<float> x = random.matrix(t, 500), z = random.matrix(t, 1000);
    Context serial;
    const auto y = product(serial, x, w.view()), u = transposed_product(serial, z, w.view());
    for (const int n : {1, 2, 3, 7}) {
      Parallel openmp{n};
      Threads threads{n};
      Context a(openmp), b(threads);
      CHECK(same_bits(product(a, x, w.view()), y));
      CHECK(same_bits(product(b, x, w.view()), y));
      CHECK(same_bits(transposed_product(a, z, w.view()), u));
      CHECK(same_bits(transposed_product(b, z, w.view()), u));
    }
  }
}

TEST_CASE("products in a group have the bits of each alone") {
  Context ctx;
  Random random;
  const std::array weights = {Weight<Fp8>(random.matrix(130, 200)), Weight<Fp8>(random.matrix(5, 129)), Weight<Fp8>(random.matrix(33, 64))};
  const Index counts[] = {60, 0, 3};
  std::vector<Matrix<float>> x, z, y, u;
  for (std::size_t i = 0; i < 3; ++i) {
    x.push_back(random.matrix(counts[i], weights[i].cols()));
    z.push_back(random.matrix(counts[i], weights[i].rows()));
    y.emplace_back(counts[i], weights[i].rows());
    u.emplace_back(counts[i], weights[i].cols());
  }
  std::vector<kernels::Product<AnyStorage::View>> forward, transposed;
  for (std::size_t i = 0; i < 3; ++i) {
    forward.push_back({view(std::as_const(x[i])), weights[i].view(), view(y[i])});
    transposed.push_back({view(std::as_const(z[i])), weights[i].view(), view(u[i])});
  }
  kernels::grouped_linear<simd::DefaultArch, AnyStorage::View>(ctx, forward);
  kernels::grouped_linear_transposed<simd::DefaultArch, AnyStorage::View>(ctx, transposed);
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(same_bits(y[i], product(ctx, x[i], weights[i].view())));
    CHECK(same_bits(u[i], transposed_product(ctx, z[i], weights[i].view())));
  }
}

TEST_CASE("views with strides: only the rows' own elements are read and written") {
  Context ctx;
  Random random;
  Matrix<float> x = random.matrix(18, 90), y = Matrix<float>::Constant(18, 60, -1);
  const Weight<F32> w(random.matrix(37, 70));
  x.leftCols(10).setConstant(NAN);
  x.rightCols(10).setConstant(NAN);
  kernels::linear(ctx, ConstMatrixView<float>(view(x)).columns(10, 70), w.view(), view(y).columns(11, 37));
  const Matrix<float> inner = x.middleCols(10, 70);
  CHECK(same_bits(y.middleCols(11, 37), product(ctx, inner, w.view())));
  y.middleCols(11, 37).setConstant(-1);
  CHECK((y.array() == -1).all());
}

TEST_CASE("FP8 activations: codes times codes, block by block, each block times both scales") {
  Context ctx;
  Random random;
  for (const auto& [t, n, k] : Sizes{{1, 10, 128}, {3, 200, 300}, {20, 130, 515}}) {
    const Weight<Fp8> w(random.matrix(n, k));
    const Matrix<float> x = random.matrix(t, k);
    Matrix<float> rounded(t, k), codes(t, k), scales(t, (k + 127) / 128);
    for (Index i = 0; i < t; ++i) {
      for (Index c = 0; c < k; ++c) {
        const Index block = c / 128, width = std::min(Index{128}, k - block * 128);
        scales(i, block) = std::max(x.row(i).segment(block * 128, width).cwiseAbs().maxCoeff(), 1e-4f) / 448.0f;
        codes(i, c) = codec::E4m3::decode(codec::E4m3::encode(x(i, c) / scales(i, block)));
        rounded(i, c) = codes(i, c) * scales(i, block);
      }
    }
    check_matrix(product(ctx, rounded, w.view()), [&, columns = k](Index i, Index j) {
      return sum((columns + 127) / 128, [&](Index block) {
        const Index begin = block * 128;
        const Real products = sum(std::min(Index{128}, columns - begin), [&](Index c) {
          // The library multiplies code times scale, rounded once.
          return term(codes(i, begin + c), static_cast<double>(w.code(j, begin + c))) * Real(1);
        });
        return products * Real(static_cast<double>(scales(i, block))) * Real(static_cast<double>(w.scale(j, begin)));
      });
    });
  }
}

TEST_CASE_TEMPLATE("every instruction set agrees with the oracle, in batches and alone", Arch, DSV3_TEST_ARCHS) {
  Context ctx;
  Random random;
  const Index n = 133, k = 301;
  const Matrix<float> x = random.matrix(21, k), z = random.matrix(21, n);
  const auto check = [&]<class S>(S) {
    const Weight<S> w(random.matrix(n, k));
    Matrix<float> y(21, n), u(21, k), alone(1, n), alone_u(1, k);
    kernels::linear<Arch>(ctx, view(x), w.view(), view(y));
    kernels::linear_transposed<Arch>(ctx, view(z), w.view(), view(u));
    check_matrix(y, [&](Index i, Index j) { return sum(k, [&](Index c) { return term(x(i, c), w(j, c)); }); });
    check_matrix(u, [&](Index i, Index j) { return sum(n, [&](Index r) { return term(z(i, r), w(r, j)); }); });
    for (Index t = 0; t < 21; ++t) {
      kernels::linear<Arch>(ctx, view(x).slice(t, 1), w.view(), view(alone));
      kernels::linear_transposed<Arch>(ctx, view(z).slice(t, 1), w.view(), view(alone_u));
      CHECK(same_bits(alone, y.row(t)));
      CHECK(same_bits(alone_u, u.row(t)));
    }
  };
  check(F32{});
  check(Bf16{});
  check(F16{});
  check(Fp8{});
}
