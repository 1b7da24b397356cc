#include "dsv3/io/config_json.hpp"
#include "dsv3/io/config_writer.hpp"

#include <doctest/doctest.h>

#include "dsv3/model/presets.hpp"
#include "hostile.hpp"
#include "temp_folder.hpp"

using namespace dsv3;
using namespace dsv3::io;

TEST_CASE("absent fields get Hugging Face's defaults") {
  const Config v3 = parse_config(R"({"model_type": "deepseek_v3"})", "test");
  CHECK(v3.hidden_size == 7168);
  CHECK(v3.max_position_embeddings == 4096);
  CHECK(v3.q_lora_rank == 1536);
  CHECK(v3.num_nextn_predict_layers == 0);
  CHECK_FALSE(v3.rope_scaling);
  CHECK_FALSE(v3.fp8);
  CHECK(v3.bos_token_id == 0);
  CHECK(v3.eos_token_id == std::vector{1});

  const Config v2 = parse_config(R"({"architectures": ["DeepseekV2ForCausalLM"], "num_experts_per_tok": 6})", "test");
  CHECK(v2.model_type == "deepseek_v2");
  CHECK(v2.num_key_value_heads == 32);
  CHECK(v2.scoring_func == router::Score::softmax);
  CHECK(v2.n_group == 1);
  CHECK_FALSE(v2.norm_topk_prob);
  CHECK(v2.eos_token_id == std::vector{2});

  const Config glm = parse_config(R"({"model_type": "glm4_moe_lite"})", "test");
  CHECK(glm.qk_nope_head_dim == 192);
  CHECK(glm.first_k_dense_replace == 1);
  CHECK(glm.rms_norm_eps == 1e-5);
  CHECK(glm.num_key_value_heads == 20);
}

TEST_CASE("the model type may be another if the architecture is V3's") {
  CHECK(parse_config(R"({"model_type": "kimi_k2"})", "test").model_type == "kimi_k2");
  const Config other = parse_config(R"({"model_type": "house_v1", "architectures": ["DeepseekV3ForCausalLM"]})", "test");
  CHECK(other.model_type == "house_v1");
  CHECK(other.scoring_func == router::Score::sigmoid);
}

TEST_CASE("settings may be written in several ways") {
  const auto parse = [](const std::string& fields) { return parse_config(R"({"model_type": "deepseek_v3", )" + fields + "}", "test"); };
  CHECK(parse(R"("rope_theta": 50000)").rope_theta == 50000);
  CHECK(parse(R"("rope_theta": 1, "rope_parameters": {"rope_type": "default", "rope_theta": 2e4})").rope_theta == 2e4);
  CHECK_FALSE(parse(R"("rope_scaling": null)").rope_scaling);
  CHECK_FALSE(parse(R"("rope_scaling": {}, "rope_parameters": null)").rope_scaling);
  CHECK_FALSE(parse(R"("rope_scaling": {"type": "default"})").rope_scaling);

  const rope::Yarn yarn{40, 4096, 32, 1, 1, 1};
  CHECK(
      parse(R"("rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096.0, "mscale": 1, "mscale_all_dim": 1,
      "beta_fast": 32, "beta_slow": 1})")
          .rope_scaling == yarn);
  CHECK(parse(R"("rope_parameters": {"rope_type": "yarn", "rope_theta": 10000, "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 1.0,
      "attention_factor": null, "truncate": true, "type": "yarn"})")
            .rope_scaling == yarn);
  CHECK(parse(R"("max_position_embeddings": 8192, "rope_scaling": {"type": "yarn", "original_max_position_embeddings": 2048})")
            .rope_scaling->factor == 4);

  CHECK_FALSE(parse(R"("q_lora_rank": null)").q_lora_rank);
  CHECK_FALSE(parse(R"("q_lora_rank": 0)").q_lora_rank);
  CHECK(parse(R"("hidden_size": 128.0, "routed_scaling_factor": 2, "rms_norm_eps": 0)").hidden_size == 128);
  CHECK(parse(R"("num_attention_heads": 64, "num_key_value_heads": null)").num_key_value_heads == 64);
  CHECK(parse(R"("eos_token_id": [5, 6])").eos_token_id == std::vector{5, 6});
  CHECK(parse(R"("eos_token_id": null)").eos_token_id.empty());
  CHECK_FALSE(parse(R"("bos_token_id": null)").bos_token_id);
  CHECK_FALSE(parse(R"("rope_interleave": false)").rope_interleave);
  CHECK(
      parse(R"("quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"})").fp8);
  CHECK_FALSE(parse(R"("quantization_config": null)").fp8);
}

