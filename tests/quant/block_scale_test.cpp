#include "dsv3/quant/block_scale.hpp"

#include <doctest/doctest.h>

#include "dsv3/quant/compute.hpp"
#include "support/arch.hpp"
#include "support/oracle.hpp"

using namespace test;

namespace {

/// amax / 448, or the power of two at or above it.
float scale_of(float amax, ScaleFormat format) {
  const float scale = amax / 448.0f;
  return format == ScaleFormat::float32 ? scale : static_cast<float>(std::exp2(std::ceil(std::log2(static_cast<double>(scale)))));
}

float rounded_to_e4m3(float x) { return codec::E4m3::decode(codec::E4m3::encode(x)); }

/// Values of very different sizes, some of them zero.
Matrix<float> uneven(Index rows, Index cols) {
  Random random;
  return Matrix<float>::NullaryExpr(rows, cols,
                                    [&] { return random.normal(std::exp2(random.uniform(-20, 10))) * (random.uniform(0, 1) < 0.9f); });
}

/// x rounded as activations, in place.
template <class Arch>
Matrix<float> activations(Matrix<float> x, ScaleFormat format) {
  Context ctx;
  const quant::RoundJob job{view(std::as_const(x)), view(x), {}, true};
  if (format == ScaleFormat::float32)
    quant::round_to_tiles<quant::Tiles<codec::E4m3, quant::Shape::along>, Arch>(ctx, {&job, 1});
  else
    quant::round_to_tiles<quant::Tiles<codec::E4m3, quant::Shape::along, ScaleFormat::power_of_two>, Arch>(ctx, {&job, 1});
  return x;
}

}  // namespace

TEST_CASE_TEMPLATE("activations: one scale per row and 128 channels", Arch, DSV3_TEST_ARCHS) {
  for (const auto format : {ScaleFormat::float32, ScaleFormat::power_of_two})
    for (const Index cols : {1, 127, 128, 129, 300, 512}) {
      Matrix<float> x = uneven(7, cols);
      x.row(3).setZero();
      const Matrix<float> y = activations<Arch>(x, format);
      for (Index t = 0; t < x.rows(); ++t)
        for (Index k = 0; k < cols; ++k) {
          const Index begin = k / 128 * 128;
          const float amax = x.row(t).segment(begin, std::min(Index{128}, cols - begin)).cwiseAbs().maxCoeff();
          const float scale = scale_of(std::max(amax, 1e-4f), format);
          REQUIRE(y(t, k) == rounded_to_e4m3(x(t, k) / scale) * scale);
          if (amax > 1e-4f) REQUIRE(std::abs(y(t, k) - x(t, k)) <= scale * 16);  // half of the largest step, 32
        }
    }
}

TEST_CASE_TEMPLATE("activations that are NaN stay NaN and do not touch their neighbours", Arch, DSV3_TEST_ARCHS) {
  for (const Index at : {0, 5, 127, 128, 129}) {  // the last in what is left of a vector
    Matrix<float> x = Random().matrix(1, 130), clean = x;
    x(0, at) = NAN;
    clean(0, at) = 0;
    Matrix<float> y = activations<Arch>(x, ScaleFormat::float32);
    CHECK(std::isnan(y(0, at)));
    y(0, at) = 0;
    CHECK(same_bits(y, activations<Arch>(clean, ScaleFormat::float32)));
  }
}

