// Checkpoints as programs save them today, against what transformers 5.24 computes from the same files (tests/data/README.md).
#include <fstream>

#include "dsv3/io/config_writer.hpp"
#include "dsv3/io/text_bounds.hpp"
#include "dsv3/io/tokenizer.hpp"
#include "dsv3/model/generate.hpp"
#include "support/checkpoint.hpp"
#include "support/oracle.hpp"
#include "temp_folder.hpp"

using namespace test;

namespace {

const std::string cases = DSV3_TEST_DATA "/cases/";

constexpr double tolerance = 2e-5;  // of a whole model in float32, docs/numerics.md

std::string with(const std::string& fields) { return R"({"model_type": "deepseek_v3", )" + fields + "}"; }

}  // namespace

TEST_CASE("logits of checkpoints that are stored or described in other ways than the published ones") {
  for (const std::string name : {"fewer_layers_with_mtp_declared", "fused_experts", "norm_topk_prob_null", "tied_only_lm_head_stored",
                                 "yarn_original_max_at_top_level"}) {
    CAPTURE(name);
    const auto model = io::load<DeepSeekV3>(cases + name);
    const Reference expected(cases + name + "/expected.safetensors");
    const Matrix<int> ids = expected.ints("input_ids");
    Context ctx;
    std::vector<Cache<DeepSeekV3>> caches;
    NoTape none;
    const Matrix<float> h = run_batch(ctx, model, ids, caches, none);
    CHECK(relative_error(logits(ctx, model, h), expected.floats("logits")) <= tolerance);
    CHECK(model.mtp_modules() == 0);
  }
}

TEST_CASE("a begin token that stands only in the post-processor") {
  const std::string folder = cases + "bos_by_post_processor";
  const auto tokenizer = io::Tokenizer::open(folder);
  const auto begin = io::read_begin(folder, io::read_config(folder), tokenizer);
  CHECK(begin == std::vector{0});
  CHECK(io::begin_text(begin, tokenizer.encode("ROMEO:")) == std::vector{0, 848, 27});
  CHECK(io::begin_text(begin, {0, 848, 27}) == std::vector{0, 848, 27});
  CHECK(io::begin_text(begin, {}) == std::vector{0});
}

TEST_CASE("a prompt that has its begin token keeps one") {
  const std::string folder = cases + "bos_twice";
  const auto tokenizer = io::Tokenizer::open(DSV3_MODELS "/shakespeare");
  Config config;
  CHECK(io::read_begin(folder, config, tokenizer) == std::vector{0});
  config.bos_token_id.reset();
  CHECK(io::read_begin(folder, config, tokenizer).empty());
  const TempFolder silent;
  CHECK(io::read_begin(silent.path(), config, tokenizer).empty());
}

TEST_CASE("end tokens and sampling of generation_config.json") {
  const std::string folder = cases + "eos_in_generation_config";
  const auto model = io::load<DeepSeekV3>(folder);
  CHECK(model.config().eos_token_id == std::vector{1, 81});
  Context ctx;
  auto cache = model.make_cache({64});
  std::vector<int> said;
  dsv3::generate(ctx, model, cache, std::vector{5, 17, 33, 8, 90}, {.max_new_tokens = 20}, [&](int id) {
    said.push_back(id);
    return true;
  });
  CHECK(said == std::vector{32});  // then 81, which ends the text
  const auto settings = io::read_generation_config(folder, model.config());
  CHECK(settings.temperature == 0.6);
  CHECK(settings.top_p == 0.95);
  CHECK_FALSE(settings.top_k);

  const TempFolder other;
  const auto read = [&](const char* text) {
    std::ofstream(other.path() / "generation_config.json") << text;
    return io::read_generation_config(other.path(), model.config());
  };
  CHECK(read(R"({"eos_token_id": 7.0, "do_sample": false, "temperature": 0.3, "top_k": 20})").temperature == 0);
  CHECK(read(R"({"top_k": 20})").top_k == 20);
  CHECK(read(R"({"top_k": -1})").top_k == 0);  // no limit
  CHECK_FALSE(read(R"({"eos_token_id": null})").eos_token_id);
  CHECK(contains(error_of([&] { read(R"({"eos_token_id": [1, "x"]})"); }), "eos_token_id: expected ids of tokens below"));
  CHECK(contains(error_of([&] { read(R"({"eos_token_id": 100000000})"); }), "found 100000000"));
  CHECK(contains(error_of([&] { read(R"({"top_p": 3})"); }), "top_p: expected a number from 0 to 1, found 3"));
  CHECK(contains(error_of([&] { read("[]"); }), "expected an object"));
}

