#include "dsv3/kernels/gated_ffn_bf16.hpp"
#include "dsv3/kernels/linear_dots.hpp"

#include <array>

#include "support/oracle.hpp"
#include "support/threads.hpp"
#include "support/weight.hpp"

using namespace test;

namespace {

using Fp8 = Fp8Block<128, 128>;
using Sizes = std::vector<std::array<Index, 3>>;  // T, N, K

const Sizes odd_sizes = {{1, 1, 1}, {20, 3, 0}, {3, 37, 300}, {17, 37, 300}, {20, 576, 131}, {33, 129, 257}, {150, 130, 64}, {600, 20, 40}};

float bf16(float x) { return codec::BFloat16::decode(codec::BFloat16::encode(x)); }

template <class S>
inline constexpr bool rounds = codec::exact_in_bf16<typename S::Codec>;

/// x row t times row n of w, where x is rounded if the storage's values are bf16 numbers.
template <class S>
Real dot(const Matrix<float>& x, Index t, const Weight<S>& w, Index n) {
  return sum(x.cols(), [&](Index k) { return Real(static_cast<double>(rounds<S> ? bf16(x(t, k)) : x(t, k))) * w(n, k); });
}

template <class S>
Matrix<float> product(Context& ctx, const Matrix<float>& x, const Weight<S>& w) {
  Matrix<float> y = Matrix<float>::Constant(x.rows(), w.rows(), NAN);
  kernels::linear_bf16(ctx, view(x), w.view(), view(y));
  return y;
}

}  // namespace

TEST_CASE_TEMPLATE("y = bf16(x) W^T over every storage", S, F32, Bf16, F16, Fp8) {
  Context ctx;
  Random random;
  for (const auto& [t, n, k] : odd_sizes) {
    const Weight<S> w(random.matrix(n, k));
    const Matrix<float> x = random.matrix(t, k);
    const auto y = product(ctx, x, w);
    check_matrix(y, [&](Index i, Index j) { return dot(x, i, w, j); });
    Matrix<float> any(t, n);
    kernels::linear_bf16(ctx, view(x), AnyStorage::View(w.view()), view(any));
    CHECK(same_bits(any, y));
  }
}

TEST_CASE("a codec that tiles have no conversion for, but whose values are exact in bf16") {
  Context ctx;
  Random random;
  for (const auto& [t, n, k] : odd_sizes) {
    const Weight<Dense<codec::E5m2>> w(random.matrix(n, k));
    const Matrix<float> x = random.matrix(t, k);
    check_matrix(product(ctx, x, w), [&](Index i, Index j) { return dot(x, i, w, j); });
  }
}

TEST_CASE("scales of 64 columns and of single rows") {
  using S = Fp8Block<1, 64>;
  static_assert(codec::FitsTiles<S::View> && codec::FitsTiles<Fp8Block<3, 32>::View> && !codec::FitsTiles<Fp8Block<1, 16>::View>);
  Context ctx;
  Random random;
  for (const auto& [t, n, k] : Sizes{{3, 37, 300}, {40, 1, 1}, {20, 576, 131}, {33, 129, 257}, {150, 130, 64}, {70, 40, 3500}}) {
    const Weight<Fp8> codes(random.matrix(n, k));
    const Index across = (k + S::k_block - 1) / S::k_block;
    const Matrix<float> scales = random.matrix((n + S::block_rows - 1) / S::block_rows, across), x = random.matrix(t, k);
    const S::View w{codes.view().data, n, k, k, scales.data(), across};
    const auto multiply = [&](Context& context, ConstMatrixView<float> rows, const S::View& weights) {
      Matrix<float> y = Matrix<float>::Constant(rows.rows(), weights.rows, NAN);
      kernels::linear_bf16(context, rows, weights, view(y));
      return y;
    };
    const auto y = multiply(ctx, view(x), w);
    check_matrix(y, [&](Index i, Index j) {
      return sum(x.cols(), [&](Index c) {
        return Real(static_cast<double>(bf16(x(i, c)))) *
               (static_cast<double>(codec::E4m3::decode(w.row(j)[c])) * static_cast<double>(w.scale(j, c)));
      });
    });
    for (const Index count : {1, 17, 33})
      if (count <= t) CHECK(same_bits(multiply(ctx, view(x).slice(t - count, count), w), y.bottomRows(count)));
    Parallel openmp{3};
    Context parallel(openmp, 0);
    CHECK(same_bits(multiply(parallel, view(x), w), y));
    CHECK(same_bits(multiply(ctx, view(x), w.slice(n / 3, n - n / 3)), y.rightCols(n - n / 3)));
  }
}

