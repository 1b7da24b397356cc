// FP8 training: formats, tiles and the three products of a projection against PyTorch's, accumulators against the emulation's, and steps of
// whole models.
#include "dsv3/train/fp8.hpp"
#include "dsv3/model/init.hpp"
#include "dsv3/train/trainer.hpp"
#include "support/checkpoint.hpp"
#include "support/oracle.hpp"
#include "support/threads.hpp"

using namespace test;

namespace {

using Arch = simd::DefaultArch;
using quant::RoundJob;
using quant::Shape;
using quant::Tiles;
const std::string golden = DSV3_TEST_DATA "/golden-train/fp8/";

template <SmallFloat C>
Matrix<float> decoded(const Matrix<typename C::Code>& codes) {
  return codes.unaryExpr([](typename C::Code c) { return C::decode(c); });
}
Matrix<float> e4m3(const Reference& reference, const std::string& name) {
  return decoded<codec::E4m3>(reference.matrix<std::uint8_t>(name + ".codes"));
}

/// x in tiles T of the sum along rows, or over them.
template <class T>
std::pair<Matrix<float>, Matrix<float>> tiles(const Matrix<float>& x, bool sum_along, int threads = 1) {
  Parallel executor{threads};
  Context ctx(executor, 0);
  const Index depth = sum_along ? x.cols() : x.rows(), other = sum_along ? x.rows() : x.cols();
  Matrix<float> values(x.rows(), x.cols()), scales((depth + 127) / 128, other);
  const RoundJob job{view(x), view(values), view(scales), sum_along};
  quant::round_to_tiles<T, Arch>(ctx, {&job, 1});
  Matrix<float> scaled = x;
  const RoundJob in_place{view(scaled), view(scaled), {}, sum_along};
  quant::round_to_tiles<T, Arch>(ctx, {&in_place, 1});
  for (Index i = 0; i < x.rows(); ++i)
    for (Index j = 0; j < x.cols(); ++j) {
      const float expected = values(i, j) * (sum_along ? scales(j / 128, i) : scales(i / 128, j));
      if (std::isfinite(expected)) REQUIRE(scaled(i, j) == expected);
    }
  return {values, scales};
}

/// Every code and scale is the reference's.
template <class T>
void check_tiles(const Matrix<float>& x, bool sum_along, const Matrix<float>& values, const Matrix<float>& scales) {
  for (const int threads : {1, 3}) {
    const auto [found, found_scales] = tiles<T>(x, sum_along, threads);
    CHECK(same_bits(found, values));
    for (Index i = 0; i < x.rows(); ++i)
      for (Index j = 0; j < x.cols(); ++j) {
        const Index rows = T::shape == Shape::block                  ? 128
                           : (T::shape == Shape::along) == sum_along ? 1
                                                                     : 128,
                    cols = T::shape == Shape::block                  ? 128
                           : (T::shape == Shape::along) == sum_along ? 128
                                                                     : 1;
        const float scale = sum_along ? found_scales(j / 128, i) : found_scales(i / 128, j);
        REQUIRE(scale == scales(i / rows, j / cols));
      }
  }
}

/// found = a b + what was there; sums in float32 of `depth` exact products, each block times two scales.
void check_product(const Matrix<float>& found, const Matrix<float>& expected, Index depth) {
  // The reference is rounded once from the exact sum. Ours: a chain of at most 128 terms, one rounding of the scales' product, and one a
  // block; products that cancel count with their size, which the largest value stands for with room for the square root of the depth.
  const double size = static_cast<double>(expected.cwiseAbs().maxCoeff()) * std::sqrt(static_cast<double>(depth));
  CHECK((found - expected).cwiseAbs().maxCoeff() <= roundings(128 + 3 * std::ceil(static_cast<double>(depth) / 128)) * size);
}

struct FromSource : train::fp8::Recipe {
  static constexpr bool from_cache = false;
};
struct PowersOfTwo : FromSource {
  using Activation = Tiles<codec::E4m3, Shape::along, ScaleFormat::power_of_two>;
  using Weight = Tiles<codec::E4m3, Shape::block, ScaleFormat::power_of_two>;
  using Gradient = Activation;
};

struct NeverPromoted : train::fp8::Recipe {
  using Accumulator = train::accumulator::TensorCore<13, 0>;
};

template <class R>
struct Projection {
  using Compute = train::Fp8<R>;
  Matrix<float> y, dx, dw;

