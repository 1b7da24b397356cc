// Training a model from nothing: 200 steps on a short poem, after which it knows it by heart.
#include <cstdio>
#include <string>

#include "dsv3/dsv3.hpp"
#include "dsv3/model/init.hpp"
#include "dsv3/train/compute.hpp"
#include "dsv3/train/trainer.hpp"

const std::string poem =
    "Tyger Tyger, burning bright,\nIn the forests of the night;\nWhat immortal hand or eye,\nCould frame thy fearful symmetry?\n\n"
    "In what distant deeps or skies,\nBurnt the fire of thine eyes?\nOn what wings dare he aspire?\nWhat the hand, dare seize the fire?\n";

int main() {
  // A DeepSeek-V3 in small: latent attention, one dense layer and two of 8 experts, and an MTP module. A token is a byte.
  dsv3::Config c;
  c.vocab_size = 128, c.hidden_size = 64, c.intermediate_size = 128, c.moe_intermediate_size = 32;
  c.num_hidden_layers = 3, c.first_k_dense_replace = 1, c.num_nextn_predict_layers = 1;
  c.num_attention_heads = c.num_key_value_heads = 4, c.q_lora_rank = 32, c.kv_lora_rank = 32;
  c.qk_nope_head_dim = 16, c.qk_rope_head_dim = 8, c.v_head_dim = 16;
  c.n_routed_experts = 8, c.num_experts_per_tok = 2, c.n_group = 2, c.topk_group = 1;
  c.max_position_embeddings = 256, c.rope_scaling.reset(), c.fp8 = false;

  using Policy = dsv3::train::Training<dsv3::DeepSeekV3>;
  dsv3::Model<Policy> model(c);
  init_normal(model, 1, 0.05);
  dsv3::train::Trainer<Policy> trainer(model, {});
  dsv3::Context ctx;

  const std::vector<int> ids(poem.begin(), poem.end());
  for (int step = 1; step <= 200; ++step) {
    std::vector<dsv3::train::Sample> batch;  // four pieces of 64 bytes, somewhere else in every step
    for (std::size_t i = 0; i < 4; ++i)
      batch.push_back({std::span(ids).subspan((static_cast<std::size_t>(step) * 37 + i * 50) % (ids.size() - 64), 64)});
    dsv3::train::StepSettings settings;
    settings.learning_rate = 3e-3 * std::min(1.0, step / 20.0);
    settings.objective = {.mtp_weight = 0.3, .balance_weight = 1e-4};
    const auto report = trainer.step(ctx, batch, settings);
    if (step % 40 == 0 || step == 1)
      std::printf("step %3d: loss %.3f, one token further %.3f\n", step, report.losses.main, report.losses.mtp[0]);
  }

  auto cache = model.make_cache({.max_tokens = 256});
  const std::string start = "Tyger Tyger, ";
  std::printf("%s", start.c_str());
  dsv3::generate(ctx, model, cache, std::vector<int>(start.begin(), start.end()), {.max_new_tokens = 90},
                 [](int id) { return std::putchar(id) != EOF; });
  std::puts("");
}