TEST_CASE_TEMPLATE("a row has the same bits in any batch and on any number of threads", S, Bf16, Fp8) {
  Context ctx;
  Random random;
  const Weight<S> w(random.matrix(200, 300));
  const Matrix<float> x = random.matrix(560, 300);
  const auto all = product(ctx, x, w);
  for (const Index t : {1, 2, 16, 17, 31, 33, 100, 130, 512, 513}) CHECK(same_bits(product(ctx, x.bottomRows(t), w), all.bottomRows(t)));
  for (const int n : {1, 2, 3}) {
    Parallel openmp{n};
    Context parallel(openmp, 0);
    CHECK(same_bits(product(parallel, x, w), all));
  }
  const Weight<S> wide(random.matrix(600, 3500));  // of many rows, some columns at a time
  const Matrix<float> long_x = random.matrix(200, 3500);
  const auto y = product(ctx, long_x, wide);
  for (const Index t : {1, 40}) CHECK(same_bits(product(ctx, long_x.bottomRows(t), wide), y.bottomRows(t)));
}

TEST_CASE_TEMPLATE("dot products along K: the same sums, and the same bits in any batch and on any number of threads", S, Bf16, Fp8) {
  using Product = kernels::Product<typename S::View>;
  Random random;
  for (const auto& [t, n, k] : Sizes{{1, 1, 1}, {9, 3, 0}, {8, 37, 300}, {40, 70, 131}, {17, 600, 2100}}) {
    const Weight<S> w(random.matrix(n, k));
    const Matrix<float> x = random.matrix(t, k);
    const auto dots = [&, rows = n](Context& ctx, Index count) {
      Matrix<float> y = Matrix<float>::Constant(count, rows, NAN);
      const Product p{view(x).slice(0, count), w.view(), view(y)};
      auto scope = ctx.scratch();
      const auto rest = kernels::multiply_in_dots<simd::DefaultArch, Product>(ctx, scope, {&p, 1});
      if (!rest.empty()) y.resize(0, 0);
      return y;
    };
    Context ctx;
    const auto y = dots(ctx, t);
    REQUIRE((y.rows() == t) == kernels::uses_dots<simd::DefaultArch>());
    if (y.rows() == 0) return;
    check_matrix(y, [&](Index i, Index j) { return dot(x, i, w, j); });
    for (const Index count : {1, 2, 3, 4, 5, 6, 7, 8, 9, 16})
      if (count <= t) CHECK(same_bits(dots(ctx, count), y.topRows(count)));
    for (const int threads : {2, 3}) {
      Parallel openmp{threads};
      Context parallel(openmp, 0);
      CHECK(same_bits(dots(parallel, t), y));
    }
  }
}

TEST_CASE("rows of a weight that begin inside a block of scales, into some columns of y") {
  Context ctx;
  Random random;
  const Weight<Fp8> w(random.matrix(300, 200));
  const Matrix<float> x = random.matrix(20, 200);
  const auto whole = product(ctx, x, w);
  for (const auto& [begin, count] : {std::pair<Index, Index>{0, 300}, {1, 130}, {127, 2}, {100, 57}, {299, 1}}) {
    Matrix<float> y = Matrix<float>::Constant(20, 320, -1);
    kernels::linear_bf16(ctx, view(x), w.view().slice(begin, count), view(y).columns(7, count));
    CHECK(same_bits(y.middleCols(7, count), whole.middleCols(begin, count)));
    y.middleCols(7, count).setConstant(-1);
    CHECK((y.array() == -1).all());
  }
}