  Projection(const Matrix<float>& x, const Matrix<float>& w, const Matrix<float>& gy, int threads = 1)
      : y(x.rows(), w.rows()), dx(x.rows(), x.cols()), dw(w.rows(), w.cols()) {
    Parallel executor{threads};
    Context ctx(executor, 0);
    y.setConstant(NAN), dx.setConstant(NAN), dw.setZero();
    const kernels::Product<F32::View> forward{view(x), F32::View{w.data(), w.rows(), w.cols(), w.cols()}, view(y)};
    Compute::template multiply<Arch>(ctx, std::span<const kernels::Product<F32::View>>(&forward, 1));
    const train::MultiplyAdd input{train::as_is(view(gy)), view(w), view(dx), true},
        weight{train::transposed(view(gy)), view(x), view(dw), false};
    Compute::template input_gradients<Arch>(ctx, {&input, 1});
    Compute::template weight_gradients<Arch>(ctx, {&weight, 1});
  }
};

}  // namespace

TEST_CASE_TEMPLATE("vectors are rounded as codes are", C, codec::E4m3, codec::E5m2, codec::E5m6) {
  constexpr auto width = static_cast<std::size_t>(simd::width<Arch>);
  std::array<float, width> in, out;
  std::size_t n = 0;
  const auto check = [&] {
    simd::Floats<Arch> v = quant::rounded_to<C, Arch>(simd::load<Arch>(in.data()));
    v.store_unaligned(out.data());
    for (std::size_t i = 0; i < width; ++i) {
      if (std::isinf(in[i])) continue;  // e5m2 keeps infinities; a tile that has one has the scale infinity
      const float expected = C::decode(C::encode(in[i]));
      const bool same = std::bit_cast<std::uint32_t>(out[i]) == std::bit_cast<std::uint32_t>(expected);
      if (!same && !(std::isnan(out[i]) && std::isnan(expected))) {
        CAPTURE(in[i]);
        REQUIRE(out[i] == expected);
      }
    }
  };
  const auto add = [&](float x) {
    in[n++] = x;
    if (n == width) check(), n = 0;
  };
  for (std::uint64_t bits = 0; bits < (std::uint64_t{1} << 32); bits += 9973) add(std::bit_cast<float>(static_cast<std::uint32_t>(bits)));
  for (unsigned code = 0; code < 1u << (8 * sizeof(typename C::Code)) && code < 4096; ++code)
    for (const float off : {0.0f, 1.0f, -1.0f}) {  // each value and its neighbours, and the middle to the next one
      const float value = C::decode(static_cast<typename C::Code>(code)),
                  next = C::decode(static_cast<typename C::Code>((code + 1) % 4096));
      add(off == 0 ? value : std::nextafter(value, off * INFINITY));
      add((value + next) / 2);
    }
}

TEST_CASE("E5M6: every code, and rounding") {
  const Reference reference(golden + "e5m6.safetensors");
  const auto values = reference.floats("values_of_codes"), in = reference.floats("round.in"), out = reference.floats("round.out");
  for (Index i = 0; i < values.size(); ++i) {
    const auto code = static_cast<codec::E5m6::Code>(i);
    if (std::isfinite(values.data()[i])) {
      CHECK(codec::E5m6::decode(code) == values.data()[i]);
      CHECK(codec::E5m6::encode(values.data()[i]) == code);
    }
  }
  for (Index i = 0; i < in.size(); ++i) CHECK(codec::E5m6::decode(codec::E5m6::encode(in.data()[i])) == out.data()[i]);
}

