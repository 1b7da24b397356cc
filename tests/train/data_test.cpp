// What training data goes through, and the trainer's state as a file.
#include <fstream>
#include <numeric>

#include "dsv3/core/openmp.hpp"
#include "dsv3/io/tokenize_file.hpp"
#include "dsv3/io/training_state.hpp"
#include "dsv3/train/compute.hpp"
#include "dsv3/train/evaluate.hpp"
#include "support/checkpoint.hpp"

using namespace test;

namespace {

namespace fs = std::filesystem;

struct Folder {
  fs::path path = fs::temp_directory_path() / ("dsv3_train_data_" + std::to_string(::getpid()));
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
  fs::path write(const char* name, std::string_view bytes) const {
    std::ofstream(path / name, std::ios::binary) << bytes;
    return path / name;
  }
};

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

std::vector<int> all_of(const io::TokenFile& file, Index vocab = 70000) {
  std::vector<int> ids(static_cast<std::size_t>(file.size()));
  file.read(0, ids, vocab);
  return ids;
}

}  // namespace

TEST_CASE("a shuffle is a permutation that seed and epoch choose") {
  for (const Index n : {1, 2, 3, 17, 256, 1000}) {
    std::vector<Index> order;
    const train::Shuffle shuffle(n, 7, 3);
    for (Index i = 0; i < n; ++i) order.push_back(shuffle(i));
    auto sorted = order;
    std::sort(sorted.begin(), sorted.end());
    std::vector<Index> every(static_cast<std::size_t>(n));
    std::iota(every.begin(), every.end(), Index{0});
    CHECK(sorted == every);
    if (n < 17) continue;
    CHECK(order != every);
    std::vector<Index> other;
    for (Index i = 0; i < n; ++i) other.push_back(train::Shuffle(n, 7, 4)(i));
    CHECK(other != order);
  }
  CHECK_THROWS_WITH_AS(train::Shuffle(0, 1, 0), doctest::Contains("at least one sample"), Error);
}

TEST_CASE("fill-in-the-middle keeps every token of a document (spec T37)") {
  const train::FimTokens tokens{100, 101, 102};
  std::vector<int> ids(50);
  std::iota(ids.begin(), ids.end(), 0);
  int changed = 0;
  for (std::uint64_t document = 0; document < 2000; ++document) {
    const auto out = train::fill_in_the_middle(ids, tokens, 0.1, 5, document);
    if (out == ids) continue;
    ++changed;
    REQUIRE(out.size() == ids.size() + 3);
    const auto hole = std::find(out.begin(), out.end(), 101), end = std::find(out.begin(), out.end(), 102);
    CHECK(out[0] == 100);
    std::vector<int> joined(out.begin() + 1, hole);  // prefix, middle, suffix
    joined.insert(joined.end(), end + 1, out.end());
    joined.insert(joined.end(), hole + 1, end);
    CHECK(joined == ids);
  }
  // 2000 draws of 0.1: a deviation of 13.4, here at most five of them.
  CHECK(std::abs(changed - 200) < 67);
}

TEST_CASE("files of token ids") {
  const Folder folder;
  CHECK(all_of(io::TokenFile::open(folder.write("bare.bin", bytes_of<std::uint16_t>({1, 2, 65535})))) == std::vector{1, 2, 65535});
  CHECK(all_of(io::TokenFile::open(folder.write("wide.bin", bytes_of<std::uint32_t>({1, 69999})), 4)) == std::vector{1, 69999});
  const std::vector<int> ids{5, 6, 7};
  io::TokenFile::write(folder.path / "own.bin", ids);
  CHECK(all_of(io::TokenFile::open(folder.path / "own.bin")) == ids);
  // llm.c's header for uint16, and Megatron's index.
  std::vector<std::int32_t> header(256);
  header[0] = 20240520, header[1] = 1, header[2] = 2;
  const auto two = bytes_of<std::uint16_t>({8, 9});
  CHECK(all_of(io::TokenFile::open(folder.write("gpt2.bin", bytes_of(header) + two))) == std::vector{8, 9});
  header[2] = 3;
  CHECK_THROWS_WITH_AS(io::TokenFile::open(folder.write("short.bin", bytes_of(header) + two)),
                       doctest::Contains("promises 3 ids of 2 bytes, 4 bytes"), Error);
  folder.write("megatron.idx", std::string("MMIDIDX\0\0\1\0\0\0\0\0\0\0\4", 18));
  CHECK(all_of(io::TokenFile::open(folder.write("megatron.bin", bytes_of<std::int32_t>({3, 4})))) == std::vector{3, 4});
  folder.write("odd.idx", std::string("MMIDIDX\0\0\1\0\0\0\0\0\0\0\7", 18));
  CHECK_THROWS_WITH_AS(io::TokenFile::open(folder.write("odd.bin", "1234")), doctest::Contains("got type 7"), Error);
  CHECK_THROWS_WITH_AS(io::TokenFile::open(folder.write("half.bin", "123")), doctest::Contains("no whole number of ids"), Error);
  CHECK_THROWS_WITH_AS(all_of(io::TokenFile::open(folder.path / "bare.bin"), 100), doctest::Contains("id 65535 at place 2"), Error);
}