TEST_CASE_TEMPLATE("silu(gate) * up, alone and in groups, in bf16 and in float32", S, F32, Bf16, Fp8) {
  Context ctx;
  Random random;
  using View = typename S::View;
  const Sizes sizes = {{40, 37, 130}, {0, 16, 64}, {3, 33, 300}, {130, 5, 64}};
  std::vector<Matrix<float>> x, h;
  std::vector<Weight<S>> gates, ups;
  for (const auto& [t, n, k] : sizes) {
    x.push_back(random.matrix(t, k));
    h.emplace_back(t, n);
    gates.emplace_back(random.matrix(n, k, 0.1f));
    ups.emplace_back(random.matrix(n, k, 0.1f));
  }
  std::vector<kernels::GatedProduct<View>> group;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const auto xi = view(std::as_const(x[i]));
    group.push_back({xi, xi, gates[i].view(), ups[i].view(), view(h[i])});
  }
  const auto silu_times = [](Real g, Real u) { return g / (Real(1) + exp(Real(-g.value, g.error))) * u; };
  kernels::grouped_gated_linear<simd::DefaultArch, View>(ctx, group);
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (h[i].rows() == 0) continue;
    check_matrix(h[i], [&](Index t, Index n) {
      const auto dot32 = [&](const Weight<S>& w) {
        return sum(x[i].cols(), [&](Index k) { return Real(static_cast<double>(x[i](t, k))) * w(n, k); });
      };
      return silu_times(dot32(gates[i]), dot32(ups[i]));
    });
  }
  kernels::grouped_gated_linear_bf16<simd::DefaultArch, View>(ctx, group);
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (h[i].rows() == 0) continue;
    check_matrix(h[i], [&](Index t, Index n) { return silu_times(dot(x[i], t, gates[i], n), dot(x[i], t, ups[i], n)); });
    const Matrix<float> in_group = h[i];
    kernels::grouped_gated_linear_bf16<simd::DefaultArch, View>(ctx, {&group[i], 1});
    CHECK(same_bits(h[i], in_group));
  }

  auto scope = ctx.scratch();
  for (auto& m : h) m.setConstant(NAN);
  using P = kernels::GatedProduct<View>;
  const auto rest = kernels::multiply_in_dots<simd::DefaultArch, P>(ctx, scope, std::span<const P>(group));
  CHECK(rest.empty() == (rounds<S> && kernels::uses_dots<simd::DefaultArch>()));
  for (std::size_t i = 0; i < sizes.size() && rest.empty(); ++i)
    if (h[i].rows() > 0)
      check_matrix(h[i], [&](Index t, Index n) { return silu_times(dot(x[i], t, gates[i], n), dot(x[i], t, ups[i], n)); });
}

TEST_CASE("whole networks have the bits of their two products, whatever their widths and storages") {
  Random random;
  using View = AnyStorage::View;
  std::vector<Matrix<float>> x, y;
  std::vector<Weight<Fp8>> fp8;
  std::vector<Weight<F32>> f32;
  const Sizes sizes = {{40, 37, 130},  {0, 16, 64},  {3, 33, 300}, {17, 64, 64},
                       {33, 129, 257}, {50, 48, 64}, {18, 15, 40}, {20, 1, 1}};  // T, N, K
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const auto& [t, n, k] = sizes[i];
    x.push_back(random.matrix(t, k));
    y.push_back(Matrix<float>::Constant(t, k + 3, NAN));
    fp8.emplace_back(random.matrix(n, k, 0.1f));
    fp8.emplace_back(random.matrix(n, k, 0.1f));
    fp8.emplace_back(random.matrix(k + 3, n, 0.1f));
    f32.emplace_back(random.matrix(k + 3, n, 0.1f));
  }
  std::vector<kernels::GatedNetwork<View>> group;
  for (std::size_t i = 0; i < sizes.size(); ++i)  // every other one cannot be formed by tiles as a whole
    group.push_back({view(std::as_const(x[i])), fp8[3 * i].view(), fp8[3 * i + 1].view(),
                     i % 2 == 0 ? View(fp8[3 * i + 2].view()) : View(f32[i].view()), view(y[i])});
  Context ctx;
  kernels::grouped_gated_ffn_bf16<simd::DefaultArch, View>(ctx, group);
  for (const auto& p : group) {
    Matrix<float> h(p.x.rows(), weight_rows(p.gate)), expected(p.y.rows(), p.y.cols());
    const kernels::GatedProduct<View> inner{p.x, p.x, p.gate, p.up, view(h)};
    kernels::grouped_gated_linear_bf16<simd::DefaultArch, View>(ctx, {&inner, 1});
    kernels::linear_bf16(ctx, view(h), p.down, view(expected));
    CHECK(same_bits(Matrix<float>(p.y), expected));
  }
  const auto alone = y;
  Parallel openmp{3};
  Context parallel(openmp, 0);
  kernels::grouped_gated_ffn_bf16<simd::DefaultArch, View>(parallel, group);
  for (std::size_t i = 0; i < sizes.size(); ++i) CHECK(same_bits(y[i], alone[i]));
}