TEST_CASE("tiles: codes and scales of a projection are the reference's") {
  using Along = Tiles<codec::E4m3, Shape::along>;
  for (const char* name : {"linear", "linear-small"}) {
    const Reference reference(golden + name + ".safetensors");
    const auto x = reference.floats("x"), w = reference.floats("w"), gy = reference.floats("gy");
    const auto check = [&]<class T>(T, const Matrix<float>& m, bool along, const char* kind) {
      check_tiles<T>(m, along, e4m3(reference, kind), reference.floats(std::string(kind) + ".scales"));
    };
    check(Along{}, x, true, "x");
    check(Along{}, gy, true, "gy");
    check(Along{}, x, false, "xt");
    check(Along{}, gy, false, "gyt");
    check(Tiles<codec::E4m3, Shape::block>{}, w, true, "w");
    check(Tiles<codec::E4m3, Shape::block>{}, w, false, "w");
    Matrix<float> cached = x;
    Context ctx;
    const RoundJob job{view(x), view(cached), {}, true};
    quant::round_to_tiles<Along, Arch>(ctx, {&job, 1});
    check(Along{}, cached, false, "xr");
  }
}

TEST_CASE("tiles: powers of two, and what is kept in E5M6") {
  using Report = train::fp8::Recipe;
  const Reference reference(golden + "e5m6.safetensors");
  const auto x = reference.floats("x");
  const auto codes = [&](const char* name) { return decoded<codec::E5m6>(reference.matrix<std::uint16_t>(name)); };
  check_tiles<Report::AttendedCache>(x, true, codes("codes"), reference.floats("scales"));
  check_tiles<Report::Attended>(x, true, e4m3(reference, "e4m3"), reference.floats("e4m3.scales"));
  Matrix<float> kept = x;
  Context ctx;
  const RoundJob job{view(x), view(kept), {}, true};
  quant::round_to_tiles<Report::AttendedCache, Arch>(ctx, {&job, 1});
  check_tiles<Report::AttendedCache>(kept, false, codes("transposed.codes"), reference.floats("transposed.scales"));
  check_tiles<Report::Attended>(kept, false, e4m3(reference, "wgrad"), reference.floats("wgrad.scales"));
  train::PackedRows<Report::AttendedCache> packed;
  packed.resize(x.rows(), x.cols());
  packed.store(0, view(x));
  Matrix<float> loaded;
  packed.load(loaded);
  CHECK(loaded == kept);
  CHECK(packed.bytes() == x.size() / 2 * 3 + 4 * reference.floats("scales").size());
}

TEST_CASE_TEMPLATE("rows are kept as they are rounded, whatever their width", C, codec::E4m3, codec::E5m2, codec::E5m6) {
  using T = Tiles<C, Shape::along>;
  Context ctx;
  for (const Index cols : {1, 2, 127, 128, 129, 261}) {
    const Matrix<float> x = Random().matrix(5, cols);
    Matrix<float> rounded = x, loaded;
    const RoundJob job{view(x), view(rounded), {}, true};
    quant::round_to_tiles<T, Arch>(ctx, {&job, 1});
    train::PackedRows<T> packed;
    packed.resize(5, cols);
    packed.store(0, ConstMatrixView<float>(view(x)).slice(0, 2));
    packed.store(2, ConstMatrixView<float>(view(x)).slice(2, 3));
    packed.load(loaded);
    CHECK(loaded == rounded);
  }
}