TEST_CASE("text and JSONL become ids, documents with an end token") {
  const Folder folder;
  const auto tokenizer = io::Tokenizer::open(DSV3_MODELS "/shakespeare/tokenizer.json");
  const auto one = tokenizer.encode_text("To be, or not"), two = tokenizer.encode_text("to be.");
  CHECK(io::tokenize_file(folder.write("a.txt", "To be, or not"), tokenizer) == one);
  std::vector<int> expected = one;
  expected.push_back(1);
  expected.insert(expected.end(), two.begin(), two.end());
  expected.push_back(1);
  io::TokenizeOptions options;
  options.end_token = 1;
  CHECK(io::tokenize_file(folder.write("a.jsonl", "{\"text\": \"To be, or not\", \"id\": 3}\n\n{\"text\":\"to be.\"}\n"), tokenizer,
                          options) == expected);
  CHECK_THROWS_WITH_AS(io::tokenize_file(folder.write("b.jsonl", "{\"text\": \"x\"}\n{\"words\": \"x\"}\n"), tokenizer),
                       doctest::Contains("b.jsonl:2: expected an object with a string \"text\""), Error);
  CHECK_THROWS_AS(io::tokenize_file(folder.write("c.jsonl", "{\"text\": \n"), tokenizer), Error);
}

TEST_CASE("a saved state goes on bit for bit; states that do not fit are refused by name") {
  const Folder folder;
  using P = train::Training<>;
  const auto ids = Reference(DSV3_TEST_DATA "/golden-train/train-tiny/trace.safetensors").ints("input_ids");
  const auto batch = [&](Index s) {
    std::vector<train::Sample> samples;
    for (Index i = 0; i < 4; ++i) samples.push_back({{ids.row(4 * s + i).data(), 16}});
    return samples;
  };
  const train::StepSettings settings{1e-3, {0.3, 0.01}, 0.01};
  const auto path = folder.path / "state.safetensors";
  const io::RunPosition position{5, 20, "config", "run"};
  Context ctx;
  auto model = io::load<P>(DSV3_TEST_DATA "/golden-train/train-tiny");
  train::Trainer<P> trainer(model, {});
  train::Arena average = trainer.parameters().values();
  for (Index s = 0; s < 5; ++s) trainer.step(ctx, batch(s), settings);
  train::update_average(ctx, trainer.parameters(), 0.9, average);
  io::save_state(path, trainer, position, average);
  for (Index s = 5; s < 10; ++s) trainer.step(ctx, batch(s), settings);

  auto other = io::load<P>(DSV3_TEST_DATA "/golden-train/train-tiny");
  train::Trainer<P> resumed(other, {});
  train::Arena read;
  const auto at = io::load_state(path, resumed, "config", read);
  CHECK(at.step == 5);
  CHECK(at.samples == 20);
  CHECK(at.run == "run");
  CHECK((read.array() == average.array()).all());
  for (Index s = 5; s < 10; ++s) resumed.step(ctx, batch(s), settings);
  CHECK((resumed.parameters().values().array() == trainer.parameters().values().array()).all());
  CHECK(resumed.optimizer().m() == trainer.optimizer().m());
  CHECK(resumed.optimizer().v() == trainer.optimizer().v());

  CHECK_THROWS_WITH_AS(io::load_state(path, resumed, "another", read), doctest::Contains("state of another model"), Error);
  train::Trainer<P, codec::BFloat16> narrow(other, {});
  CHECK_THROWS_WITH_AS(io::load_state(path, narrow, "config", read), doctest::Contains("m: expected BF16"), Error);
  CHECK_THROWS_WITH_AS(io::load_state(fs::path(DSV3_TEST_DATA "/golden-train/train-tiny/model.safetensors"), resumed, "config", read),
                       doctest::Contains("no training state"), Error);
  const auto size = fs::file_size(path);
  fs::resize_file(path, size / 2);
  CHECK_THROWS_AS(io::load_state(path, resumed, "config", read), Error);
}

