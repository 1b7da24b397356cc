// Backward kernels against plain loops in double, and gradients of every parameter against finite differences. Products have
// products_test.cpp.
#include "dsv3/model/init.hpp"
#include "dsv3/train/compute.hpp"
#include "dsv3/train/grad_check.hpp"
#include "dsv3/train/trainer.hpp"
#include "support/checkpoint.hpp"
#include "support/oracle.hpp"
#include "support/sanitized.hpp"
#include "support/threads.hpp"
#include "support/wide.hpp"

using namespace test;

namespace {

using Arch = simd::DefaultArch;

}  // namespace

TEST_CASE("backward of attention, over several blocks of queries and keys") {
  Random random;
  for (const Index n : {1, 63, 64, 150}) {
    const Index nope = 20, rope = 6, value = 17;
    const float scale = 0.2f;
    const auto q = random.matrix(n, nope + rope), k = random.matrix(n, nope), k_pe = random.matrix(n, rope), v = random.matrix(n, value),
               d_o = random.matrix(n, value);
    Double keys(n, nope + rope);
    keys << wide(k), wide(k_pe);
    Double p = (wide(q) * keys.transpose()) * static_cast<double>(scale);
    Matrix<float> lse(n, 1), o;
    for (Index i = 0; i < n; ++i) {
      const double top = p.row(i).head(i + 1).maxCoeff(), sum = (p.row(i).head(i + 1).array() - top).exp().sum();
      lse(i, 0) = static_cast<float>(top + std::log(sum));
      for (Index j = 0; j < n; ++j) p(i, j) = j <= i ? std::exp(p(i, j) - top) / sum : 0;
    }
    o = (p * wide(v)).cast<float>();
    const Double dp = wide(d_o) * wide(v).transpose(), delta = (wide(d_o).array() * (p * wide(v)).array()).rowwise().sum();
    Double ds = p.array() * (dp.array() - delta.replicate(1, n).array()) * static_cast<double>(scale);
    const Double dq = ds * keys, dk = ds.transpose() * wide(q), dv = p.transpose() * wide(d_o);
    Matrix<float> found_q(n, nope + rope), found_k(n, nope), found_pe(n, rope), found_v(n, value);
    const train::AttentionGradient g{view(q),    view(k), view(k_pe),    view(v),       view(o),        view(d_o),
                                     lse.data(), 1,       view(found_q), view(found_k), view(found_pe), view(found_v)};
    Context ctx;
    train::attention_backward<Arch>(ctx, {&g, 1}, scale);
    // exp of a score of a few units is off by its rounding; sums have n terms.
    const double bound = static_cast<double>(n + 64) * 8 * epsilon;
    const auto check = [&](const Matrix<float>& f, const Double& e) {
      CHECK((f.cast<double>() - e).cwiseAbs().maxCoeff() <= bound * std::max(1.0, e.cwiseAbs().maxCoeff()));
    };
    check(found_q, dq);
    check(found_k, dk.leftCols(nope));
    check(found_pe, dk.rightCols(rope));
    check(found_v, dv);
  }
}

