// dsv3-quantize and dsv3-perplexity, run as a user runs them.
#include <sys/wait.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "dsv3/io/token_file.hpp"
#include "dsv3/model/quantize.hpp"
#include "program.hpp"
#include "support/checkpoint.hpp"

using namespace test;

namespace {

const std::string scratch = DSV3_SCRATCH "/measure/", golden = DSV3_TEST_DATA "/golden/", shakespeare = DSV3_MODELS "/shakespeare";

ProgramResult run(const std::string& command) { return run_program(scratch, command); }

std::string fresh(const std::string& name) {
  std::filesystem::remove_all(scratch + name);
  return scratch + name;
}

/// What dsv3-perplexity --json says of the embedded model on these ids.
nlohmann::json perplexity(std::span<const int> ids, const std::string& options) {
  std::filesystem::create_directories(scratch);
  io::TokenFile::write(scratch + "ids.bin", ids);
  const auto result = run("perplexity '" + shakespeare + "' '" + scratch + "ids.bin' --json " + options);
  CAPTURE(result.err);
  REQUIRE(result.code == 0);
  return io::parse_json(result.out, "dsv3-perplexity");
}

}  // namespace

TEST_CASE("dsv3-perplexity gives the reference's loss") {
  const Reference reference(DSV3_TEST_DATA "/shakespeare/golden.safetensors");
  const Matrix<int> ids = reference.ints("input_ids");
  const Matrix<float> logits = reference.floats("logits");
  double expected = 0, largest = 0;
  for (Index i = 0; i + 1 < ids.cols(); ++i) {  // the first row
    const Eigen::ArrayXd x = logits.row(i).cast<double>().transpose().array();
    largest = std::max(largest, x.abs().maxCoeff());
    expected += x.maxCoeff() + std::log((x - x.maxCoeff()).exp().sum()) - x[ids(0, i + 1)];
  }
  expected /= static_cast<double>(ids.cols() - 1);
  const std::span<const int> row(ids.data(), static_cast<std::size_t>(ids.cols()));
  const auto found = perplexity(row, "--context " + std::to_string(ids.cols()));
  // Logits agree to 2e-5 of the largest (tests/model/perplexity_test.cpp), and an error of a logit enters a loss at most twice.
  CHECK(std::abs(found["loss"].get<double>() - expected) <= 2 * 2e-5 * largest);
  CHECK(found["perplexity"].get<double>() == doctest::Approx(std::exp(found["loss"].get<double>())));
  CHECK(found["tokens"] == ids.cols() - 1);
  CHECK(found["windows"] == 1);
}

TEST_CASE("weights are rounded to fp8 in memory on request") {
  const std::string model = fresh("bf16_copy");  // in bf16 throughout, as dsv3-quantize stores what it does not round to fp8
  REQUIRE(run("quantize '" + golden + "v3-tiny' '" + model + "' --to bf16").code == 0);
  std::vector<int> ids(200);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int>(i * 37 % 320);
  io::TokenFile::write(scratch + "ids.bin", ids);
  const auto loss_of = [&](const std::string& folder, const std::string& options) {
    const auto result = run("perplexity '" + folder + "' '" + scratch + "ids.bin' --json " + options);
    CAPTURE(result.err);
    REQUIRE(result.code == 0);
    return io::parse_json(result.out, "dsv3-perplexity")["loss"].get<double>();
  };
  const auto loss = [&](const std::string& options) { return loss_of(model, options); };
  // What the options do is what quantize_fp8() does: the copy that dsv3-quantize writes has the same projections, hence the same loss.
  const std::string copy = fresh("fp8_copy");
  REQUIRE(run("quantize '" + model + "' '" + copy + "' --to fp8").code == 0);
  const double plain = loss(""), projections = loss("--quantize fp8"), head = loss("--quantize-head fp8"),
               both = loss("--quantize fp8 --quantize-head fp8");
  CHECK(projections != plain);
  CHECK(head != plain);
  CHECK(both != projections);
  CHECK(loss_of(copy, "") == projections);
  CHECK(loss_of(copy, "--quantize-head fp8") == both);
  CHECK(run("perplexity x y --quantize-head int4").code == 2);
  CHECK(run("generate '" DSV3_TEST_DATA "/cases/tied_only_lm_head_stored' --ids 1 --quantize-head fp8").code == 2);
}

