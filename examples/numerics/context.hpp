// The context laboratory: a needle to be recalled, in texts 16 times as long as those that the model was trained on (section 4.3).
#pragma once

#include "learner.hpp"

namespace laboratory::inline DSV3_ISA {

/// Texts of chance tokens with a mark and a value somewhere; the text ends with the mark, and the value is what follows.
class Needles {
 public:
  static constexpr int vocabulary = 64, mark = 0, values = 16;  // a value is one of [1, values]

  /// The value stands `depth` of the way through, 0 to 1.
  static int write(Draw& draw, double depth, std::span<int> ids) {
    for (int& id : ids) id = 1 + values + static_cast<int>(draw.below(vocabulary - 1 - values));
    const auto n = std::ssize(ids);
    const auto at = static_cast<std::size_t>(std::lround(depth * static_cast<double>(n - 4)));
    const int value = 1 + static_cast<int>(draw.below(values));
    ids[at] = mark, ids[at + 1] = value;
    ids[static_cast<std::size_t>(n) - 2] = mark, ids[static_cast<std::size_t>(n) - 1] = value;
    return value;
  }
};

inline dsv3::Config needle_model(Index context, double factor) {
  dsv3::Config c;
  c.vocab_size = Needles::vocabulary, c.hidden_size = 64, c.intermediate_size = 128, c.moe_intermediate_size = 32;
  c.num_hidden_layers = c.first_k_dense_replace = 2, c.num_nextn_predict_layers = 0, c.num_attention_heads = c.num_key_value_heads = 4;
  c.q_lora_rank.reset(), c.kv_lora_rank = 32, c.qk_nope_head_dim = 16, c.qk_rope_head_dim = 16, c.v_head_dim = 16;
  c.n_routed_experts = 4, c.num_experts_per_tok = 1, c.n_group = c.topk_group = 1, c.fp8 = false;
  c.rope_theta = 1000;  // so that the slowest pairs do not come round within the longest text, as with the report's 10000 and 4096
  c.max_position_embeddings = 2048;
  c.rope_scaling.reset();
  if (factor > 1) c.rope_scaling = dsv3::rope::Yarn{factor, context, 32, 1, 1, 1};
  return c;
}

/// A model at one setting of YaRN.
class Recaller {
 public:
  using P = dsv3::train::Training<>;

  Recaller(dsv3::Context& ctx, const dsv3::Config& config) : ctx_(ctx), model_(config) {
    init_normal(model_, 1, 0.02);
    dsv3::train::TrainerOptions options;
    options.adamw.weight_decay = 0.01;
    trainer_.emplace(model_, options);
  }
  /// Takes over the weights of another setting.
  void learn_from(Recaller& other) {
    trainer_->parameters().values() = other.trainer_->parameters().values();
    trainer_->parameters().refresh();
  }
  void train(Draw& draw, Index steps, Index rows, Index length, double rate) {
    std::vector<std::uint8_t> trained(static_cast<std::size_t>(length));
    trained.back() = 1;
    for (Index t = 0; t < steps; ++t) {
      Batch batch(rows, length);
      for (Index i = 0; i < rows; ++i) {
        Needles::write(draw, draw.uniform(), batch.row(i));
        batch.samples[static_cast<std::size_t>(i)].trained = trained;
      }
      const double warm = std::min(1.0, static_cast<double>(t + 1) / 50);
      trainer_->step(ctx_, batch.samples, {rate * warm, {}, 0});
    }
  }
  /// Share of needles found.
  double recall(Index length, double depth, Index samples) {
    Draw draw(7);
    Index found = 0;
    for (Index i = 0; i < samples; ++i) {
      std::vector<int> ids(static_cast<std::size_t>(length));
      const int value = Needles::write(draw, depth, ids);
      const std::span<const int> text(ids.data(), ids.size() - 1);
      Matrix<float> h(std::ssize(text), model_.width()), logits(1, Needles::vocabulary);
      dsv3::NoTape none;
      model_.forward_texts(ctx_, {&text, 1}, dsv3::view(h), none);
      model_.logits(ctx_, dsv3::view(h).slice(h.rows() - 1, 1), dsv3::view(logits));
      Index best;
      logits.row(0).maxCoeff(&best);
      found += best == value;
    }
    return static_cast<double>(found) / static_cast<double>(samples);
  }

 private:
  dsv3::Context& ctx_;
  dsv3::Model<P> model_;
  std::optional<dsv3::train::Trainer<P, dsv3::codec::BFloat16>> trainer_;
};

inline void context(const Setting& s) {
  const Index base = s.brief ? 16 : 64, samples = s.brief ? 4 : 24;
  const Index steps = s.brief ? 5 : 1000, longer = s.brief ? 2 : 60;
  std::vector<Index> lengths;
  for (Index n = base; n <= 16 * base; n *= 2) lengths.push_back(n);
  std::vector<double> depths;
  for (int d = 0; d <= (s.brief ? 2 : 8); ++d) depths.push_back(d / (s.brief ? 2.0 : 8.0));
  Table table{"Share of needles found by length of the text: mean over depths", {"model"}, {}};
  for (const Index n : lengths) table.columns.push_back(std::to_string(n));
  std::vector<std::vector<double>> map;
  std::vector<std::string> map_rows, map_columns;
  for (const double d : depths) map_columns.push_back(std::to_string(std::lround(100 * d)) + "%");
  const auto measure = [&](const std::string& name, Recaller& model, bool draws) {
    std::vector<nlohmann::json> row{name};
    for (const Index n : lengths) {
      std::vector<double> found;
      for (const double d : depths) found.push_back(model.recall(n, d, samples));
      row.push_back(mean(found));
      if (draws) map_rows.push_back((n == lengths[0] ? name + ", " : "") + std::to_string(n)), map.push_back(found);
    }
    table.rows.push_back(row);
  };

  Draw draw(21);
  Recaller first(s.ctx, needle_model(base, 1));
  first.train(draw, steps, 32, base, 2e-3);
  measure("trained at " + std::to_string(base), first, true);
  Recaller untrained(s.ctx, needle_model(base, 16));
  untrained.learn_from(first);
  measure("YaRN by 16, not trained", untrained, false);
  Recaller second(s.ctx, needle_model(base, 4));
  second.learn_from(first);
  second.train(draw, longer, 16, 4 * base, 5e-4);
  measure("YaRN by 4, trained at " + std::to_string(4 * base), second, false);
  Recaller third(s.ctx, needle_model(base, 16));
  third.learn_from(second);
  third.train(draw, longer, 8, 16 * base, 5e-4);
  measure("YaRN by 16, trained", third, true);
  // The same weights with each reading of mscale left out (spec A9).
  const auto without = [&](const char* name, auto&& change) {
    dsv3::Config c = needle_model(base, 16);
    change(*c.rope_scaling);
    Recaller other(s.ctx, c);
    other.learn_from(third);
    measure(name, other, false);
  };
  without("the same, no m^2 in the softmax, m in cos and sin", [](auto& y) { y.mscale = y.mscale_all_dim = 0; });
  without("the same, m^2 in the softmax, m in cos and sin too", [](auto& y) { y.mscale = 2; });
  without("the same, no YaRN", [](auto& y) { y.factor = 1; });
  s.results.write(table);
  s.results.plot(cli::heat_map("Needles found by length of the text and depth of the needle", map_rows, map_columns, map, 0, 1));
}

}  // namespace laboratory::inline DSV3_ISA
