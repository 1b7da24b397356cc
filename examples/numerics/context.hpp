// The context laboratory: a needle to be recalled, in texts 16 times as long as those that the model was trained on (section 4.3).
#pragma once

#include "dsv3/model/generate.hpp"
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
    const dsv3::train::Schedule warm({{50, 0, rate}});
    for (Index t = 0; t < steps; ++t) {
      Batch batch(rows, length);
      for (Index i = 0; i < rows; ++i) {
        Needles::write(draw, draw.uniform(), batch.row(i));
        batch.samples[static_cast<std::size_t>(i)].trained = trained;
      }
      trainer_->step(ctx_, batch.samples, {warm.at(static_cast<double>(t + 1)), {}, 0});
    }
  }
  struct Recall {
    double found = 0, nats = 0;  ///< share of values that are the most likely token; mean of -log p(value)
  };
  /// Asks for needles anywhere from `depth` to `depth` + `band`, as any program does that generates text. Every length and depth has texts
  /// of its own, the same for all models.
  Recall recall(Index length, double depth, double band, Index samples) {
    Draw draw(static_cast<std::uint64_t>(1000 * length + std::lround(100 * depth)));
    Recall sum;
    for (Index i = 0; i < samples; ++i) {
      std::vector<int> ids(static_cast<std::size_t>(length));
      const int value = Needles::write(draw, depth + band * draw.uniform(), ids);
      auto cache = model_.make_cache({length});
      const auto sampler = [&](std::span<const float> logits) {
        const Eigen::ArrayXd z = Eigen::Map<const Eigen::ArrayXf>(logits.data(), std::ssize(logits)).cast<double>();
        Index best;
        z.maxCoeff(&best);
        sum.nats += std::log1p((z - z[value]).exp().sum() - 1);
        return static_cast<int>(best);
      };
      dsv3::generate(
          ctx_, model_, cache, std::span<const int>(ids).first(ids.size() - 1), {.max_new_tokens = 1, .stop_tokens = std::vector<int>{}},
          [&](int id) { return sum.found += id == value, true; }, sampler);
    }
    return {sum.found / static_cast<double>(samples), sum.nats / static_cast<double>(samples)};
  }

 private:
  dsv3::Context& ctx_;
  dsv3::Model<P> model_;
  std::optional<dsv3::train::Trainer<P, dsv3::codec::BFloat16>> trainer_;
};

inline void context(const Setting& s) {
  const Index base = s.brief ? 16 : 64, samples = s.brief ? 2 : 16, bands = s.brief ? 2 : 10;
  const Index steps = s.brief ? 5 : 1000, longer = s.brief ? 2 : 60;
  std::vector<Index> lengths;
  for (Index n = base; n <= 16 * base; n *= 2) lengths.push_back(n);
  Table table{"Share of needles found by length of the text, mean over depths; -log p of the value in the longest text", {"model"}, {}};
  for (const Index n : lengths) table.columns.push_back(std::to_string(n));
  table.columns.push_back("nats");
  std::vector<std::vector<double>> map;
  std::vector<std::string> map_rows, map_columns;
  for (Index d = 0; d < bands; ++d) map_columns.push_back(std::to_string(100 * d / bands) + "-" + std::to_string(100 * (d + 1) / bands));
  const auto measure = [&](const std::string& name, Recaller& model, bool draws) {
    std::vector<nlohmann::json> row{name};
    double nats = 0;
    for (const Index n : lengths) {
      std::vector<double> found, nats_of_bands;
      for (Index d = 0; d < bands; ++d) {
        const double band = 1 / static_cast<double>(bands);
        const auto recall = model.recall(n, band * static_cast<double>(d), band, samples);
        found.push_back(recall.found), nats_of_bands.push_back(recall.nats);
      }
      row.push_back(mean(found));
      nats = mean(nats_of_bands);
      if (draws) map_rows.push_back((n == lengths[0] ? name + ", " : "") + std::to_string(n)), map.push_back(found);
    }
    row.push_back(nats);
    table.rows.push_back(row);
  };

  // The model's weights with YaRN by 16 in the report's reading of mscale, and with parts of it left out (spec A9).
  const auto by_16 = [&](const std::string& name, Recaller& trained, bool draws) {
    const auto with = [&](const char* reading, auto&& change) {
      dsv3::Config c = needle_model(base, 16);
      change(*c.rope_scaling);
      Recaller other(s.ctx, c);
      other.learn_from(trained);
      measure(reading[0] == 0 ? name : std::string("  ") + reading, other, draws && reading[0] == 0);
    };
    const double m = dsv3::rope::YarnScaling::mscale(16, 1);
    with("", [](auto&) {});
    with("no m^2 in the softmax", [](auto& y) { y.mscale = y.mscale_all_dim = 1e-9; });
    with("m in cos and sin instead", [](auto& y) { y.mscale = y.mscale_all_dim = 0; });
    with("m in cos and sin as well", [&](auto& y) { y.mscale = (m * m - 1) / (m - 1); });  // of which m(mscale_all_dim) leaves m
  };

  Draw draw(21);
  Recaller first(s.ctx, needle_model(base, 1));
  first.train(draw, steps, 32, base, 2e-3);
  measure("trained at " + std::to_string(base), first, true);
  by_16("YaRN by 16, not trained", first, false);
  Recaller second(s.ctx, needle_model(base, 4));
  second.learn_from(first);
  second.train(draw, longer, 16, 4 * base, 5e-4);
  measure("YaRN by 4, trained at " + std::to_string(4 * base), second, true);
  Recaller third(s.ctx, needle_model(base, 16));
  third.learn_from(second);
  third.train(draw, longer, 8, 16 * base, 5e-4);
  by_16("YaRN by 16, trained", third, true);
  Recaller unscaled(s.ctx, needle_model(base, 1));
  unscaled.learn_from(third);
  measure("the same weights, no YaRN", unscaled, false);
  s.results.write(table);
  s.results.plot(cli::heat_map("Needles found by length of the text and depth of the needle, in percent of the text", map_rows, map_columns,
                               map, 0, 1));
}

}  // namespace laboratory::inline DSV3_ISA
