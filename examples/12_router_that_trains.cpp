// A router of one's own that trains: gates are a softmax over the chosen logits, as in other mixtures of experts.
//
// It runs with route() alone; route_backward() beside it makes it train. Without that, a Trainer does not compile and says why.
#include <cstdio>

#include "dsv3/dsv3.hpp"
#include "dsv3/model/init.hpp"
#include "dsv3/train/trainer.hpp"

namespace mine {

struct SoftmaxOfChosen {
  dsv3::router::Choice route(const dsv3::router::Config& c, std::span<const float> logits, std::span<const float> bias) const {
    auto choice = dsv3::router::SigmoidTopK{}.route(c, logits, bias);  // the choice of DeepSeek-V3, balanced by its bias
    float sum = 0;
    for (dsv3::Index k = 0; k < choice.size; ++k) sum += choice.weights[at(k)] = std::exp(logits[at(choice.experts[at(k)])]);
    for (dsv3::Index k = 0; k < choice.size; ++k) choice.weights[at(k)] *= static_cast<float>(c.scale) / sum;
    return choice;
  }
  static std::size_t at(dsv3::Index i) { return static_cast<std::size_t>(i); }
};

/// g = c softmax(z): dz_j = g_j (dg_j - sum_i g_i dg_i / c). What is not chosen has no gradient.
void route_backward(const SoftmaxOfChosen&, const dsv3::router::Config& c, std::span<const float> logits, std::span<const int> experts,
                    std::span<const float> dgates, std::span<float> dlogits) {
  std::vector<float> p(experts.size());
  float sum = 0, mean = 0;
  for (std::size_t k = 0; k < p.size(); ++k) sum += p[k] = std::exp(logits[static_cast<std::size_t>(experts[k])]);
  for (std::size_t k = 0; k < p.size(); ++k) mean += (p[k] /= sum) * dgates[k];
  for (std::size_t k = 0; k < p.size(); ++k)
    dlogits[static_cast<std::size_t>(experts[k])] += static_cast<float>(c.scale) * p[k] * (dgates[k] - mean);
}

struct Bundle : dsv3::DeepSeekV3 {
  using Router = SoftmaxOfChosen;
};

}  // namespace mine

int main() {
  dsv3::Config c;
  c.vocab_size = 64, c.hidden_size = 32, c.intermediate_size = 64, c.moe_intermediate_size = 16, c.num_hidden_layers = 2,
  c.first_k_dense_replace = 1;
  c.num_nextn_predict_layers = 0, c.num_attention_heads = c.num_key_value_heads = 2, c.q_lora_rank.reset(), c.kv_lora_rank = 16;
  c.qk_nope_head_dim = 8, c.qk_rope_head_dim = 8, c.v_head_dim = 8, c.n_routed_experts = 8, c.num_experts_per_tok = 2,
  c.n_group = c.topk_group = 1;
  c.max_position_embeddings = 64, c.rope_scaling.reset(), c.fp8 = false;
  dsv3::Model<mine::Bundle> model(c);
  init_normal(model, 3, 0.05);
  dsv3::train::Trainer<mine::Bundle> trainer(model, {});
  dsv3::Context ctx;

  std::vector<int> ids(48);  // a rule to be learned: every id follows from the one before
  for (std::size_t i = 1; i < ids.size(); ++i) ids[i] = (ids[i - 1] * 5 + 3) % 64;
  const dsv3::train::Sample sample{ids};
  double first = 0, last = 0;
  for (int step = 0; step < 60; ++step) {
    const auto report = trainer.step(ctx, {&sample, 1}, {.learning_rate = 5e-3, .bias_speed = 1e-3});
    (step == 0 ? first : last) = report.losses.main;
  }
  std::printf("loss %.2f before, %.2f after 60 steps\n%s\n", first, last, last < 0.2 * first ? "the router trains" : "it does not learn");
}
