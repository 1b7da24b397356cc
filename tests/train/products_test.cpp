// Products of backward passes, in float32 and by each engine of bf16, against sums in double.
#include "dsv3/quant/codec.hpp"
#include "dsv3/train/multiply_add_bf16.hpp"
#include "support/oracle.hpp"
#include "support/threads.hpp"
#include "support/wide.hpp"

using namespace test;

namespace {

using Arch = simd::DefaultArch;

/// The largest difference, in units of epsilon times the largest value that the sums could have had.
double error(const Matrix<float>& found, const Double& expected, const Double& magnitude) {
  return ((found.cast<double>() - expected).cwiseAbs().array() / (magnitude.array() + 1e-30)).maxCoeff();
}

Matrix<float> rounded(const Matrix<float>& m) {
  return m.unaryExpr([](float v) { return codec::BFloat16::decode(codec::BFloat16::encode(v)); });
}

}  // namespace

TEST_CASE("C += A B, as it is and transposed, whatever the threads") {
  Random random;
  for (const auto& [rows, depth, columns] : {std::tuple{1, 1, 1}, {7, 130, 65}, {200, 300, 33}, {13, 5, 200}, {400, 257, 96}, {3, 0, 5}}) {
    const auto a = random.matrix(rows, depth), a_t = Matrix<float>(a.transpose()), b = random.matrix(depth, columns),
               b_t = Matrix<float>(b.transpose()), c = random.matrix(rows, columns);
    const Double product = wide(a) * wide(b), size = wide(a).cwiseAbs() * wide(b).cwiseAbs() + wide(c).cwiseAbs();
    Matrix<float> first;
    for (const int threads : {1, 2, 3})
      for (const bool overwrite : {false, true}) {
        Parallel executor{threads};
        Context ctx(executor, 0);
        Matrix<float> one = c, two = c, three = c;
        const std::array group{train::MultiplyAdd{train::as_is(view(a)), view(b), view(one), overwrite},
                               train::MultiplyAdd{train::transposed(view(a_t)), view(b), view(two), overwrite},
                               train::MultiplyAdd{train::as_is(view(a)), view(b_t), view(three), overwrite, true}};
        train::grouped_multiply_add<Arch>(ctx, group);
        CHECK(one == two);
        CHECK(one == three);
        CHECK(error(one, overwrite ? product : Double(product + wide(c)), size) <= (depth + 1) * epsilon);
        // Two halves of the sum, one after the other, have the same bits.
        if (overwrite) continue;
        Matrix<float> halves = c;
        const Index half = depth / 3;
        const train::MultiplyAdd parts[2] = {
            {train::as_is(view(a).columns(0, half)), view(b).slice(0, half), view(halves)},
            {train::as_is(view(a).columns(half, depth - half)), view(b).slice(half, depth - half), view(halves)}};
        train::grouped_multiply_add<Arch>(ctx, {&parts[0], 1});
        train::grouped_multiply_add<Arch>(ctx, {&parts[1], 1});
        CHECK(halves == one);
      }
  }
}

