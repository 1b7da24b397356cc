// Shapes that do not fit are an error in every build, and nothing is written.
#include "dsv3/kernels/add.hpp"
#include "dsv3/kernels/gated_linear.hpp"
#include "dsv3/kernels/linear.hpp"
#include "dsv3/kernels/permute.hpp"
#include "dsv3/kernels/rms_norm.hpp"
#include "dsv3/kernels/top_k.hpp"
#include "support/oracle.hpp"

using namespace test;

TEST_CASE("kernels refuse shapes that do not fit") {
  Context ctx;
  const auto matrix = [](Index rows, Index cols) { return Matrix<float>(Matrix<float>::Constant(rows, cols, 7)); };
  const Matrix<float> x = matrix(3, 8), w = matrix(5, 8);
  const auto result = [&](Index rows, Index cols, auto&& compute, const char* message) {
    Matrix<float> y = matrix(rows, cols);
    CAPTURE(message);
    CHECK_THROWS_WITH_AS(compute(view(y)), message, Error);
    CHECK((y.array() == 7).all());
  };
  const auto linear = [&](MatrixView<float> y) { kernels::linear(ctx, view(x), view(w), y); };
  result(3, 4, linear, "linear: expected x [T, 8] and y [T, 5], got [3, 8] and [3, 4]");
  result(2, 5, linear, "linear: expected x [T, 8] and y [T, 5], got [3, 8] and [2, 5]");
  const F32::View weights{w.data(), 5, 8, 8};
  result(
      3, 8, [&](MatrixView<float> y) { kernels::linear_transposed(ctx, view(x), weights, y); },
      "linear_transposed: expected x [T, 5] and y [T, 8], got [3, 8] and [3, 8]");
  const F32::View shorter{w.data(), 4, 8, 8};
  result(
      3, 5,
      [&](MatrixView<float> h) {
        const kernels::GatedProduct<F32::View, MatrixView<float>, kernels::SwiGlu> product{view(x), view(x), weights, shorter, h, {}};
        kernels::grouped_gated_linear<simd::DefaultArch, F32::View, kernels::SwiGlu>(ctx, {&product, 1});
      },
      "gated_linear: up: expected x [T, 8] and y [T, 4], got [3, 8] and [3, 5]");
  const Vector<float> seven = Vector<float>::Constant(7, 1);
  result(
      3, 8, [&](MatrixView<float> y) { kernels::rms_norm(ctx, view(x), seven, 1e-6f, y); },
      "rms_norm: expected x and y of one shape and a weight a column, got x [3, 8], y [3, 8] and 7 weights");
  result(
      3, 7, [&](MatrixView<float> y) { kernels::add(ctx, view(x), y); }, "add: expected x and y of one shape, got [3, 8] and [3, 7]");

  std::vector<float> scores(6, 1.0f);
  std::vector<int> seven_choices(7), groups_kept(1);
  CHECK_THROWS_WITH_AS(kernels::top_k(scores, seven_choices), "top_k: expected at most as many choices as scores, got 7 of 6", Error);
  for (const Index groups : {Index{-1}, Index{0}, Index{4}, router::max_groups + 6})
    CHECK_THROWS_AS(kernels::limit_groups<kernels::Largest>(scores, groups, groups_kept), Error);
  CHECK(scores == std::vector<float>(6, 1.0f));
  for (const int expert : {-1, 2}) {
    Matrix<int> experts(1, 2), place(1, 2);
    experts << 0, expert;
    std::vector<Index> offsets(3);
    CHECK_THROWS_AS(kernels::sort_by_expert(view(std::as_const(experts)), offsets, view(place)), Error);
  }
}