TEST_CASE("dsv3-perplexity counts every token once, in windows") {
  const Matrix<int> ids = Reference(DSV3_TEST_DATA "/shakespeare/valid_ids.safetensors").ints("input_ids");
  const auto part = [&](Index begin, Index n) { return std::span<const int>(ids.data() + begin, static_cast<std::size_t>(n)); };
  // Windows of 8 tokens that share one: those of the pieces by themselves.
  const auto whole = perplexity(part(0, 18), "--context 8");
  const double pieces = 7 * perplexity(part(0, 8), "--context 8")["loss"].get<double>() +
                        7 * perplexity(part(7, 8), "--context 8")["loss"].get<double>() +
                        3 * perplexity(part(14, 4), "--context 8")["loss"].get<double>();
  CHECK(whole["tokens"] == 17);
  CHECK(whole["windows"] == 3);
  CHECK(whole["loss"].get<double>() * 17 == doctest::Approx(pieces).epsilon(1e-6));  // JSON has all digits; passes differ in their rows
  const auto sliding = perplexity(part(0, 18), "--context 8 --stride 2");
  CHECK(sliding["tokens"] == 17);
  CHECK(sliding["windows"] == 6);
  // A last window: the tokens that the one before it has predicted are context here.
  const double last = 9 * perplexity(part(0, 10), "--context 8 --stride 2")["loss"].get<double>() -
                      7 * perplexity(part(0, 8), "--context 8")["loss"].get<double>();
  const double longer =
      7 * perplexity(part(2, 8), "--context 8")["loss"].get<double>() - 5 * perplexity(part(2, 6), "--context 8")["loss"].get<double>();
  CHECK(last == doctest::Approx(longer).epsilon(1e-5));
  for (const std::string compute : {"bf16", "fp8"}) {
    const auto other = perplexity(part(0, 192), "--compute " + compute), exact = perplexity(part(0, 192), "");
    CHECK(other["loss"] != exact["loss"]);
    // FP8 activations cost at most 0.25% over 118 such rows (tests/model/perplexity_test.cpp), one row sqrt(118) times that.
    CHECK(std::abs(other["loss"].get<double>() - exact["loss"].get<double>()) <= 0.0025 * std::sqrt(118) * exact["loss"].get<double>());
  }
}

TEST_CASE("dsv3-perplexity tells what is wrong") {
  CHECK(run("perplexity --help").code == 0);
  CHECK(run("perplexity x").code == 2);
  CHECK(run("perplexity x y --compute int3").code == 2);
  CHECK(run("perplexity '" + shakespeare + "' y --context 8 --stride 8").code == 2);
  const auto nothing = run("perplexity '" + shakespeare + "' /no/such/file");
  CHECK(nothing.code == 1);
  CHECK(holds(nothing.err, "/no/such/file"));
  std::ofstream(scratch + "empty.txt").close();
  CHECK(holds(run("perplexity '" + shakespeare + "' '" + scratch + "empty.txt'").err, "expected at least 2 tokens"));
}

