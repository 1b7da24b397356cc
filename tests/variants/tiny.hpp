// A tiny model with fresh weights, for variants of it.
#pragma once

#include <doctest/doctest.h>

#include "dsv3/dsv3.hpp"
#include "dsv3/generate/complete.hpp"
#include "dsv3/generate/scheduler.hpp"
#include "support/oracle.hpp"

namespace test {

template <class C = dsv3::Config>
C tiny_config() {
  C c;
  c.vocab_size = 64;
  c.hidden_size = 32;
  c.intermediate_size = 48;
  c.moe_intermediate_size = 16;
  c.num_hidden_layers = 3;
  c.first_k_dense_replace = 1;
  c.num_nextn_predict_layers = 0;
  c.num_attention_heads = c.num_key_value_heads = 4;
  c.q_lora_rank = 24;
  c.kv_lora_rank = 16;
  c.qk_nope_head_dim = 8;
  c.qk_rope_head_dim = 4;
  c.v_head_dim = 8;
  c.n_routed_experts = 8;
  c.num_experts_per_tok = 2;
  c.n_group = c.topk_group = 1;
  c.rope_scaling.reset();
  c.fp8 = false;
  c.eos_token_id = {63};
  return c;
}

/// The same bundle on float32 weights alone, which compiles sooner.
template <class P>
struct InFloat32 : P {
  using Storage = dsv3::F32;
};

template <class P>
dsv3::Model<P> tiny_model(const typename P::Config& c = tiny_config<typename P::Config>()) {
  dsv3::Model<P> model(c);
  dsv3::init_normal(model, 1, 0.2);
  return model;
}

/// States [T, W] of `ids`, in passes of at most `chunk` tokens.
template <class P>
dsv3::Matrix<float> states(const dsv3::Model<P>& model, const std::vector<int>& ids, dsv3::Index chunk = 1000) {
  dsv3::Context ctx;
  auto cache = model.make_cache({.max_tokens = static_cast<dsv3::Index>(ids.size())});
  dsv3::Matrix<float> h(static_cast<dsv3::Index>(ids.size()), model.width());
  for (dsv3::Index t = 0; t < h.rows(); t += chunk) {
    const dsv3::Index n = std::min(chunk, h.rows() - t);
    const typename dsv3::Model<P>::Sequence s{std::span(ids).subspan(static_cast<std::size_t>(t), static_cast<std::size_t>(n)), &cache};
    model.forward(ctx, {&s, 1}, dsv3::view(h).slice(t, n));
  }
  return h;
}

/// generate(), complete() and the scheduler, which computes two prompts together, give the same greedy text.
template <dsv3::LanguageModel M>
void check_generation(const M& model, const std::vector<int>& prompt, dsv3::Index count = 8) {
  dsv3::Context ctx;
  std::vector<int> generated, completed, scheduled;
  auto cache = model.make_cache({.max_tokens = 64});
  const auto to = [](std::vector<int>& out) {
    return [&out](const dsv3::Token& token) {
      out.push_back(token.id);
      return true;
    };
  };
  dsv3::generate(ctx, model, cache, prompt, {.max_new_tokens = count, .stop_tokens = std::vector<int>{}}, [&](int id) {
    generated.push_back(id);
    return true;
  });
  const auto request = [&](std::vector<int> ids) {
    dsv3::Request r;
    r.prompt = std::move(ids);
    r.max_new_tokens = count;
    r.stop_tokens = std::vector<int>{};
    return r;
  };
  dsv3::CachedText text{model.make_cache({.max_tokens = 64})};
  dsv3::complete(ctx, model, text, request(prompt), {}, to(completed));
  dsv3::Scheduler scheduler(model, {.max_tokens = 64, .cache_tokens = 256});
  CHECK(scheduler.submit(request({prompt.rbegin(), prompt.rend()}), {}));
  CHECK(scheduler.submit(request(prompt), to(scheduled)));
  while (scheduler.step(ctx)) {
  }
  CHECK(static_cast<dsv3::Index>(generated.size()) == count);
  CHECK(completed == generated);
  CHECK(scheduled == generated);
}

}  // namespace test