TEST_CASE("weights: one scale per 128x128 block, edge blocks are cut") {
  for (const auto format : {ScaleFormat::float32, ScaleFormat::power_of_two})
    for (const auto& [rows, cols] : {std::pair<Index, Index>{1, 1}, {128, 128}, {129, 127}, {576, 300}, {40, 10944}}) {
      Matrix<float> w = uneven(rows, cols);
      w.topLeftCorner(std::min(rows, Index{128}), std::min(cols, Index{128})) *= 1e-9f;
      const Fp8Matrix q = quantize_fp8(view(w), format);
      REQUIRE(q.scales.rows() == (rows + 127) / 128);
      REQUIRE(q.scales.cols() == (cols + 127) / 128);
      const auto v = q.view();
      for (Index i = 0; i < rows; ++i)
        for (Index k = 0; k < cols; ++k) {
          const Index r = i / 128 * 128, c = k / 128 * 128;
          if (i == r && k == c) {
            const float amax = w.block(r, c, std::min(Index{128}, rows - r), std::min(Index{128}, cols - c)).cwiseAbs().maxCoeff();
            REQUIRE(q.scales(i / 128, k / 128) == scale_of(std::max(amax, 1e-12f), format));
          }
          const float scale = q.scales(i / 128, k / 128);
          REQUIRE(q.codes(i, k) == codec::E4m3::encode(w(i, k) / scale));
          REQUIRE(element(v, i, k) == codec::E4m3::decode(q.codes(i, k)) * scale);
        }
    }
}

TEST_CASE("weights that are not finite are refused") {
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    Matrix<float> w = Random().matrix(200, 150);
    w(130, 140) = bad;
    CHECK(error_of([&] { (void)quantize_fp8(view(w)); }) ==
          "quantize_fp8: an element of rows [128, 200), columns [128, 150) is not finite");
  }
}

TEST_CASE("zeros quantize to zeros") {
  const Matrix<float> zeros = Matrix<float>::Zero(130, 130);
  const Fp8Matrix q = quantize_fp8(view(zeros));
  CHECK((q.scales.array() > 0).all());
  CHECK((q.codes.array() == 0).all());
}

TEST_CASE("the fp8 compute policy rounds where the weight is scaled, and only there") {
  Context ctx;
  const Matrix<float> x = Random().matrix(3, 200), w = Random().matrix(20, 200);
  const Fp8Matrix q = quantize_fp8(view(w));
  const AnyStorage::View scaled = q.view(), dense = F32::View{w.data(), 20, 200, 200};
  auto scope = ctx.scratch();
  using Rounds = compute::Fp8Activations<ScaleFormat::power_of_two>;
  CHECK(same_bits(Rounds::prepare(ctx, scope, view(x), scaled), activations<simd::DefaultArch>(x, ScaleFormat::power_of_two)));
  CHECK(Rounds::prepare(ctx, scope, view(x), dense).data() == x.data());
  CHECK(compute::Exact::prepare(ctx, scope, view(x), scaled).data() == x.data());
}

TEST_CASE("slices of a quantized matrix") {
  const Matrix<float> w = uneven(576, 260);
  const Fp8Matrix q = quantize_fp8(view(w));
  const auto whole = q.view();
  for (const auto& [begin, count] : {std::pair<Index, Index>{0, 576}, {1, 575}, {100, 200}, {128, 128}, {511, 65}, {575, 1}}) {
    const auto part = whole.slice(begin, count), nested = whole.slice(begin / 2, 576 - begin / 2).slice(begin - begin / 2, count);
    for (Index i = 0; i < count; ++i) {
      for (const Index k : {0, 127, 128, 259}) {
        REQUIRE(element(part, i, k) == element(whole, begin + i, k));
        REQUIRE(element(nested, i, k) == element(whole, begin + i, k));
      }
      const Index block_end = ((begin + i) / 128 + 1) * 128;
      REQUIRE(part.uniform_rows(i) == std::min(block_end - begin, count));
    }
  }
  const AnyStorage::View any = whole;
  CHECK(weight_rows(slice_rows(any, 100, 30)) == 30);
  CHECK(weight_cols(any) == 260);
  CHECK(is_fp8(any));
}

TEST_CASE_TEMPLATE("a row is decoded as its elements are", Arch, DSV3_TEST_ARCHS) {
  const Matrix<float> w = uneven(130, 300);
  const Fp8Matrix q = quantize_fp8(view(w));
  Vector<float> row(300);
  for (Index i = 0; i < 130; ++i) {
    decode_row<Arch>(q.view(), i, row.data());
    for (Index k = 0; k < 300; ++k) REQUIRE(row[k] == element(q.view(), i, k));
  }
}