TEST_CASE("backward of RMSNorm (spec T17) and of cross-entropy (spec T1)") {
  Random random;
  Context ctx;
  const Index rows = 9, n = 37;
  const auto x = random.matrix(rows, n), dy = random.matrix(rows, n);
  const Vector<float> w = random.vector(n);
  Matrix<float> dx(rows, n), dw = Matrix<float>::Zero(1, n);
  train::rms_norm_backward<Arch>(ctx, view(x), w, 1e-6f, view(dy), view(dx), dw.data());
  Double expected_w = Double::Zero(1, n);
  for (Index t = 0; t < rows; ++t) {
    const Eigen::ArrayXd xt = x.row(t).cast<double>(), g = dy.row(t).cast<double>(), wt = w.cast<double>();
    const double r = 1 / std::sqrt(xt.square().mean() + 1e-6), mean = (wt * g * xt).mean();
    const Eigen::ArrayXd expected = r * (wt * g - xt * r * r * mean);
    CHECK((dx.row(t).cast<double>().transpose().array() - expected).abs().maxCoeff() <=
          static_cast<double>(n) * epsilon * std::max(1.0, expected.abs().maxCoeff()));
    expected_w += (g * xt * r).matrix().transpose();
  }
  CHECK((wide(dw) - expected_w).cwiseAbs().maxCoeff() <= static_cast<double>(rows + n) * epsilon * 4);

  Matrix<float> logits = random.matrix(1, 50) * 5;
  const Eigen::ArrayXd z = logits.cast<double>().transpose().array(), p = (z - z.maxCoeff()).exp();
  const double loss = std::log(p.sum()) - (z[7] - z.maxCoeff());
  CHECK(train::cross_entropy_backward<Arch>(logits.data(), 50, 7, 2.0f) == doctest::Approx(loss).epsilon(1e-6));
  for (Index i = 0; i < 50; ++i) CHECK(std::abs(static_cast<double>(logits(0, i)) - 2 * (p[i] / p.sum() - (i == 7))) <= 64 * epsilon);
}

namespace {

/// A model's gradients of all kinds of parameters against finite differences.
template <class P>
void check_all(Model<P>& model, int least) {
  const auto ids = Reference(DSV3_TEST_DATA "/golden-train/train-tiny/trace.safetensors").ints("input_ids");
  std::vector<train::Sample> samples;
  for (Index i = 0; i < 4; ++i) samples.push_back({{ids.row(i).data(), 16}});
  train::Trainer<P> trainer(model, {});
  Context ctx;
  // A choice of experts that a move changes would be a step of the loss: the bias decides it here.
  auto& parameters = trainer.parameters();
  for (const auto& p : parameters.list())
    if (p.kind == train::Kind::buffer)
      for (Index e = 0; e < p.size(); ++e)
        p.in(parameters.values())(0, e) = e == 4 || e == 5 || e == 12 || e == 13 ? 10.0f : 0.0f;  // two groups
  parameters.refresh();
  const train::Objective objective{0.3, 0};
  train::StepReport report;
  trainer.gradients_of(ctx, samples, objective, report);
  const train::Arena gradients = trainer.gradients().values();
  const auto loss = [&] {
    parameters.refresh();
    train::StepReport again;
    trainer.gradients_of(ctx, samples, objective, again);
    return again.losses.total;
  };
  int checked = 0;
  for (const auto& p : parameters.list()) {
    if (p.kind == train::Kind::buffer || (p.name.find(".experts.") != p.name.npos && p.name.find(".experts.5.") == p.name.npos)) continue;
    const auto check = train::check_gradient({parameters.values().data() + p.offset, static_cast<std::size_t>(p.size())},
                                             {gradients.data() + p.offset, static_cast<std::size_t>(p.size())}, loss, 3, 0.03);
    parameters.refresh();
    CHECK_MESSAGE(check.agrees(), p.name, ": ", check.analytic, " and ", check.numeric, " +- ", check.uncertainty);
    if (check.uncertainty < 0.2 * std::abs(check.analytic)) ++checked;  // differences tell something
  }
  MESSAGE(checked, " checked closely");
  CHECK(checked > least);
}

struct Grouped : DeepSeekV3 {
  template <class P>
  using Attention = Gqa<P>;
};

}  // namespace

TEST_CASE("gradients of every parameter agree with finite differences") {
  auto model = io::load(DSV3_TEST_DATA "/golden-train/train-tiny");
  check_all(model, 40);
}

TEST_CASE("so do those of a model with grouped-query attention" * doctest::skip(sanitized)) {
  Config c = io::read_config(DSV3_TEST_DATA "/golden-train/train-tiny");
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  Model<Grouped> model(c);
  init_normal(model, 1, 0.2);
  check_all(model, 30);
}
