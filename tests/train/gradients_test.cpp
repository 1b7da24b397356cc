// Gradients of whole models against PyTorch's (float64, rounded to float32), name by name.
#include <filesystem>
#include "dsv3/train/backpropagation.hpp"
#include "dsv3/train/grad_check.hpp"

#include "support/checkpoint.hpp"
#include "support/threads.hpp"

using namespace test;

namespace {

const std::string golden = DSV3_TEST_DATA "/golden/", golden_train = DSV3_TEST_DATA "/golden-train/";

std::vector<train::Sample> samples_of(const Matrix<int>& ids) {
  std::vector<train::Sample> samples;
  for (Index i = 0; i < ids.rows(); ++i) samples.push_back({{ids.row(i).data(), static_cast<std::size_t>(ids.cols())}});
  return samples;
}

/// The largest error of any gradient, relative to that gradient's largest value.
template <class P>
double worst_error(const train::Parameters<P>& parameters, const train::Gradients<P>& gradients, const Reference& reference) {
  double worst = 0;
  int compared = 0;
  for (const auto& p : parameters.list()) {
    if (p.kind == train::Kind::buffer || !reference.has("grad." + p.name)) continue;
    const Matrix<float> expected = reference.floats("grad." + p.name), found = p.in(gradients.values());
    if (expected.cwiseAbs().maxCoeff() == 0) {
      CHECK_MESSAGE(found.cwiseAbs().maxCoeff() == 0, p.name);
      continue;
    }
    const double error = relative_error(found, expected);
    if (error > 1e-3) MESSAGE(p.name, ": ", error);
    worst = std::max(worst, error);
    ++compared;
  }
  CHECK(compared > 10);
  return worst;
}

template <class P>
void check_main(const std::string& name, double tolerance) {
  CAPTURE(name);
  Context ctx;
  auto model = io::load<P>(golden + name);
  train::Parameters<P> parameters(model);
  train::Gradients<P> gradients(parameters);
  train::Backpropagation<P> passes(model);
  const Reference reference(golden_train + name + "/gradients.safetensors");
  const auto ids = reference.ints("input_ids");
  const auto samples = samples_of(ids);
  const auto counts = train::count(samples, 0);
  const auto sums = passes.accumulate(ctx, samples, counts, {}, gradients);
  CHECK(train::losses(sums, counts, {}).main == doctest::Approx(static_cast<double>(reference.floats("loss")(0, 0))).epsilon(1e-6));
  const double worst = worst_error(parameters, gradients, reference);
  MESSAGE(name, ": worst relative error ", worst);
  CHECK(worst < tolerance);
}

}  // namespace

TEST_CASE("gradients of the main loss are PyTorch's (spec T21)") {
  check_main<DeepSeekV3>("v3-noq", 5e-5);
  check_main<DeepSeekV3>("v3-odd", 5e-5);
  check_main<DeepSeekV2>("v2-lite", 5e-5);
  check_main<DeepSeekV3>("v3-tiny", 2e-4);
}

namespace {

struct Case {
  double tolerance = 5e-5;
  train::Objective objective;
  std::string loss = "loss";
};

/// A batch of `samples` cut into parts of `part` samples: the objective, all gradients, and the sums.
template <class P>
struct Run {
  Run(Model<P>& model, std::span<const train::Sample> samples, const train::Objective& objective, Index part, int threads = 1,
      const train::Keep& keep = {})
      : parameters(model),
        gradients(parameters),
        executor{threads},
        counts(train::count(samples, objective.mtp_weight != 0 ? model.mtp_modules() : 0)) {
    Context ctx(executor, 1);
    train::Backpropagation<P> passes(model, keep);
    for (Index i = 0; i < std::ssize(samples); i += part)
      sums += passes.accumulate(
          ctx, samples.subspan(static_cast<std::size_t>(i), static_cast<std::size_t>(std::min(part, std::ssize(samples) - i))), counts,
          objective, gradients);
    losses = train::losses(sums, counts, objective);
  }
  train::Parameters<P> parameters;
  train::Gradients<P> gradients;
  Threads executor;
  train::Counts counts;
  train::Sums sums;
  train::Losses losses;
};

/// The first parameter whose gradients differ in a bit, or "".
template <class A, class B>
std::string first_difference(const A& a, const B& b) {
  for (const auto& p : a.parameters.list())
    if (p.in(a.gradients.values()) != p.in(b.gradients.values())) return p.name;
  return {};
}

double scalar(const Reference& r, const std::string& name) { return r.matrix<double>(name)(0, 0); }

}  // namespace