TEST_CASE("dsv3-quantize writes what the library's quantization gives") {
  for (const std::string to : {"fp8", "fp8-ue8m0"}) {
    CAPTURE(to);
    const std::string out = fresh(to);
    const auto result = run("quantize '" + golden + "v3-tiny' '" + out + "' --to " + to + " --shard-mb 1");
    CAPTURE(result.err);
    REQUIRE(result.code == 0);
    Context ctx;
    auto expected = io::load<DeepSeekV3>(golden + "v3-tiny");
    quantize_fp8(ctx, expected, to == "fp8" ? ScaleFormat::float32 : ScaleFormat::power_of_two);
    const auto found = io::load<DeepSeekV3>(out);
    CHECK(found.config().fp8);
    CHECK(found.config().fp8_power_of_two_scales == (to != "fp8"));
    std::map<std::string, Matrix<float>> values;
    Model<DeepSeekV3>::for_each_tensor(expected, [&](const std::string& name, const auto& p) {
      if constexpr (requires { p.view; }) {
        Matrix<float>& w = values[name];
        w.resize(p.rows, p.cols);
        for (Index i = 0; i < p.rows; ++i)
          visit_weight(p.view, [&](const auto& v) { decode_row<simd::DefaultArch>(v, i, w.row(i).data()); });
      }
    });
    int fp8 = 0;
    Model<DeepSeekV3>::for_each_tensor(found, [&](const std::string& name, const auto& p) {
      if constexpr (requires { p.view; }) {
        Matrix<float> w(p.rows, p.cols);
        for (Index i = 0; i < p.rows; ++i)
          visit_weight(p.view, [&](const auto& v) { decode_row<simd::DefaultArch>(v, i, w.row(i).data()); });
        const bool is_projection = is_published_as_fp8(name);
        fp8 += is_fp8(p.view);
        const Matrix<float> rounded = is_projection ? values.at(name) : Matrix<float>(values.at(name).unaryExpr([](float x) {
          return codec::BFloat16::decode(codec::BFloat16::encode(x));
        }));
        INFO(name);
        const bool same = (w.array() == rounded.array()).all(), stored_so = is_fp8(p.view) == is_projection;
        CHECK(same);
        CHECK(stored_so);
      }
    });
    CHECK(fp8 > 0);
    const auto report = io::parse_json(contents(out + "/quantize.json"), "quantize.json");
    for (const auto& file : report["files"].items())
      for (const auto& t : file.value().items())
        // Half a step of e4m3 is 2^-4 of its binade's beginning, and no value is larger than the largest; 1e-6 for the comparison's
        // rounding.
        CHECK(t.value()["largest_error"].get<double>() <= 0x1p-4 + 1e-6);
  }
}

TEST_CASE("dsv3-quantize goes on where it stopped, and leaves other conversions alone") {
  const std::string out = fresh("resumed"), whole = fresh("whole"), source = "quantize '" + shakespeare + "' '";
  REQUIRE(run(source + whole + "' --to bf16 --shard-mb 1").code == 0);
  REQUIRE(run(source + out + "' --to bf16 --shard-mb 1").code == 0);
  std::filesystem::remove(out + "/config.json");
  std::filesystem::remove(out + "/model.safetensors.index.json");
  std::filesystem::remove(out + "/model-00003-of-00006.safetensors");
  std::ofstream(out + "/.model-00003-of-00006.safetensors.123.tmp") << "what a killed run leaves";
  const auto kept = std::filesystem::last_write_time(out + "/model-00002-of-00006.safetensors");
  REQUIRE(run(source + out + "' --to bf16 --shard-mb 1").code == 0);
  CHECK(std::filesystem::last_write_time(out + "/model-00002-of-00006.safetensors") == kept);
  CHECK(!std::filesystem::exists(out + "/.model-00003-of-00006.safetensors.123.tmp"));
  for (const auto& entry : std::filesystem::directory_iterator(whole)) {
    const std::string name = entry.path().filename().string();
    bool same = contents(whole + "/" + name) == contents(out + "/" + name);
    if (name == "quantize.json")  // a file that was written again stands last in it
      same = io::parse_json(contents(whole + "/" + name), name) == io::parse_json(contents(out + "/" + name), name);
    INFO(name);
    CHECK(same);
  }
  const auto other = run(source + out + "' --to fp8");
  CHECK(other.code == 1);
  CHECK(holds(other.err, "another conversion"));
  CHECK(run(source + out + "' --to int4").code == 2);
  CHECK(run(source + shakespeare + "' --to fp8").code == 1);
  CHECK(run("quantize /no/such/folder '" + fresh("never") + "' --to fp8").code == 1);
}
