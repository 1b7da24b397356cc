#include "dsv3/core/validate.hpp"

#include <doctest/doctest.h>

#include <functional>
#include <limits>
#include <string>

using namespace dsv3;

namespace {

/// What validate() says about V3's configuration after `change`; empty if nothing.
std::string complaint(const std::function<void(Config&)>& change) {
  Config config;
  change(config);
  try {
    validate(config, "here");
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

}  // namespace

TEST_CASE("DeepSeek-V3 is valid") {
  CHECK(complaint([](Config&) {}).empty());
}

TEST_CASE("odd but sound configurations are valid") {
  CHECK(complaint([](Config& c) { c.q_lora_rank.reset(); }).empty());
  CHECK(complaint([](Config& c) { c.first_k_dense_replace = c.num_hidden_layers; }).empty());
  CHECK(complaint([](Config& c) { c.first_k_dense_replace = 0; }).empty());
  CHECK(complaint([](Config& c) { c.n_shared_experts = 0; }).empty());
  CHECK(complaint([](Config& c) { c.bos_token_id.reset(), c.eos_token_id.clear(); }).empty());
  CHECK(complaint([](Config& c) { c.rope_scaling->beta_fast = c.rope_scaling->beta_slow = 1; }).empty());  // Kimi-K2
  CHECK(complaint([](Config& c) { c.num_key_value_heads = 1; }).empty());
  CHECK(complaint([](Config& c) { c.n_routed_experts = c.n_group = c.topk_group = c.num_experts_per_tok = 1; }).empty());
  CHECK(complaint([](Config& c) {
          c.scoring_func = router::Score::softmax;  // groups of one are ranked by their maximum
          c.n_group = c.topk_group = c.n_routed_experts;
        }).empty());
}

TEST_CASE("a complaint names place, field, expectation and value") {
  CHECK(complaint([](Config& c) { c.hidden_size = 0; }) == "here: hidden_size: expected a value in [1, 131072], found 0");
  CHECK(complaint([](Config& c) { c.n_group = 7; }) == "here: n_group: expected a divisor of n_routed_experts 256, found 7");
  CHECK(complaint([](Config& c) { c.n_group = 256, c.topk_group = 256; }) ==
        "here: n_group: expected groups of at least 2 experts, found 256 groups of 256 experts");
  CHECK(complaint([](Config& c) { c.topk_group = 1, c.num_experts_per_tok = 33; }) ==
        "here: num_experts_per_tok: expected at most the 32 experts of topk_group 1 groups, found 33");
  CHECK(complaint([](Config& c) { c.eos_token_id = {1, 129280}; }) == "here: eos_token_id: expected a value in [0, 129279], found 129280");
}

TEST_CASE("each size has limits") {
  const std::pair<const char*, Index Config::*> sizes[] = {{"vocab_size", &Config::vocab_size},
                                                           {"hidden_size", &Config::hidden_size},
                                                           {"intermediate_size", &Config::intermediate_size},
                                                           {"moe_intermediate_size", &Config::moe_intermediate_size},
                                                           {"num_hidden_layers", &Config::num_hidden_layers},
                                                           {"first_k_dense_replace", &Config::first_k_dense_replace},
                                                           {"num_nextn_predict_layers", &Config::num_nextn_predict_layers},
                                                           {"num_attention_heads", &Config::num_attention_heads},
                                                           {"num_key_value_heads", &Config::num_key_value_heads},
                                                           {"kv_lora_rank", &Config::kv_lora_rank},
                                                           {"qk_nope_head_dim", &Config::qk_nope_head_dim},
                                                           {"qk_rope_head_dim", &Config::qk_rope_head_dim},
                                                           {"v_head_dim", &Config::v_head_dim},
                                                           {"n_routed_experts", &Config::n_routed_experts},
                                                           {"n_shared_experts", &Config::n_shared_experts},
                                                           {"num_experts_per_tok", &Config::num_experts_per_tok},
                                                           {"n_group", &Config::n_group},
                                                           {"topk_group", &Config::topk_group},
                                                           {"max_position_embeddings", &Config::max_position_embeddings}};
  for (const auto& size : sizes) {
    const char* const name = size.first;
    CAPTURE(name);
    for (const Index value : {Index{-1}, std::numeric_limits<Index>::min(), std::numeric_limits<Index>::max(), Index{1} << 32}) {
      CHECK(complaint([&](Config& c) { c.*size.second = value; }).starts_with(std::string("here: ") + name + ": expected"));
    }
  }
  CHECK_FALSE(complaint([](Config& c) { c.q_lora_rank = 0; }).empty());
  CHECK_FALSE(complaint([](Config& c) { c.qk_rope_head_dim = 63; }).empty());
  CHECK_FALSE(complaint([](Config& c) { c.num_key_value_heads = 3; }).empty());
  CHECK_FALSE(complaint([](Config& c) { c.bos_token_id = -1; }).empty());
}

TEST_CASE("each real number has limits and must be finite") {
  const auto check = [](const char* name, const std::function<double&(Config&)>& field, double bad) {
    CAPTURE(name);
    for (const double value : {bad, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
      CHECK(complaint([&](Config& c) { field(c) = value; }).find(name) != std::string::npos);
    }
  };
  check(
      "routed_scaling_factor", [](Config& c) -> double& { return c.routed_scaling_factor; }, 0);
  check(
      "rms_norm_eps", [](Config& c) -> double& { return c.rms_norm_eps; }, -1e-6);
  check(
      "inner_norm_eps", [](Config& c) -> double& { return c.inner_norm_eps; }, 1);
  check(
      "rope_theta", [](Config& c) -> double& { return c.rope_theta; }, 0);
  check(
      "rope_theta", [](Config& c) -> double& { return c.rope_theta; }, 1);
  check(
      "rope_scaling.factor", [](Config& c) -> double& { return c.rope_scaling->factor; }, 0.99);
  check(
      "rope_scaling.beta_slow", [](Config& c) -> double& { return c.rope_scaling->beta_slow; }, 0);
  check(
      "rope_scaling.beta_fast", [](Config& c) -> double& { return c.rope_scaling->beta_fast; }, 0.5);
  check(
      "rope_scaling.mscale", [](Config& c) -> double& { return c.rope_scaling->mscale; }, -1);
  check(
      "rope_scaling.mscale_all_dim", [](Config& c) -> double& { return c.rope_scaling->mscale_all_dim; }, -1);
}
