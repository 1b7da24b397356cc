// Saving: what is read back is the same model, bit for bit, whole or in shards, quantized or not.
#include "dsv3/io/save.hpp"

#include <filesystem>

#include "dsv3/model/quantize.hpp"
#include "io/temp_folder.hpp"
#include "support/checkpoint.hpp"

using namespace test;

namespace {

const std::string golden = DSV3_TEST_DATA "/golden/";

template <class P>
Matrix<float> logits_of(const Model<P>& model) {
  Context ctx;
  std::vector<Cache<P>> caches;
  NoTape none;
  Matrix<int> ids(1, 20);
  for (Index i = 0; i < ids.size(); ++i) ids(0, i) = static_cast<int>(i * 37 % model.config().vocab_size);
  return logits(ctx, model, run_batch(ctx, model, ids, caches, none));
}

}  // namespace

TEST_CASE("a saved model is the same model") {
  for (const std::string name : {"v3-tiny", "v3-odd", "v3-fp8"})
    for (const std::size_t shard : {std::size_t{1} << 40, std::size_t{200000}}) {
      CAPTURE(name);
      CAPTURE(shard);
      const TempFolder folder;
      const auto model = io::load<DeepSeekV3>(golden + name);
      io::save(model, folder.path() / "new", {.max_shard_bytes = shard});
      CHECK(std::filesystem::exists(folder.path() / "new/model.safetensors.index.json") == (shard == 200000));
      const auto again = io::load<DeepSeekV3>(folder.path() / "new");
      CHECK(again.config() == model.config());
      CHECK(logits_of(again) == logits_of(model));
    }
}

TEST_CASE("shards replace a single file, and saving over what is mapped is safe") {
  const TempFolder folder;
  io::save(io::load<DeepSeekV3>(golden + "v3-odd"), folder.path());
  const auto model = io::load<DeepSeekV3>(folder.path());
  const Matrix<float> before = logits_of(model);
  io::save(model, folder.path(), {.max_shard_bytes = 100000});
  CHECK_FALSE(std::filesystem::exists(folder.path() / "model.safetensors"));
  CHECK(logits_of(model) == before);
  CHECK(logits_of(io::load<DeepSeekV3>(folder.path())) == before);
}

TEST_CASE("quantized as the published checkpoints are") {
  const TempFolder folder;
  Context ctx;
  for (const auto format : {ScaleFormat::float32, ScaleFormat::power_of_two}) {
    auto model = io::load<DeepSeekV3>(golden + "v3-noq");
    quantize_fp8(ctx, model, format);
    io::save(model, folder.path());
    const auto files = io::CheckpointFiles::open(folder.path());
    CHECK(files.find("model.layers.0.mlp.up_proj.weight")->dtype == io::Dtype::F8_E4M3);
    CHECK(files.find("model.layers.0.mlp.up_proj.weight_scale_inv")->shape == std::vector<Index>{1, 1});
    for (const std::string kept : {"lm_head.weight", "model.embed_tokens.weight", "model.layers.1.mlp.gate.weight", "model.norm.weight"})
      CHECK(files.find(kept)->dtype == io::Dtype::F32);
    const auto again = io::load<DeepSeekV3>(folder.path());
    CHECK(again.config().fp8);
    CHECK(logits_of(again) == logits_of(model));
  }
}

TEST_CASE("what cannot be saved") {
  const TempFolder folder;
  const Model<> empty(io::read_config(golden + "v3-odd"));
  CHECK_THROWS_WITH_AS(io::save(empty, folder.path()), "save: model.embed_tokens.weight is not bound to any memory", Error);
  CHECK_THROWS_AS(io::save(io::load<DeepSeekV3>(golden + "v3-odd"), "/proc/no/such/place"), Error);
}
