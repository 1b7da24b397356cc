// The optimizer, the bias controller and whole steps against PyTorch's traces.
#include "dsv3/model/init.hpp"
#include "dsv3/train/schedule.hpp"
#include "dsv3/train/trainer.hpp"
#include "support/checkpoint.hpp"
#include "support/oracle.hpp"

using namespace test;

namespace {

const std::string golden_train = DSV3_TEST_DATA "/golden-train/";

template <class V>
double scalar(const Matrix<V>& m, Index i) {
  return static_cast<double>(m.data()[i]);
}

/// A model of one parameter of 40 numbers would do; the smallest model has more. The trace's numbers lie in its embedding.
struct OneVector {
  explicit OneVector(const Matrix<float>& initial) : model(small()) {
    init_normal(model, 1);
    parameters.emplace(model);
    place = parameters->find("model.embed_tokens.weight").offset;
    std::copy_n(initial.data(), initial.size(), parameters->values().data() + place);
  }
  static Config small() {
    Config c = io::read_config(golden_train + "train-tiny");
    c.num_hidden_layers = 1;
    c.num_nextn_predict_layers = 0;
    return c;
  }
  Model<DeepSeekV3> model;
  std::optional<train::Parameters<DeepSeekV3>> parameters;
  Index place = 0;
};

template <class C>
void check_adamw(const std::string& prefix) {
  const Reference trace(golden_train + "adamw/trace.safetensors");
  const auto gradients = trace.floats("gradients"), weights = trace.floats(prefix + "weights");
  const auto rates = trace.matrix<double>("lr");
  OneVector one(trace.floats("initial"));
  train::Gradients<DeepSeekV3> g(*one.parameters);
  train::AdamW<DeepSeekV3, C> adamw(*one.parameters, {});
  Context ctx;
  const Index n = gradients.cols();
  double worst = 0;
  for (Index s = 0; s < gradients.rows(); ++s) {
    g.clear(ctx);
    std::copy_n(gradients.row(s).data(), n, g.values().data() + one.place);
    adamw.step(ctx, *one.parameters, g, rates.data()[s]);
    // A step is at most about lr (1 + |w| decay) / (1 - beta1): its relative error is a few eps, and a weight's rounding half an ulp, each
    // of the steps so far.
    for (Index i = 0; i < n; ++i) {
      const double found = static_cast<double>(one.parameters->values()[one.place + i]), expected = static_cast<double>(weights(s, i));
      const double ulp = std::max(std::abs(expected), 0x1p-6) * 0x1p-23;
      worst = std::max(worst, std::abs(found - expected) / (ulp * static_cast<double>(s + 1)));
    }
  }
  MESSAGE(prefix, " worst error in ulps a step: ", worst);
  CHECK(worst <= 1);
}

}  // namespace

TEST_CASE("AdamW is PyTorch's (spec T29), moments in float32 and in bf16 (spec T34)") {
  check_adamw<codec::Float32>("");
  check_adamw<codec::BFloat16>("bf16.");
}

TEST_CASE("the bias controller's traces, bit for bit (spec T22-T24)") {
  const Reference trace(golden_train + "bias/trace.safetensors");
  const router::Config config{16, 4, 4, 2, true, 1};
  for (const auto& [name, gamma, kind] : {std::tuple{std::string("slow"), 0.001, train::BiasStep::as_is},
                                          {"fast", 0.05, train::BiasStep::as_is},
                                          {"fast_centred", 0.05, train::BiasStep::centred}}) {
    const auto logits = trace.floats("logits"), biases = trace.floats(name + ".bias");
    const auto loads = trace.ints(name + ".loads");
    std::vector<float> bias(16);
    const Index tokens = logits.rows() / biases.rows();
    for (Index s = 0; s < biases.rows(); ++s) {
      std::vector<Index> load(16);
      for (Index t = 0; t < tokens; ++t) {
        const auto choice = router::SigmoidTopK{}.route(config, {logits.row(s * tokens + t).data(), 16}, bias);
        for (Index k = 0; k < 4; ++k) ++load[static_cast<std::size_t>(choice.experts[static_cast<std::size_t>(k)])];
      }
      train::update_bias(bias, load, gamma, kind);
      for (Index e = 0; e < 16; ++e) {
        CHECK(load[static_cast<std::size_t>(e)] == loads(s, e));
        CHECK(bias[static_cast<std::size_t>(e)] == biases(s, e));
      }
    }
  }
}