TEST_CASE("the recompute policies give the gradients of keeping everything, bit for bit") {
  const auto tokens = Reference(golden + "v3-tiny/golden.safetensors").ints("input_ids");
  const auto samples = samples_of(tokens);
  auto model = io::load(golden + "v3-tiny");
  const train::Objective objective{0.3, 0.01};
  const Run<DeepSeekV3> all(model, samples, objective, 2);
  const Run<DeepSeekV3> report(model, samples, objective, 2, 1, train::keep::report);
  const Run<DeepSeekV3> blocks(model, samples, objective, 2, 1, train::keep::blocks);
  CHECK(first_difference(report, all) == "");
  CHECK(first_difference(blocks, all) == "");
}

TEST_CASE("MTP losses, with the embedding and the head shared (spec T3-T6)") {
  const Reference reference(golden_train + "v3-tiny/mtp-loss.safetensors");
  const auto ids = Reference(golden_train + "v3-tiny/gradients.safetensors").ints("input_ids");
  auto model = io::load(golden + "v3-tiny");
  const Run<DeepSeekV3> run(model, samples_of(ids), {0.3}, 2);
  CHECK(run.losses.total == doctest::Approx(static_cast<double>(reference.floats("loss")(0, 0))).epsilon(1e-6));
  CHECK(run.losses.main == doctest::Approx(static_cast<double>(reference.floats("loss_main")(0, 0))).epsilon(1e-6));
  for (std::size_t k = 0; k < 2; ++k)
    CHECK(run.losses.mtp[k] == doctest::Approx(static_cast<double>(reference.floats("loss_mtp")(0, static_cast<Index>(k)))).epsilon(1e-6));
  const double worst = worst_error(run.parameters, run.gradients, reference);
  MESSAGE("worst relative error ", worst);
  CHECK(worst < 2e-4);
}

namespace {
struct AfterHeadNorm : DeepSeekV3 {
  static constexpr MtpOutput mtp_output = MtpOutput::after_head_norm;
};
}  // namespace

TEST_CASE("gradients flow through shared_head.norm if it is what the next depth gets (spec T6)") {
  const auto ids = Reference(golden_train + "v3-tiny/gradients.safetensors").ints("input_ids");
  const auto samples = samples_of(ids);
  auto model = io::load<AfterHeadNorm>(golden + "v3-tiny");
  const train::Objective objective{0.3};
  Run<AfterHeadNorm> run(model, samples, objective, 2);
  auto other_model = io::load(golden + "v3-tiny");
  Run<DeepSeekV3> other(other_model, samples, objective, 2);  // in which the next depth gets the block's output
  int checked = 0;
  for (const auto& p : run.parameters.list()) {
    if (p.name.find("shared_head.norm") == p.name.npos) continue;
    const auto in = [&](train::Arena& arena) { return std::span(arena.data() + p.offset, static_cast<std::size_t>(p.size())); };
    const auto check = [&](std::span<const float> gradient) {
      return train::check_gradient(
          in(run.parameters.values()), gradient,
          [&] {
            Context ctx;
            run.parameters.refresh();
            train::Gradients<AfterHeadNorm> unused(run.parameters);
            train::Backpropagation<AfterHeadNorm> passes(model);
            return train::losses(passes.accumulate(ctx, samples, run.counts, objective, unused), run.counts, objective).total;
          },
          1, 1e-3);
    };
    const auto own = check(in(run.gradients.values()));
    CAPTURE(p.name);
    CAPTURE(own.analytic);
    CAPTURE(own.numeric);
    CAPTURE(own.uncertainty);
    CHECK(own.agrees());
    CHECK_FALSE(check(in(other.gradients.values())).agrees());  // the differences are close enough to tell the two apart
    ++checked;
  }
  CHECK(checked == 2);
}

