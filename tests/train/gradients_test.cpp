// Gradients of whole models against PyTorch's (float64, rounded to float32), name by name.
#include "dsv3/train/backpropagation.hpp"
#include "support/checkpoint.hpp"

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

template <class P, class Keep>
void check_main(const std::string& name, double tolerance) {
  CAPTURE(name);
  Context ctx;
  auto model = io::load<P>(golden + name);
  train::Parameters<P> parameters(model);
  train::Gradients<P> gradients(parameters);
  train::Backpropagation<P, Keep> passes(model);
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
  check_main<DeepSeekV3, train::keep::Everything>("v3-noq", 5e-5);
  check_main<DeepSeekV3, train::keep::Everything>("v3-odd", 5e-5);
  check_main<DeepSeekV2, train::keep::Everything>("v2-lite", 5e-5);
  check_main<DeepSeekV3, train::keep::Everything>("v3-tiny", 2e-4);
}