TEST_CASE("the bias controller balances the traces' skewed router (spec T28)") {
  // The reference adds noise of deviation 0.7 to 16 even steps from 1.2 to -1.2 in an order that the means of its logits tell: steps are
  // 0.16, errors of the means 0.016. The noise here is our own.
  const Matrix<float> trace = Reference(golden_train + "bias/trace.safetensors").floats("logits");
  const Eigen::ArrayXd means = trace.cast<double>().colwise().mean();
  std::array<float, 16> skew;
  for (Index e = 0; e < 16; ++e) skew[static_cast<std::size_t>(e)] = 1.2f - 0.16f * static_cast<float>((means > means[e]).count());
  const router::Config config{16, 4, 4, 2, true, 1};
  struct Run {
    double gamma;
    Index steps;  // after which the reference's loads, averaged over ten steps, are at most 1.11 times the mean (its trace.json)
    train::BiasStep kind;
  };
  for (const auto& [gamma, steps, kind] :
       {Run{0, 300, train::BiasStep::as_is}, Run{0.001, 300, train::BiasStep::as_is}, Run{0.001, 300, train::BiasStep::centred},
        Run{0.01, 100, train::BiasStep::as_is}, Run{0.01, 100, train::BiasStep::centred}, Run{0.05, 100, train::BiasStep::as_is},
        Run{0.05, 100, train::BiasStep::centred}}) {
    Random random;
    std::vector<float> bias(16), logits(16);
    Eigen::ArrayXd window = Eigen::ArrayXd::Zero(16);  // loads over the mean, of the last ten steps
    for (Index s = 0; s < steps + 10; ++s) {
      std::vector<Index> load(16);
      for (Index t = 0; t < 256; ++t) {
        for (std::size_t e = 0; e < 16; ++e) logits[e] = skew[e] + random.normal(0.7f);
        const auto choice = router::SigmoidTopK{}.route(config, logits, bias);
        for (std::size_t k = 0; k < 4; ++k) ++load[static_cast<std::size_t>(choice.experts[k])];
      }
      train::update_bias(bias, load, gamma, kind);
      if (s >= steps)
        for (Index e = 0; e < 16; ++e) window[e] += static_cast<double>(load[static_cast<std::size_t>(e)]) / (10.0 * 256 * 4 / 16);
    }
    MESSAGE("gamma ", gamma, ": largest load over the mean in steps ", steps + 1, " to ", steps + 10, ": ", window.maxCoeff());
    if (gamma > 0)
      CHECK(window.maxCoeff() < 1.3);
    else
      CHECK(window.maxCoeff() > 3);  // so that it is the bias that balances
  }
}

TEST_CASE("twenty steps of a small V3 with everything on") {
  const Reference trace(golden_train + "train-tiny/trace.safetensors");
  const auto ids = trace.ints("input_ids");
  const auto lr = trace.matrix<double>("lr"), lambda = trace.matrix<double>("lam"), gamma = trace.matrix<double>("gamma");
  for (const auto decay : {train::Decay::all, train::Decay::matrices_only}) {
    const bool all = decay == train::Decay::all;
    for (const Index micro : {Index{0}, Index{1}}) {
      if (!all && micro == 1) continue;
      auto model = io::load(golden_train + "train-tiny");
      train::TrainerOptions options;
      options.clip = 2.3;
      options.adamw.decay = decay;
      options.micro_batch = micro;
      train::Trainer<DeepSeekV3> trainer(model, options);
      Context ctx;
      for (Index s = 0; s < 20; ++s) {
        CAPTURE(s);
        std::vector<train::Sample> batch;
        for (Index i = 0; i < 4; ++i) batch.push_back({{ids.row(4 * s + i).data(), 16}});
        const auto report = trainer.step(ctx, batch, {lr.data()[s], {lambda.data()[s], 0.01}, gamma.data()[s]});
        if (!all) {
          CHECK(std::abs(report.losses.total - scalar(trace.matrix<double>("matrices_only.loss"), s)) < 2e-6);
          continue;
        }
        CHECK(std::abs(report.losses.total - scalar(trace.matrix<double>("loss"), s)) < 2e-6);
        CHECK(std::abs(report.losses.main - scalar(trace.matrix<double>("main"), s)) < 2e-6);
        CHECK(std::abs(report.losses.mtp[0] - scalar(trace.matrix<double>("mtp"), s)) < 2e-6);
        for (Index layer = 0; layer < 3; ++layer) {
          CHECK(std::abs(report.losses.balance[static_cast<std::size_t>(layer)] - scalar(trace.matrix<double>("balance"), 3 * s + layer)) <
                2e-6);
          CHECK(report.loads.row(layer) == trace.ints("loads").row(3 * s + layer).cast<Index>());
        }
        CHECK(report.gradient_norm == doctest::Approx(scalar(trace.matrix<double>("grad_norm"), s)).epsilon(1e-5));
        CHECK(report.clip_factor == doctest::Approx(scalar(trace.matrix<double>("clip_factor"), s)).epsilon(1e-5));
        Index layer = 0;
        for (const auto& p : trainer.parameters().list())
          if (p.kind == train::Kind::buffer) CHECK(p.in(trainer.parameters().values()) == trace.floats("bias").row(3 * s + layer++));
      }
      const Reference final(golden_train + (all ? "train-tiny/final.safetensors" : "train-tiny/final-matrices-only.safetensors"));
      double worst = 0;
      for (const auto& p : trainer.parameters().list())
        if (final.has(p.name) && p.kind != train::Kind::buffer)
          worst = std::max(worst, static_cast<double>((p.in(trainer.parameters().values()) -
                                                       Eigen::Map<const Matrix<float>>(final.floats(p.name).data(), p.rows, p.cols))
                                                          .cwiseAbs()
                                                          .maxCoeff()));
      MESSAGE("largest difference of a weight ", worst);
      CHECK(worst < 2e-5);
    }
  }
}

TEST_CASE("schedules") {
  const auto lr = train::warmup_cosine(1, 0.1, 4, 6, 8);
  CHECK(lr.at(1) == 0.25);
  CHECK(lr.at(4) == 1);
  CHECK(lr.at(10) == 1);
  CHECK(lr.at(14) == doctest::Approx(0.55));
  CHECK(lr.at(18) == doctest::Approx(0.1));
  CHECK(lr.at(100) == doctest::Approx(0.1));
  const auto report = train::report_schedule();
  CHECK(report.at(10e12) == doctest::Approx(2.2e-4));
  CHECK(report.at(14.3e12 + 1e9) == doctest::Approx(2.2e-5));
  CHECK(report.at(14.7e12) == doctest::Approx(7.3e-6));
  CHECK_THROWS_AS(train::Schedule(std::vector<train::Phase>{}), Error);
}