TEST_CASE("V2's choice of experts") {
  const auto parse = [](const std::string& fields) {
    return parse_config(R"({"model_type": "deepseek_v2", "num_experts_per_tok": 6, "n_group": 8, "topk_group": 3, )" + fields + "}",
                        "test");
  };
  CHECK(parse(R"("topk_method": "greedy")").n_group == 1);
  CHECK(parse(R"("topk_method": "greedy")").topk_group == 1);
  CHECK(parse(R"("topk_method": "group_limited_greedy")").n_group == 8);
  CHECK(parse(R"("topk_method": "group_limited_greedy")").topk_group == 3);
  CHECK_FALSE(parse(R"("norm_topk_prob": true)").norm_topk_prob);
}

TEST_CASE("V2 always rotates neighbours") {
  CHECK_THROWS_AS(parse_config(R"({"model_type": "deepseek_v2", "num_experts_per_tok": 6, "rope_interleave": false})", "test"), Error);
}

TEST_CASE("GLM's list of layer types") {
  const auto parse = [](const std::string& types) {
    return parse_config(R"({"model_type": "glm4_moe_lite", "num_hidden_layers": 3, "mlp_layer_types": )" + types + "}", "test");
  };
  CHECK(parse(R"(["dense", "dense", "sparse"])").first_k_dense_replace == 2);
  CHECK(parse(R"(["sparse", "sparse", "sparse"])").first_k_dense_replace == 0);
  CHECK_THROWS_AS(parse(R"(["dense", "sparse", "dense"])"), Error);
  CHECK_THROWS_AS(parse(R"(["dense", "sparse"])"), Error);
  CHECK_THROWS_AS(parse(R"(["dense", "sparse", "other"])"), Error);
}

TEST_CASE("presets are valid and survive writing and reading") {
  for (const auto& preset : presets::all) {
    CAPTURE(preset.name);
    Config config = preset.config();
    validate(config, preset.name);
    const Config read = parse_config(config_to_json(config), preset.name);
    if (config.model_type == "kimi_k2") config.model_type = "deepseek_v3";
    CHECK(read == config);
  }
  CHECK(presets::find("v2-lite") == presets::deepseek_v2_lite());
  CHECK(presets::find("kimi-k2") == presets::kimi_k2());
  CHECK_FALSE(presets::find("gpt-2"));
  CHECK_FALSE(presets::find(""));
}

TEST_CASE("unusual settings survive writing and reading") {
  Config config;
  config.bos_token_id.reset();
  config.eos_token_id = {3, 4};
  config.tie_word_embeddings = true;
  config.rope_interleave = false;
  config.norm_topk_prob = false;
  config.rope_scaling = rope::Yarn{4.5, 2048, 16, 2, 0, 0.707};
  CHECK(parse_config(config_to_json(config), "test") == config);
  config.rope_scaling.reset();
  config.eos_token_id.clear();
  CHECK(parse_config(config_to_json(config), "test") == config);
}

TEST_CASE("a folder without config.json") {
  const TempFolder folder;
  CHECK_THROWS_WITH_AS(read_config(folder.path()), ((folder / "config.json").string() + ": cannot open: No such file or directory").c_str(),
                       Error);
}

