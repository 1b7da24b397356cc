// Experiments on products of rounded operands and on formats: accumulators, scales, caches, amax.
#pragma once

#include "dsv3/train/fp8.hpp"
#include "laboratory.hpp"

namespace laboratory::inline DSV3_ISA {

using dsv3::ScaleFormat;
using dsv3::codec::E4m3;
using dsv3::codec::E5m2;
using dsv3::codec::E5m6;
using dsv3::quant::Shape;
using dsv3::quant::Tiles;

/// x rounded to tiles T, as values.
template <class T>
Matrix<float> rounded(dsv3::Context& ctx, const Matrix<float>& x, bool along = true) {
  Matrix<float> y = x;
  const dsv3::quant::RoundJob job{dsv3::view(y), dsv3::view(y), {}, along};
  dsv3::quant::round_to_tiles<T, dsv3::simd::DefaultArch>(ctx, {&job, 1});
  return y;
}

/// a b^T in float64.
inline Matrix<double> exact_product(const Matrix<float>& a, const Matrix<float>& b) {
  return a.cast<double>() * b.cast<double>().transpose();
}

struct Errors {
  double largest_of_rms, largest_of_largest, frobenius, toward_zero;

  Errors(const Matrix<double>& found, const Matrix<double>& exact) {
    const Matrix<double> difference = found - exact;
    const double largest = difference.cwiseAbs().maxCoeff();
    largest_of_rms = largest / std::sqrt(exact.squaredNorm() / static_cast<double>(exact.size()));
    largest_of_largest = largest / exact.cwiseAbs().maxCoeff();
    frobenius = difference.norm() / exact.norm();
    toward_zero = -(difference.array() * exact.array().sign()).mean() / exact.cwiseAbs().mean();
  }
};

/// One distribution of operands.
struct Distribution {
  const char* name;
  double (*draw)(Draw&);
};
inline constexpr Distribution distributions[] = {
    {"normal", [](Draw& d) { return d.normal(); }},
    {"normal, 1% times 10", [](Draw& d) { return d.normal() * (d.uniform() < 0.01 ? 10 : 1); }},
    {"normal, 0.1% times 100", [](Draw& d) { return d.normal() * (d.uniform() < 0.001 ? 100 : 1); }},
    {"normal + 0.75", [](Draw& d) { return d.normal() + 0.75; }},
    {"absolute normal", [](Draw& d) { return std::abs(d.normal()); }},
    {"uniform -1..1", [](Draw& d) { return 2 * d.uniform() - 1; }},
};

/// Values of e4m3 codes [rows, k], the largest of a row being 448.
inline Matrix<float> row_codes(Draw& draw, const Distribution& from, Index rows, Index k) {
  Matrix<float> m = Draw::matrix(rows, k, [&] { return from.draw(draw); });
  for (Index i = 0; i < rows; ++i) {
    const float scale = m.row(i).cwiseAbs().maxCoeff() / E4m3::largest;
    m.row(i) = m.row(i).unaryExpr([scale](float x) { return E4m3::decode(E4m3::encode(x / scale)); });
  }
  return m;
}

/// Error of a sum of products of codes against K, for accumulators (spec T47, T48).
inline void accumulation(const Setting& s) {
  using dsv3::train::MultiplyAdd;
  using namespace dsv3::train::accumulator;
  struct Kind {
    const char* name;
    void (*run)(dsv3::Context&, std::span<const MultiplyAdd>);
  };
  const Kind kinds[] = {{"float32 per 128", Float32::grouped<dsv3::simd::DefaultArch>},
                        {"14 bits", TensorCore<13, 0>::grouped<dsv3::simd::DefaultArch>},
                        {"promoted every 256", TensorCore<13, 256>::grouped<dsv3::simd::DefaultArch>},
                        {"promoted every 128", TensorCore<13, 128>::grouped<dsv3::simd::DefaultArch>},
                        {"promoted every 64", TensorCore<13, 64>::grouped<dsv3::simd::DefaultArch>},
                        {"promoted every 32", TensorCore<13, 32>::grouped<dsv3::simd::DefaultArch>}};
  const Index outputs = s.brief ? 32 : 64, last = s.brief ? 1024 : 8192;
  Table table{"Error of products of e4m3 codes by accumulator, " + std::to_string(outputs) + " x " + std::to_string(outputs) +
                  " outputs, in percent",
              {"data", "K", "accumulator", "largest / rms", "largest / largest", "Frobenius", "toward zero"},
              {}};
  std::vector<cli::Curve> curves;
  for (const Distribution& from : distributions)
    for (Index k = 128; k <= last; k *= 2) {
      Draw draw(77);
      const Matrix<float> a = row_codes(draw, from, outputs, k), b = row_codes(draw, from, outputs, k);
      const Matrix<double> exact = exact_product(a, b);
      for (std::size_t i = 0; i < std::size(kinds); ++i) {
        Matrix<float> y(outputs, outputs);
        const Matrix<float> ones = Matrix<float>::Ones((k + dsv3::quant::tile_size - 1) / dsv3::quant::tile_size, outputs);
        const MultiplyAdd product{
            dsv3::train::as_is(dsv3::view(a)), dsv3::view(b), dsv3::view(y), true, true, dsv3::view(ones), dsv3::view(ones)};
        kinds[i].run(s.ctx, {&product, 1});
        const Errors e(y.cast<double>(), exact);
        table.rows.push_back(
            {from.name, k, kinds[i].name, 100 * e.largest_of_rms, 100 * e.largest_of_largest, 100 * e.frobenius, 100 * e.toward_zero});
        if (&from == &distributions[3] && i > 0) {  // beside which the float32 sum's error is nothing
          if (curves.size() < i) curves.push_back({kinds[i].name, {}});
          curves[i - 1].points.emplace_back(std::log2(static_cast<double>(k)), std::log10(100 * e.largest_of_largest));
        }
      }
    }
  s.results.write(table);
  s.results.plot(cli::line_plot("log10 of the largest error in % of the largest output; normal data + 0.75", "log2 K", curves));
}

inline Matrix<double> some_rows(const Matrix<double>& m, const std::vector<Index>& rows) {
  Matrix<double> some(std::ssize(rows), m.cols());
  for (Index i = 0; i < some.rows(); ++i) some.row(i) = m.row(rows[static_cast<std::size_t>(i)]);
  return some;
}

/// Error of a product by shape and format of scales, against the size of outliers (section 3.3.2).
inline void scaling(const Setting& s) {
  struct Kind {
    const char* name;
    Matrix<float> (*x)(dsv3::Context&, const Matrix<float>&, bool);
    Matrix<float> (*w)(dsv3::Context&, const Matrix<float>&, bool);
  };
  constexpr auto power = ScaleFormat::power_of_two;
  const Kind kinds[] = {
      {"e4m3, 1x128 and 128x128", rounded<Tiles<E4m3, Shape::along>>, rounded<Tiles<E4m3, Shape::block>>},
      {"e4m3, the same, powers of two", rounded<Tiles<E4m3, Shape::along, power>>, rounded<Tiles<E4m3, Shape::block, power>>},
      {"e4m3, per tensor", rounded<Tiles<E4m3, Shape::whole>>, rounded<Tiles<E4m3, Shape::whole>>},
      {"e5m2, 1x128 and 128x128", rounded<Tiles<E5m2, Shape::along>>, rounded<Tiles<E5m2, Shape::block>>},
      {"e5m2, per tensor", rounded<Tiles<E5m2, Shape::whole>>, rounded<Tiles<E5m2, Shape::whole>>},
  };
  const Index rows = s.brief ? 32 : 128, k = s.brief ? 512 : 2048;
  Table table{"Error of y = x W^T (Frobenius, percent) with one token in 64 larger by a factor: of all rows, and of those without outliers",
              {"factor", "operands", "all rows", "other rows"},
              {}};
  std::vector<cli::Curve> curves;
  for (const Kind& kind : kinds) curves.push_back({kind.name, {}});
  for (const double factor : {1.0, 10.0, 100.0, 1000.0, 10000.0, 100000.0}) {
    Draw draw(5);
    Matrix<float> x = Draw::matrix(rows, k, [&] { return draw.normal(); });
    const Matrix<float> w = Draw::matrix(rows, k, [&] { return draw.normal() / std::sqrt(static_cast<double>(k)); });
    std::vector<Index> plain;
    for (Index t = 0; t < rows; ++t) {
      if (t % 64 == 1)
        x.row(t) *= static_cast<float>(factor);
      else
        plain.push_back(t);
    }
    const Matrix<double> exact = exact_product(x, w);
    for (std::size_t i = 0; i < std::size(kinds); ++i) {
      const Matrix<double> y = exact_product(kinds[i].x(s.ctx, x, true), kinds[i].w(s.ctx, w, true));
      const double all = 100 * Errors(y, exact).frobenius, others = 100 * Errors(some_rows(y, plain), some_rows(exact, plain)).frobenius;
      table.rows.push_back({factor, kinds[i].name, all, others});
      curves[i].points.emplace_back(std::log10(factor), std::log10(others));
    }
  }
  s.results.write(table);
  s.results.plot(cli::line_plot("log10 of the error in % of rows without outliers", "log10 of the factor of the others", curves));
}

/// What is lost by keeping an activation for its weight gradient (section 3.3.3).
inline void cache(const Setting& s) {
  constexpr auto power = ScaleFormat::power_of_two;
  struct Kind {
    const char* name;
    double bits;
    Matrix<float> (*keep)(dsv3::Context&, const Matrix<float>&, bool);
    Matrix<float> (*turn)(dsv3::Context&, const Matrix<float>&, bool);
  };
  const auto as_it_is = [](dsv3::Context&, const Matrix<float>& x, bool) { return x; };
  const Kind kinds[] = {
      {"float32", 32, as_it_is, rounded<Tiles<E4m3, Shape::along>>},
      {"E5M6, powers of two", 12, rounded<Tiles<E5m6, Shape::along, power>>, rounded<Tiles<E4m3, Shape::along, power>>},
      {"e4m3, powers of two", 8, rounded<Tiles<E4m3, Shape::along, power>>, rounded<Tiles<E4m3, Shape::along, power>>},
      {"e4m3, float32 scales", 8, rounded<Tiles<E4m3, Shape::along>>, rounded<Tiles<E4m3, Shape::along>>},
      {"e5m2, powers of two", 8, rounded<Tiles<E5m2, Shape::along, power>>, rounded<Tiles<E5m2, Shape::along, power>>},
  };
  const Index tokens = s.brief ? 256 : 1024, channels = 256;
  Draw draw(9);
  const Matrix<float> x = Draw::matrix(tokens, channels, [&] { return draw.normal() * std::exp(0.5 * draw.normal()); }),
                      dy = Draw::matrix(tokens, channels, [&] { return draw.normal(); });
  const auto gradient = [&](const Matrix<float>& a) { return Matrix<double>(dy.cast<double>().transpose() * a.cast<double>()); };
  const Matrix<double> exact = gradient(x);
  Table table{"An activation kept in few bits, then rounded to 128x1 for dW = dy^T x (errors: Frobenius, percent)",
              {"kept as", "bits", "error of what is kept", "of the 128x1 operand", "changed by 128x1", "error of dW, dy exact"},
              {}};
  for (const Kind& kind : kinds) {
    const Matrix<float> kept = kind.keep(s.ctx, x, true), turned = kind.turn(s.ctx, kept, false);
    table.rows.push_back({kind.name, kind.bits, 100 * Errors(kept.cast<double>(), x.cast<double>()).frobenius,
                          100 * Errors(turned.cast<double>(), x.cast<double>()).frobenius,
                          100 * static_cast<double>((turned.array() != kept.array()).count()) / static_cast<double>(x.size()),
                          100 * Errors(gradient(turned), exact).frobenius});
  }
  s.results.write(table);
}

/// A scale from the largest magnitude of now against one from the past 16 steps, for a tensor whose size grows, jumps and has rare
/// outliers.
inline void amax(const Setting& s) {
  const Index steps = 200, n = s.brief ? 1024 : 8192;
  constexpr std::size_t history = 16;
  Draw draw(3);
  std::vector<float> past;
  cli::Curve online{"online", {}}, delayed{"delayed: largest of the past 16 steps", {}};
  double sum[2] = {}, worst[2] = {};
  Index clipped = 0;
  for (Index t = 0; t < steps; ++t) {
    const double size = std::exp(0.01 * static_cast<double>(t)) * (t >= 100 ? 8 : 1) * (t % 40 == 39 ? 50 : 1);
    Matrix<float> x = Draw::matrix(1, n, [&] { return size * draw.normal(); });
    const float now = x.cwiseAbs().maxCoeff();
    const float then =
        past.empty() ? now : *std::max_element(past.end() - static_cast<std::ptrdiff_t>(std::min(history, past.size())), past.end());
    past.push_back(now);
    const float scales[2] = {now / E4m3::largest, then / E4m3::largest};
    for (int i = 0; i < 2; ++i) {
      const float scale = scales[i];
      const Matrix<float> y = x.unaryExpr([scale](float v) { return E4m3::decode(E4m3::encode(v / scale)) * scale; });
      const double error = 100 * Errors(y.cast<double>(), x.cast<double>()).frobenius;
      sum[i] += error, worst[i] = std::max(worst[i], error);
      (i == 0 ? online : delayed).points.emplace_back(static_cast<double>(t), error);
    }
    clipped += then < now ? 1 : 0;
  }
  const double count = static_cast<double>(steps);
  s.results.write({"Error of rounding a whole tensor to e4m3 (percent of its norm) over 200 steps",
                   {"scale", "mean", "worst step", "steps that saturate"},
                   {{"online", sum[0] / count, worst[0], 0}, {"delayed, 16 steps", sum[1] / count, worst[1], clipped}}});
  s.results.plot(
      cli::line_plot("Error in %: the tensor grows, jumps at step 100, and every 40th is 50 times larger", "step", {online, delayed}));
}

/// Moments of AdamW kept in bf16: rounded to nearest, and stochastically.
inline void moments(const Setting& s) {
  using dsv3::codec::BFloat16;
  const Index steps = s.brief ? 2000 : 20000, n = 256;
  Table table{"Second moment v = b v + (1 - b) g^2 of AdamW in bf16 after " + std::to_string(steps) + " steps, g normal",
              {"b", "rounding", "bias of v, percent", "rms error, percent"},
              {}};
  for (const double beta : {0.95, 0.99, 0.999, 0.9999}) {
    Draw draw(11), dice(12);
    std::vector<double> exact(static_cast<std::size_t>(n));
    std::vector<float> nearest(exact.size()), random(exact.size());
    const float b = static_cast<float>(beta), rest = static_cast<float>(1 - beta);
    for (Index t = 0; t < steps; ++t)
      for (std::size_t i = 0; i < exact.size(); ++i) {
        const double g = draw.normal();
        const float square = static_cast<float>(g * g);
        exact[i] = beta * exact[i] + (1 - beta) * g * g;
        nearest[i] = BFloat16::decode(BFloat16::encode(b * nearest[i] + rest * square));
        const float v = b * random[i] + rest * square;
        const auto bits = std::bit_cast<std::uint32_t>(v) + static_cast<std::uint32_t>(dice.below(0x10000));
        random[i] = std::bit_cast<float>(bits & 0xffff0000u);
      }
    const auto row = [&](const char* name, const std::vector<float>& v) {
      double sum = 0, squares = 0;
      for (std::size_t i = 0; i < v.size(); ++i) {
        const double error = v[i] / exact[i] - 1;
        sum += error, squares += error * error;
      }
      table.rows.push_back({beta, name, 100 * sum / static_cast<double>(n), 100 * std::sqrt(squares / static_cast<double>(n))});
    };
    row("to nearest", nearest);
    row("stochastic", random);
  }
  s.results.write(table);
}

}  // namespace laboratory::inline DSV3_ISA
