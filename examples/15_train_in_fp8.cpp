// Training in FP8: one model by the report's recipe, and by a recipe that differs in two choices.
#include <cstdio>
#include <string>

#include "dsv3/dsv3.hpp"
#include "dsv3/model/init.hpp"
#include "dsv3/train/fp8.hpp"
#include "dsv3/train/trainer.hpp"

// [recipe]
// Gradients in e5m2, and products summed by an emulated tensor core with 14 bits that is promoted every 128 terms.
struct Recipe : dsv3::train::fp8::Recipe {
  using Gradient = dsv3::quant::Tiles<dsv3::codec::E5m2, dsv3::quant::Shape::along>;
  using Accumulator = dsv3::train::accumulator::TensorCore<13, 128>;
};
using MyTraining = dsv3::train::Fp8Training<dsv3::DeepSeekV3, Recipe>;
// [/recipe]

const std::string sentence =
    "she sells sea shells by the sea shore; the shells she sells are surely sea shells; so if she sells shells on the sea shore, ";

template <class Policy>
void learn(const char* name) {
  dsv3::Config c;
  c.vocab_size = 128, c.hidden_size = 128, c.intermediate_size = 128, c.moe_intermediate_size = 64;
  c.num_hidden_layers = 2, c.first_k_dense_replace = 1, c.num_nextn_predict_layers = 0;
  c.num_attention_heads = c.num_key_value_heads = 2, c.q_lora_rank.reset(), c.kv_lora_rank = 64;
  c.qk_nope_head_dim = 32, c.qk_rope_head_dim = 16, c.v_head_dim = 32;
  c.n_routed_experts = 4, c.num_experts_per_tok = 2, c.n_group = 1, c.topk_group = 1;
  c.max_position_embeddings = 128, c.rope_scaling.reset(), c.fp8 = false;
  dsv3::Model<Policy> model(c);
  init_normal(model, 1, 0.05);

  dsv3::train::TrainerOptions options;
  options.keep = dsv3::train::keep::report_fp8;                                 // SwiGLU's inputs in e4m3, attention's result as E5M6
  dsv3::train::Trainer<Policy, dsv3::codec::BFloat16> trainer(model, options);  // moments in bf16
  dsv3::Context ctx;
  const std::vector<int> ids(sentence.begin(), sentence.end());
  for (int step = 1; step <= 30; ++step) {
    const std::vector<dsv3::train::Sample> batch{{std::span(ids).first(64)}, {std::span(ids).last(64)}};
    const auto report = trainer.step(ctx, batch, {.learning_rate = 3e-3});
    if (step % 10 == 0) std::printf("%s, step %d: loss %.3f\n", name, step, report.losses.main);
  }
}

int main() {
  learn<dsv3::train::Fp8Training<dsv3::DeepSeekV3>>("the report's recipe");
  learn<MyTraining>("another recipe");
}