TEST_CASE("the three products of a projection") {
  for (const char* name : {"linear", "linear-small"}) {
    const Reference reference(golden + name + ".safetensors");
    const auto x = reference.floats("x"), w = reference.floats("w"), gy = reference.floats("gy");
    const Projection<train::fp8::Recipe> report(x, w, gy), again(x, w, gy, 3);
    check_product(report.y, reference.floats("y"), x.cols());
    check_product(report.dx, reference.floats("dx"), w.rows());
    check_product(report.dw, reference.floats("dw_from_cache"), x.rows());
    check_product(Projection<FromSource>(x, w, gy).dw, reference.floats("dw"), x.rows());
    CHECK(same_bits(report.y, again.y));
    CHECK(same_bits(report.dx, again.dx));
    CHECK(same_bits(report.dw, again.dw));
  }
  const Reference data(golden + "linear.safetensors"), reference(golden + "linear-pow2.safetensors");
  const auto x = data.floats("x"), w = data.floats("w"), gy = data.floats("gy");
  const Projection<PowersOfTwo> powers(x, w, gy);
  check_product(powers.y, reference.floats("y"), x.cols());
  check_product(powers.dx, reference.floats("dx"), w.rows());
  check_product(powers.dw, reference.floats("dw"), x.rows());
}

TEST_CASE("accumulators of 14 bits, bit for bit") {
  using namespace train::accumulator;
  const Reference reference(DSV3_TEST_DATA "/golden-train/accumulate/cases.safetensors");
  const auto run = [&]<class A>(A, const Matrix<float>& a, const Matrix<float>& b, int threads) {
    Parallel executor{threads};
    Context ctx(executor, 0);
    Matrix<float> y(a.rows(), b.rows());
    const train::MultiplyAdd product{train::as_is(view(a)), view(b), view(y), true, true};
    A::template grouped<Arch>(ctx, {&product, 1});
    return y;
  };
  const auto codes = [&](const std::string& name) { return decoded<codec::E4m3>(reference.matrix<std::uint8_t>(name)); };
  for (const int threads : {1, 2}) {
    for (const std::string name : {"normal", "uniform", "outliers"}) {
      CAPTURE(name);
      const auto a = codes(name + ".a"), b = codes(name + ".b");
      const auto first = [](const Matrix<float>& m, Index n) { return Matrix<float>(m.leftCols(n)); };
      CHECK(same_bits(run(TensorCore<13, 0>{}, a, b, threads), reference.floats(name + ".plain")));
      CHECK(same_bits(run(TensorCore<13, 128>{}, a, b, threads), reference.floats(name + ".promoted128")));
      CHECK(same_bits(run(TensorCore<13, 0>{}, first(a, 32), first(b, 32), threads), reference.floats(name + ".one_step")));
      CHECK(same_bits(run(TensorCore<13, 0>{}, first(a, 128), first(b, 128), threads), reference.floats(name + ".four_steps")));
    }
    CHECK(same_bits(run(TensorCore<13, 0>{}, codes("any.a"), codes("any.b"), threads), reference.floats("any.plain")));
  }
}

namespace {

/// The largest error of y = a b^T in percent of the outputs' root mean square, and of the largest output.
struct LargestError {
  double of_rms, of_largest;
};
LargestError largest_error(const Matrix<float>& y, const Matrix<float>& a, const Matrix<float>& b) {
  const Matrix<double> exact = a.cast<double>() * b.cast<double>().transpose(), wrong = (y.cast<double>() - exact).cwiseAbs();
  return {100 * wrong.maxCoeff() / std::sqrt(exact.squaredNorm() / static_cast<double>(exact.size())),
          100 * wrong.maxCoeff() / exact.cwiseAbs().maxCoeff()};
}

}  // namespace