namespace {

/// Products by f(ctx, group) of operands as `round` rounds them, of all forms and of sizes that fit no block, against sums in double.
template <class F, class Round>
void check_rounded_products(F&& multiply_all, Round&& round) {
  Random random;
  for (const auto& [rows, depth, columns] : {std::tuple{1, 1, 1},
                                             {7, 131, 65},
                                             {200, 300, 33},
                                             {13, 5, 200},
                                             {400, 515, 16},
                                             {6, 64, 80},
                                             {530, 33, 17},
                                             {17, 31, 520},
                                             {64, 1030, 32},
                                             {3, 0, 5}}) {
    const auto a = random.matrix(rows, depth), a_t = Matrix<float>(a.transpose()), b = random.matrix(depth, columns),
               b_t = Matrix<float>(b.transpose()), c = random.matrix(rows, columns);
    const Double x = wide(round(a)), w = wide(round(b)), size = x.cwiseAbs() * w.cwiseAbs() + wide(c).cwiseAbs();
    for (const bool overwrite : {false, true}) {
      Matrix<float> first;
      for (const int threads : {1, 2, 3}) {
        Parallel executor{threads};
        Context ctx(executor, 0);
        Matrix<float> one = c, two = c, three = c, four = c;
        const std::array group{train::MultiplyAdd{train::as_is(view(a)), view(b), view(one), overwrite},
                               train::MultiplyAdd{train::transposed(view(a_t)), view(b), view(two), overwrite},
                               train::MultiplyAdd{train::as_is(view(a)), view(b_t), view(three), overwrite, true},
                               train::MultiplyAdd{train::transposed(view(a_t)), view(b_t), view(four), overwrite, true}};
        multiply_all(ctx, group);
        CHECK(one == two);
        CHECK(one == three);
        CHECK(one == four);
        if (threads == 1)
          first = one;
        else
          CHECK(one == first);
      }
      // Products of bf16 numbers are exact. Each term takes part in at most depth + 1 additions, one of them that of the old C.
      CHECK(error(first, overwrite ? Double(x * w) : Double(x * w + wide(c)), size) <= (depth + 2) * epsilon);
      if (depth < 2 || overwrite) continue;
      // A row's result depends on that row alone, a column's on that column.
      Matrix<float> part = c.block(rows / 2, columns / 3, rows - rows / 2, columns - columns / 3);
      const Matrix<float> expected = first.block(rows / 2, columns / 3, part.rows(), part.cols());
      Context ctx;
      const train::MultiplyAdd job{train::as_is(view(a).slice(rows / 2, part.rows())), view(b).columns(columns / 3, part.cols()),
                                   view(part)};
      multiply_all(ctx, std::span<const train::MultiplyAdd>(&job, 1));
      CHECK(part == expected);
    }
  }
}

/// The same of values of 8-bit floats with scales per 128 terms.
template <class F>
void check_scaled_products(F&& multiply_all) {
  Random random;
  const auto code = [](float v) { return codec::E4m3::decode(codec::E4m3::encode(v * 100)); };
  for (const auto& [rows, depth, columns] : {std::tuple{1, 1, 1}, {33, 131, 65}, {200, 700, 33}, {13, 128, 48}}) {
    const Matrix<float> a = random.matrix(rows, depth).unaryExpr(code), b = random.matrix(depth, columns).unaryExpr(code),
                        a_t = a.transpose(), b_t = b.transpose(), c = random.matrix(rows, columns);
    const Index blocks = (depth + 127) / 128;
    const Matrix<float> a_scales = random.matrix(blocks, rows).cwiseAbs(), b_scales = random.matrix(blocks, columns).cwiseAbs();
    Double product = Double::Zero(rows, columns), size = wide(c).cwiseAbs();
    for (Index k = 0; k < depth; ++k)
      for (Index m = 0; m < rows; ++m)
        for (Index n = 0; n < columns; ++n) {
          const double term = static_cast<double>(a(m, k)) * static_cast<double>(b(k, n)) * static_cast<double>(a_scales(k / 128, m)) *
                              static_cast<double>(b_scales(k / 128, n));
          product(m, n) += term;
          size(m, n) += std::abs(term);
        }
    for (const bool overwrite : {false, true}) {
      Context ctx;
      Matrix<float> one = c, two = c;
      const std::array group{
          train::MultiplyAdd{train::as_is(view(a)), view(b), view(one), overwrite, false, view(a_scales), view(b_scales)},
          train::MultiplyAdd{train::transposed(view(a_t)), view(b_t), view(two), overwrite, true, view(a_scales), view(b_scales)}};
      multiply_all(ctx, group);
      CHECK(one == two);
      // A term takes part in at most 128 additions within its block and one per block, and its two scales are multiplied.
      CHECK(error(one, overwrite ? product : Double(product + wide(c)), size) <=
            static_cast<double>(std::min(depth, 128) + blocks + 2) * epsilon);
    }
  }
}

}  // namespace

TEST_CASE("the same with operands rounded to bf16, and with scales") {
  const auto chosen = [](Context& ctx, std::span<const train::MultiplyAdd> group) { train::grouped_multiply_add_bf16<Arch>(ctx, group); };
  check_rounded_products(chosen, [](const Matrix<float>& m) { return kernels::has_bf16_tiles<Arch> ? rounded(m) : m; });
  check_scaled_products(chosen);
}

#ifdef DSV3_HAS_BF16_TILES
TEST_CASE("so does each engine") {
  const auto check = []<class Engine>(Engine) {
    const auto multiply_all = [](Context& ctx, std::span<const train::MultiplyAdd> group) {
      train::detail::grouped_multiply_add_by<Engine>(ctx, group);
    };
    check_rounded_products(multiply_all, [](const Matrix<float>& m) { return rounded(m); });
    check_scaled_products(multiply_all);
  };
  check(train::detail::PairEngine{});
#ifdef DSV3_HAS_AMX
  if (amx::available()) check(train::detail::TileEngine{});
#endif
}
#endif