TEST_CASE("hostile configurations are refused with field and reason") {
  const std::map<std::string, std::string> reasons{
      {"not_json.json", "not valid JSON"},
      {"empty.json", "not valid JSON"},
      {"list.json", "expected an object, found array"},
      {"deep.json", "nested deeper than"},
      {"deep_value.json", "nested deeper than"},
      {"duplicate_key.json", "key \"hidden_size\" appears twice"},
      {"no_model_type.json", "model_type: expected deepseek_v2"},
      {"model_type_llama.json", "found \"llama\""},
      {"model_type_v32.json", "found \"deepseek_v32\""},
      {"model_type_number.json", "model_type: expected a string, found 3"},
      {"architectures_text.json", "architectures: expected a list of strings"},
      {"hidden_act.json", "hidden_act: expected silu, found \"gelu\""},
      {"attention_bias.json", "attention_bias: expected false, found true"},
      {"moe_layer_freq.json", "moe_layer_freq: expected 1, found 2"},
      {"scoring_func.json", "scoring_func: expected sigmoid or softmax, found \"sqrtsoftplus\""},
      {"scoring_func_softmax.json", "scoring_func: expected sigmoid, found \"softmax\""},
      {"topk_method.json", "topk_method: expected noaux_tc, found \"greedy\""},
      {"topk_method_v2.json", "topk_method: expected greedy or group_limited_greedy, found \"noaux_tc\""},
      {"v2_without_top_k.json", "num_experts_per_tok: expected an integer, found nothing"},
      {"rope_type.json", "type: expected default or yarn, found \"linear\""},
      {"rope_type_new_name.json", "rope_scaling.rope_type: expected default or yarn, found \"longrope\""},
      {"rope_no_type.json", "rope_scaling.rope_type: expected a type beside the factor"},
      {"rope_scaling_list.json", "rope_scaling: expected an object, found array"},
      {"rope_attention_factor.json", "rope_scaling.attention_factor: expected none"},
      {"rope_truncate.json", "rope_scaling.truncate: expected true, found false"},
      {"partial_rotary_factor.json", "partial_rotary_factor: expected 1, found 0.5"},
      {"yarn_factor.json", "rope_scaling.factor: expected a number of at least 1, found 0.5"},
      {"yarn_factor_text.json", "rope_scaling.factor: expected a number, found \"40\""},
      {"yarn_betas.json", "rope_scaling.beta_fast: expected a number not below beta_slow, found 1"},
      {"yarn_original_zero.json", "rope_scaling.original_max_position_embeddings: expected a value in [1, "},
      {"rope_theta.json", "rope_theta: expected a positive number, found -1"},
      {"rope_theta_huge.json", "rope_theta"},
      {"quant_method.json", "quantization_config.quant_method: expected fp8, found \"compressed-tensors\""},
      {"quant_fmt.json", "quantization_config.fmt: expected e4m3, found \"e5m2\""},
      {"quant_block.json", "quantization_config.weight_block_size: expected [128, 128], found array"},
      {"quant_no_block.json", "quantization_config.weight_block_size: expected [128, 128], found nothing"},
      {"quant_text.json", "quantization_config: expected an object, found \"fp8\""},
      {"vocab_text.json", "vocab_size: expected an integer, found \"320\""},
      {"vocab_fraction.json", "vocab_size: expected an integer, found 320.5"},
      {"vocab_huge.json", "vocab_size: expected an integer"},
      {"vocab_large.json", "vocab_size: expected a value in [1, 16777216], found 1099511627776"},
      {"hidden_zero.json", "hidden_size: expected a value in [1, 131072], found 0"},
      {"hidden_negative.json", "hidden_size: expected a value in [1, 131072], found -64"},
      {"layers_huge.json", "num_hidden_layers: expected a value in [1, 2048], found 1000000"},
      {"dense_layers.json", "first_k_dense_replace: expected a value in [0, 4], found 5"},
      {"rope_dim_odd.json", "qk_rope_head_dim: expected an even number, found 7"},
      {"heads.json", "num_key_value_heads: expected a divisor of num_attention_heads 4, found 3"},
      {"groups.json", "n_group: expected a divisor of n_routed_experts 16, found 5"},
      {"groups_of_one.json", "n_group: expected groups of at least 2 experts, found 16 groups of 16 experts"},
      {"topk_group.json", "topk_group: expected a value in [1, 4], found 5"},
      {"top_k.json", "num_experts_per_tok: expected at most the 8 experts of topk_group 2 groups, found 9"},
      {"top_k_zero.json", "num_experts_per_tok: expected a value in [1, 64], found 0"},
      {"eps.json", "rms_norm_eps: expected a number in [0, 1), found -1e-06"},
      {"norm_text.json", "norm_topk_prob: expected true or false, found \"true\""},
      {"eos.json", "eos_token_id: expected a value in [0, 319], found 320"},
      {"eos_text.json", "eos_token_id: expected token ids"},
      {"bos_negative.json", "bos_token_id: expected token ids, found -1"}};
  check_hostile("config", reasons,
                [](const std::filesystem::path& path) { (void)parse_config(read_text_file(path, 1 << 20), path.string()); });
}