TEST_CASE("steps that are not finite are skipped, and stop a run in which they do not end") {
  auto model = io::load(DSV3_TEST_DATA "/golden-train/train-tiny");
  train::TrainerOptions options;
  options.max_skipped = 3;
  train::Trainer<DeepSeekV3> trainer(model, options);
  const std::vector<int> ids{1, 2, 3, 4, 5};
  const train::Sample sample{ids};
  Context ctx;
  auto& head = trainer.parameters().find("lm_head.weight");
  head.in(trainer.parameters().values())(3, 3) = INFINITY;
  const train::Arena before = trainer.parameters().values();
  for (int i = 0; i < 2; ++i) CHECK(trainer.step(ctx, {&sample, 1}, {}).skipped);
  CHECK_THROWS_WITH_AS(trainer.step(ctx, {&sample, 1}, {}), doctest::Contains("3 steps in a row"), Error);
  CHECK((trainer.parameters().values().array() == before.array()).all());
}

TEST_CASE("bad batches are refused before anything is learned") {
  auto model = io::load(DSV3_TEST_DATA "/golden-train/train-tiny");
  train::Trainer<DeepSeekV3> trainer(model, {});
  Context ctx;
  const std::vector<int> ids{1, 2, 3}, outside{1, 64, 2}, one{1};
  const std::vector<std::uint8_t> marks{1, 1};
  const std::vector<Index> documents{0, 5};
  const auto step = [&](const train::Sample& s) { return trainer.step(ctx, {&s, 1}, {}); };
  CHECK_THROWS_WITH_AS(step({outside}), doctest::Contains("token id 64"), Error);
  CHECK_THROWS_WITH_AS(step({one}), doctest::Contains("has no target"), Error);
  CHECK_THROWS_WITH_AS(step({ids, marks}), doctest::Contains("3 marks of trained ids"), Error);
  CHECK_THROWS_WITH_AS(step({ids, {}, documents}), doctest::Contains("document 1 begins at 5"), Error);
  CHECK(trainer.optimizer().steps() == 0);
}

TEST_CASE("weights after 50 steps are the same for any number of threads, and for any cut of the batch") {
  const auto ids = Reference(DSV3_TEST_DATA "/golden-train/train-tiny/trace.safetensors").ints("input_ids");
  const auto run = [&](int threads, Index micro) {
    auto model = io::load<train::Training<>>(DSV3_TEST_DATA "/golden-train/train-tiny");
    train::TrainerOptions options;
    options.micro_batch = micro;
    train::Trainer<train::Training<>> trainer(model, options);
    OpenMP executor(threads);
    Context ctx(executor, 0);
    for (Index s = 0; s < 50; ++s) {
      std::vector<train::Sample> samples;
      for (Index i = 0; i < 4; ++i) samples.push_back({{ids.row((4 * s + i) % ids.rows()).data(), 16}});
      trainer.step(ctx, samples, {1e-3, {0.3, 0.01}, 0.01});
    }
    return train::Arena(trainer.parameters().values());
  };
  const auto one = run(1, 0);
  CHECK((run(2, 0).array() == one.array()).all());
  CHECK((run(5, 0).array() == one.array()).all());
  CHECK((run(2, 1).array() == one.array()).all());
}

TEST_CASE("evaluation is the loss of training") {
  const auto ids = Reference(DSV3_TEST_DATA "/golden-train/train-tiny/trace.safetensors").ints("input_ids");
  std::vector<train::Sample> samples;
  for (Index i = 0; i < 6; ++i) samples.push_back({{ids.row(i).data(), 16}});
  auto model = io::load(DSV3_TEST_DATA "/golden-train/train-tiny");
  Context ctx;
  train::StepReport report;
  const double loss = train::evaluate(ctx, model, samples, 40);
  train::Trainer<DeepSeekV3> trainer(model, {});
  trainer.gradients_of(ctx, samples, {}, report);
  CHECK(loss == doctest::Approx(report.losses.main).epsilon(1e-6));
}