TEST_CASE("errors of 14-bit accumulators at K = 4096 (spec T48)") {
  using namespace train::accumulator;
  constexpr Index depth = 4096, outputs = 48;
  const auto error = [&]<class A>(A, auto&& draw) {
    Random random(77);
    const auto codes = [&] {
      Matrix<float> m = Matrix<float>::NullaryExpr(outputs, depth, [&] { return draw(random); });
      for (Index i = 0; i < outputs; ++i) {
        const float scale = m.row(i).cwiseAbs().maxCoeff() / 448;
        m.row(i) = m.row(i).unaryExpr([scale](float x) { return codec::E4m3::decode(codec::E4m3::encode(x / scale)); });
      }
      return m;
    };
    const auto a = codes(), b = codes();
    Matrix<float> y(outputs, outputs);
    const train::MultiplyAdd product{train::as_is(view(a)), view(b), view(y), true, true};
    Parallel executor{2};
    Context ctx(executor, 0);
    A::template grouped<Arch>(ctx, {&product, 1});
    return largest_error(y, a, b);
  };
  const auto normal = [](Random& r) { return r.normal(); };
  const auto outliers = [](Random& r) { return r.normal() * (r.uniform(0, 1) < 0.01f ? 10.0f : 1.0f); };
  const auto shifted = [](Random& r) { return r.normal() + 0.75f; };
  // The report's "nearly 2%" is the largest error over the outputs' rms for normal data of which 1% are 10 times larger, or over the
  // largest output for data with a mean. The reference's figures are 1.2 to 1.5, 1.9 and 2.0 percent; other numbers of the same
  // distribution give others, so that half and twice are the bounds.
  const auto within = [](double found, double reference) {
    CHECK(found > reference / 2);
    CHECK(found < 2 * reference);
  };
  within(error(TensorCore<13, 0>{}, normal).of_rms, 1.35);
  within(error(TensorCore<13, 0>{}, outliers).of_rms, 1.9);
  within(error(TensorCore<13, 0>{}, shifted).of_largest, 2.0);
  within(error(TensorCore<13, 128>{}, normal).of_rms, 0.05);
  CHECK(error(TensorCore<13, 128>{}, outliers).of_rms < 0.3);
  CHECK(error(Float32{}, normal).of_rms < 0.001);
}

TEST_CASE("an accumulator that is not promoted needs one scale") {
  Random random;
  Context ctx;
  const auto x = random.matrix(3, 300), w = random.matrix(5, 300);
  CHECK_THROWS_WITH_AS((Projection<NeverPromoted>(x, w, random.matrix(3, 5))),
                       "TensorCore: without promotion each 128 terms the scales must be the same along the whole sum: round to "
                       "quant::Shape::whole",
                       Error);
}

namespace {

/// Losses of some steps on one batch, with the model's weights at the end.
template <class P>
std::pair<std::vector<double>, train::Arena> learn(int steps, int threads, const train::Keep& keep) {
  const Reference reference(DSV3_TEST_DATA "/golden-train/train-tiny/trace.safetensors");
  const auto ids = reference.ints("input_ids");
  Parallel executor{threads};
  Context ctx(executor, 0);
  auto model = io::load<P>(DSV3_TEST_DATA "/golden-train/train-tiny");
  train::TrainerOptions options;
  options.keep = keep;
  train::Trainer<P, codec::BFloat16> trainer(model, options);
  std::vector<train::Sample> batch;
  for (Index i = 0; i < 4; ++i) batch.push_back({{ids.row(i).data(), static_cast<std::size_t>(ids.cols())}});
  std::vector<double> losses;
  for (int s = 0; s < steps; ++s) losses.push_back(trainer.step(ctx, batch, {.learning_rate = 3e-3, .objective = {0.3, 0.01}}).losses.main);
  return {losses, trainer.parameters().values()};
}

}  // namespace

TEST_CASE("a model learns in FP8, with the same bits for any number of threads") {
  using P = train::Fp8Training<>;
  const auto exact = learn<train::Training<>>(20, 1, {});
  for (const train::Keep& keep : {train::keep::everything, train::keep::report, train::keep::report_fp8, train::keep::blocks}) {
    const auto [losses, weights] = learn<P>(20, 1, keep);
    CHECK(losses[0] == doctest::Approx(exact.first[0]).epsilon(0.01));
    CHECK(losses.back() < 0.9 * losses[0]);
    CHECK(losses.back() == doctest::Approx(exact.first.back()).epsilon(0.03));
    const auto [more_losses, more_weights] = learn<P>(20, 3, keep);
    CHECK(same_bits(weights, more_weights));
    if (!keep.fp8) CHECK(same_bits(weights, learn<P>(20, 1, {}).second));
  }
}