TEST_CASE("a file that git-lfs has not fetched") {
  CHECK(contains(error_of([] { (void)io::CheckpointFiles::open(cases + "lfs_pointer"); }), "is a git-lfs pointer, not the file itself"));
  CHECK(contains(error_of([] { (void)io::read_text_file(cases + "lfs_pointer/tokenizer.json", 1 << 20); }),
                 "tokenizer.json: is a git-lfs pointer"));
}

TEST_CASE("folders of other formats say what they hold") {
  const std::map<std::string, std::string> hints{{"model-Q8_0.gguf", "GGUF"}, {"pytorch_model.bin", "pickled"}, {"weights.npz", "MLX"}};
  for (const auto& [file, hint] : hints) {
    const TempFolder folder;
    std::ofstream(folder / file) << "x";
    const std::string message = error_of([&] { (void)io::CheckpointFiles::open(folder.path()); });
    CHECK(contains(message, "no checkpoint found"));
    CHECK(contains(message, hint));
  }
  CHECK(contains(error_of([] { (void)io::parse_config(with(R"("quantization": {"group_size": 64, "bits": 4})"), "c"); }), "MLX"));
  CHECK(contains(error_of([] { (void)io::parse_config(with(R"("quantization_config": {"quant_method": "modelopt"})"), "c"); }),
                 "expected fp8, found \"modelopt\" (weights of NVFP4"));
}

TEST_CASE("fields that nobody reads are named, unless they are harmless") {
  CHECK(error_of([] {
          (void)io::parse_config(
              with(R"("sliding_window": 128, "swiglu_limit": 7.0, "attn_logit_softcapping": 50, "index_topk": 2048, "hc_mult": 4)"), "c");
        }) ==
        "c: fields that change the model in ways that this library or policy does not know: attn_logit_softcapping, hc_mult, index_topk, "
        "sliding_window, swiglu_limit");
  CHECK(contains(
      error_of([] { (void)io::parse_config(with(R"("rope_scaling": {"type": "yarn", "factor": 2, "llama_4_scaling_beta": 0.1})"), "c"); }),
      "does not know: rope_scaling.llama_4_scaling_beta"));
  CHECK(contains(
      error_of([] {
        (void)io::parse_config(
            with(R"("quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128], "weight_per_tensor": true})"), "c");
      }),
      "does not know: quantization_config.weight_per_tensor"));
  // Not set, harmless, or without meaning where they stand.
  (void)io::parse_config(
      with(R"("sliding_window": null, "aux_loss_alpha": 0.001, "_name_or_path": "x", "auto_map": {"AutoConfig": "c.C"})"), "c");
  (void)io::parse_config(with(R"("rope_scaling": {"type": "yarn", "factor": 2}, "rope_parameters": {"whatever": 1})"), "c");
  (void)io::parse_config(with(R"("rope_parameters": {"rope_type": "default", "rope_theta": 10000, "factor": 1, "beta_fast": 32})"), "c");
  (void)io::parse_config(with(R"("head_dim": 64, "qk_head_dim": 192, "num_local_experts": 256)"), "c");
  CHECK(contains(error_of([] { (void)io::parse_config(with(R"("qk_head_dim": 128)"), "c"); }), "c: qk_head_dim: expected 192, found 128"));
}

TEST_CASE("what Python takes for false") {
  CHECK_FALSE(io::parse_config(with(R"("norm_topk_prob": null)"), "c").norm_topk_prob);
  CHECK_FALSE(io::parse_config(with(R"("tie_word_embeddings": null)"), "c").tie_word_embeddings);
  CHECK_FALSE(io::parse_config(with(R"("rope_interleave": null)"), "c").rope_interleave);
  CHECK(io::parse_config(with(R"("topk_group": 4)"), "c").norm_topk_prob);
}

TEST_CASE("scales of powers of two are a setting of the checkpoint") {
  const auto scales = [](const std::string& format) {
    return io::parse_config(with(R"("quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128])" + format + "}"), "c");
  };
  CHECK_FALSE(scales("").fp8_power_of_two_scales);
  CHECK(scales(R"(, "scale_fmt": "ue8m0")").fp8_power_of_two_scales);
  CHECK(io::parse_config(io::config_to_json(scales(R"(, "scale_fmt": "ue8m0")")), "c").fp8_power_of_two_scales);
  CHECK(contains(error_of([&] { scales(R"(, "scale_fmt": "e5m2")"); }), "scale_fmt: expected float or ue8m0, found \"e5m2\""));
}

TEST_CASE("numbers in messages are written in full") {
  CHECK(error_of([] { fail(1073741824.0, ' ', 0.1, ' ', 1e-6, ' ', 2.5f, ' ', -1.0); }) == "1073741824 0.1 1e-06 2.5 -1");
}
