// Another attention in the same model: grouped-query attention with its own cache, in a small model with fresh weights.
#include <cstdio>

#include "dsv3/dsv3.hpp"

struct GqaModel : dsv3::DeepSeekV3 {
  template <class P>
  using Attention = dsv3::Gqa<P>;
};
static_assert(dsv3::ModelPolicy<GqaModel>);

int main() {
  dsv3::Config c;
  c.vocab_size = 512;
  c.hidden_size = 128;
  c.intermediate_size = 256;
  c.moe_intermediate_size = 64;
  c.num_hidden_layers = 4;
  c.first_k_dense_replace = 1;
  c.num_nextn_predict_layers = 0;
  c.num_attention_heads = 8;
  c.num_key_value_heads = 2;  // four query heads share a key head
  c.qk_nope_head_dim = 16;
  c.qk_rope_head_dim = 16;
  c.v_head_dim = 32;
  c.n_routed_experts = 16;
  c.n_group = 4;
  c.topk_group = 2;
  c.num_experts_per_tok = 4;

  dsv3::Model<GqaModel> model(c);
  dsv3::init_normal(model, /*seed=*/1, /*deviation=*/0.05);
  std::printf("%td parameters\n", count_parameters(model).total);

  dsv3::Context ctx;
  auto cache = model.make_cache({.max_tokens = 64});
  const std::vector<int> prompt = {1, 2, 3, 4, 5};
  dsv3::generate(ctx, model, cache, prompt, {.max_new_tokens = 16, .stop_tokens = std::vector<int>{}},
                 [](int id) { return std::printf("%d ", id) > 0; });
  std::printf("\n%td tokens in the cache\n", cache.size());
}