TEST_CASE("the balance loss reaches all layers below (spec T8-T10)") {
  const Reference reference(golden_train + "v3-odd/balance-loss.safetensors");
  const auto ids = Reference(golden_train + "v3-odd/gradients.safetensors").ints("input_ids");
  auto model = io::load(golden + "v3-odd");
  const Run<DeepSeekV3> run(model, samples_of(ids), {0, 0.5}, 2);
  CHECK(run.losses.total == doctest::Approx(static_cast<double>(reference.floats("loss")(0, 0))).epsilon(1e-6));
  const double worst = worst_error(run.parameters, run.gradients, reference);
  MESSAGE("worst relative error ", worst);
  CHECK(worst < 5e-5);
}

TEST_CASE("masked targets in unequal micro-batches (spec T2, T36)") {
  const Reference reference(golden_train + "train-tiny/masked.safetensors");
  const auto ids = reference.ints("input_ids");
  const auto trained = reference.matrix<std::uint8_t>("trained");
  auto samples = samples_of(ids);
  for (Index i = 0; i < ids.rows(); ++i)
    samples[static_cast<std::size_t>(i)].trained = {trained.row(i).data(), static_cast<std::size_t>(ids.cols())};
  auto model = io::load(golden_train + "train-tiny");
  const train::Objective objective{0.3, 0.01};
  const Run<DeepSeekV3> whole(model, samples, objective, 4);
  CHECK(whole.losses.main == doctest::Approx(scalar(reference, "main")).epsilon(1e-6));
  CHECK(whole.losses.mtp[0] == doctest::Approx(scalar(reference, "mtp")).epsilon(1e-6));
  CHECK(whole.losses.total == doctest::Approx(scalar(reference, "loss")).epsilon(1e-6));
  const double worst = worst_error(whole.parameters, whole.gradients, reference);
  MESSAGE("worst relative error ", worst);
  CHECK(worst < 5e-5);
  for (const Index part : {1, 2, 3}) {
    const Run<DeepSeekV3> parts(model, samples, objective, part);
    CHECK(first_difference(parts, whole) == "");
    CHECK(parts.sums.loads == whole.sums.loads);
  }
  for (const int threads : {2, 5}) CHECK(first_difference(Run<DeepSeekV3>(model, samples, objective, 4, threads), whole) == "");
}

TEST_CASE("documents packed into a row do not see one another (spec T54)") {
  const Reference reference(golden_train + "packed/packed.safetensors");
  auto ids = reference.ints("input_ids");
  const auto trained = reference.matrix<std::uint8_t>("trained");
  const auto lengths = reference.ints("lengths");
  const std::array<Index, 2> documents{0, lengths(0, 0)};
  const train::Sample sample{
      {ids.data(), static_cast<std::size_t>(ids.size())}, {trained.data(), static_cast<std::size_t>(trained.size())}, documents};
  std::filesystem::path folder = std::filesystem::temp_directory_path() / "dsv3_packed";
  std::filesystem::create_directories(folder);
  std::filesystem::copy_file(golden_train + "train-tiny/config.json", folder / "config.json",
                             std::filesystem::copy_options::overwrite_existing);
  std::filesystem::copy_file(golden_train + "train-tiny/final.safetensors", folder / "model.safetensors",
                             std::filesystem::copy_options::overwrite_existing);
  auto model = io::load(folder.string());
  const Run<DeepSeekV3> run(model, {&sample, 1}, {0.3}, 1);
  CHECK(run.losses.main == doctest::Approx(static_cast<double>(reference.floats("main")(0, 0))).epsilon(1e-6));
  CHECK(run.losses.mtp[0] == doctest::Approx(static_cast<double>(reference.floats("mtp")(0, 0))).epsilon(1e-6));
  CHECK(run.sums.loads == reference.ints("loads").cast<Index>());
  const double worst = worst_error(run.parameters, run.gradients, reference);
  MESSAGE("worst relative error ", worst);
  CHECK(worst < 5e-5);
}