TEST_CASE("products of one x and networks have the bits of each alone when workers take whole rows of them") {
  Random random;
  const Matrix<float> x = random.matrix(520, 130);
  const Weight<Fp8> first(random.matrix(37, 130)), second(random.matrix(70, 130)), down(random.matrix(130, 37));
  Context ctx;
  const auto first_alone = product(ctx, x, first), second_alone = product(ctx, x, second);
  Matrix<float> network_alone(520, 130);
  const auto network = [&](Index begin, Index count, Matrix<float>& y) {
    return kernels::GatedNetwork<Fp8::View>{view(x).slice(begin, count), first.view(), first.view(), down.view(),
                                            view(y).slice(begin, count)};
  };
  for (Index t = 0; t < 520; t += 20) {
    const auto one = network(t, 20, network_alone);
    kernels::grouped_gated_ffn_bf16<simd::DefaultArch, Fp8::View>(ctx, {&one, 1});
  }
  for (const int n : {1, 2, 3}) {
    Parallel openmp{n};
    Context parallel(openmp, 0);
    Matrix<float> y(520, 37), z(520, 70);
    const std::array<kernels::Product<Fp8::View>, 2> group{{{view(x), first.view(), view(y)}, {view(x), second.view(), view(z)}}};
    kernels::grouped_linear_bf16<simd::DefaultArch, Fp8::View>(parallel, group);
    CHECK(same_bits(y, first_alone));
    CHECK(same_bits(z, second_alone));
    for (const Index rows : {20, 520}) {  // many networks, and slabs of one
      Matrix<float> all(520, 130);
      std::vector<kernels::GatedNetwork<Fp8::View>> networks;
      for (Index t = 0; t < 520; t += rows) networks.push_back(network(t, rows, all));
      kernels::grouped_gated_ffn_bf16<simd::DefaultArch, Fp8::View>(parallel, networks);
      CHECK(same_bits(all, network_alone));
    }
  }
}

#ifdef DSV3_HAS_BF16_TILES
TEST_CASE("both engines multiply tiles") {
  Random random;
  using namespace kernels;
  alignas(64) std::array<std::uint16_t, 2 * 4 * bf16::tile_size> a, b;
  const auto number = [&] { return codec::BFloat16::encode(random.normal()); };
  for (auto& v : a) v = number();
  for (auto& v : b) v = number();
  const auto check = [&]<class Engine>(Engine) {
    const typename Engine::Session session;
    struct Case {
      Index rows, columns, steps;
      bool whole_rows;
    };
    for (const Case& c : {Case{2, 2, 4, false}, {2, 1, 4, true}, {1, 2, 1, false}, {1, 1, 4, true}, {2, 2, 1, true}}) {
      // Rows of a that lie one behind the other, or tile by tile.
      const bf16::LeftOperand left = c.whole_rows ? bf16::LeftOperand{a.data(), 4 * bf16::tile_size, 4 * bf16::depth, bf16::depth}
                                                  : bf16::LeftOperand{a.data(), 4 * bf16::tile_size};
      alignas(64) std::array<float, 4 * bf16::sum_tile_size> out{};
      Engine::multiply(left, c.rows, b.data(), 4 * bf16::tile_size, c.columns, c.steps, out.data());
      for (Index i = 0; i < c.rows; ++i)
        for (Index j = 0; j < c.columns; ++j)
          check_matrix(ConstMatrixView<float>(out.data() + (i * c.columns + j) * bf16::sum_tile_size, 16, 16), [&](Index n, Index t) {
            return sum(c.steps * bf16::depth, [&](Index k) {
              const Index step = k / bf16::depth, at = k % bf16::depth;
              const auto x = left.data[i * left.stride + step * left.step + n * left.row + at];
              const auto y =
                  b[static_cast<std::size_t>(4 * j * bf16::tile_size + step * bf16::tile_size + at / 2 * bf16::depth + 2 * t + at % 2)];
              return Real(static_cast<double>(codec::BFloat16::decode(x)) * static_cast<double>(codec::BFloat16::decode(y)));
            });
          });
    }
  };
  check(bf16::DotEngine{});
#ifdef DSV3_HAS_AMX
  if (amx::available()) check(bf16::AmxEngine{});
#endif
}
#endif
