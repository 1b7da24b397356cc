// What experiments in training share: kinds of text made by chance, a small model, and arithmetic that is chosen at run time.
#pragma once

#include <optional>

#include "dsv3/model/init.hpp"
#include "dsv3/train/evaluate.hpp"
#include "dsv3/train/fp8.hpp"
#include "dsv3/train/schedule.hpp"
#include "dsv3/train/trainer.hpp"
#include "laboratory.hpp"

namespace laboratory::inline DSV3_ISA {

/// Texts of several kinds over one vocabulary. The next token depends on the kind, the last token and a little of the one before; a kind's
/// tokens follow its own tables, so that a model must find out which kind it reads.
class Languages {
 public:
  static constexpr int vocabulary = 128, kinds = 4;

  explicit Languages(std::uint64_t seed = 1) {
    Draw draw(seed);
    for (int& next : successors_) next = static_cast<int>(draw.below(vocabulary));
  }
  /// A text of this kind.
  void write(Draw& draw, int kind, std::span<int> ids) const {
    constexpr double shares[] = {0.6, 0.85, 0.95, 1.0};
    int last = static_cast<int>(draw.below(vocabulary)), before = 0;
    for (int& id : ids) {
      const double dice = draw.uniform();
      const auto choice = static_cast<int>(std::lower_bound(std::begin(shares), std::end(shares), dice) - std::begin(shares));
      id = successors_[static_cast<std::size_t>(((kind * vocabulary + last) * 2 + before % 2) * 4 + std::min(choice, 3))];
      before = last, last = id;
    }
  }

 private:
  std::array<int, static_cast<std::size_t>(kinds* vocabulary * 2 * 4)> successors_;
};

/// Some samples, and their memory.
struct Batch {
  Matrix<int> ids;
  std::vector<dsv3::train::Sample> samples;

  Batch(Index rows, Index length) : ids(rows, length) {
    for (Index i = 0; i < rows; ++i) samples.push_back({{ids.row(i).data(), static_cast<std::size_t>(length)}});
  }
  std::span<int> row(Index i) { return {ids.row(i).data(), static_cast<std::size_t>(ids.cols())}; }
};

/// `rows` texts of all kinds by turns, or of one.
inline Batch texts(const Languages& languages, Draw& draw, Index rows, Index length, std::optional<int> kind = {}) {
  Batch batch(rows, length);
  for (Index i = 0; i < rows; ++i) languages.write(draw, kind.value_or(static_cast<int>(i) % Languages::kinds), batch.row(i));
  return batch;
}

/// A DeepSeek-V3 of 2.6 million parameters: one dense layer and two with 16 experts, of which a token takes 2.
inline dsv3::Config small_model() {
  dsv3::Config c;
  c.vocab_size = Languages::vocabulary, c.hidden_size = 256, c.intermediate_size = 384, c.moe_intermediate_size = 64;
  c.num_hidden_layers = 3, c.first_k_dense_replace = 1, c.num_nextn_predict_layers = 0, c.num_attention_heads = c.num_key_value_heads = 4;
  c.q_lora_rank.reset(), c.kv_lora_rank = 128, c.qk_nope_head_dim = 32, c.qk_rope_head_dim = 16, c.v_head_dim = 64;
  c.n_routed_experts = 16, c.num_experts_per_tok = 2, c.n_shared_experts = 1, c.n_group = c.topk_group = 1;
  c.max_position_embeddings = 1024, c.rope_scaling.reset(), c.fp8 = false;
  return c;
}

/// Arithmetic of a run.
enum class Arithmetic { bf16, fp8, e5m2_gradients, block_gradients, per_tensor, per_tensor_14_bits, per_tensor_promoted };

/// The compute policy that `arithmetic` names: one model type is compiled for all.
template <bool AfterAttention_ = false>
struct Chosen : dsv3::compute::Bf16Activations {
  using Precise = dsv3::train::Bf16;
  using AfterAttention = Chosen<true>;
  static inline Arithmetic arithmetic = Arithmetic::bf16;

  template <class Arch, dsv3::WeightView W>
  static void multiply(dsv3::Context& ctx, std::span<const dsv3::kernels::Product<W>> group) {
    with([&]<class C>(C) { C::template multiply<Arch>(ctx, group); });
  }
  template <class Arch>
  static void input_gradients(dsv3::Context& ctx, std::span<const dsv3::train::MultiplyAdd> group) {
    with([&]<class C>(C) {
      if constexpr (std::is_same_v<C, Precise>)
        C::template multiply_add<Arch>(ctx, group);
      else
        C::template input_gradients<Arch>(ctx, group);
    });
  }
  template <class Arch>
  static void weight_gradients(dsv3::Context& ctx, std::span<const dsv3::train::MultiplyAdd> group) {
    with([&]<class C>(C) {
      if constexpr (std::is_same_v<C, Precise>)
        C::template multiply_add<Arch>(ctx, group);
      else
        C::template weight_gradients<Arch>(ctx, group);
    });
  }

 private:
  struct PerTensor14 : dsv3::train::fp8::PerTensor {
    using Accumulator = dsv3::train::accumulator::TensorCore<13, 0>;
  };
  struct PerTensorPromoted : dsv3::train::fp8::PerTensor {
    using Accumulator = dsv3::train::accumulator::TensorCore<13, 128>;
  };
  template <class F>
  static void with(F&& f) {
    namespace fp8 = dsv3::train::fp8;
    const auto recipe = [&]<class R>(R) {
      if constexpr (AfterAttention_)
        f(typename dsv3::train::Fp8<R>::AfterAttention{});
      else
        f(dsv3::train::Fp8<R>{});
    };
    switch (Chosen<>::arithmetic) {
      case Arithmetic::bf16:
        return f(Precise{});
      case Arithmetic::fp8:
        return recipe(fp8::Recipe{});
      case Arithmetic::e5m2_gradients:
        return recipe(fp8::E5m2Gradients{});
      case Arithmetic::block_gradients:
        return recipe(fp8::BlockGradients{});
      case Arithmetic::per_tensor:
        return recipe(fp8::PerTensor{});
      case Arithmetic::per_tensor_14_bits:
        return recipe(PerTensor14{});
      case Arithmetic::per_tensor_promoted:
        return recipe(PerTensorPromoted{});
    }
  }
};
struct ChosenTraining : dsv3::DeepSeekV3 {
  using Compute = Chosen<>;
};
using FloatTraining = dsv3::train::Training<>;

/// A model that learns texts of all kinds, 8 x 64 tokens a step.
template <class P>
class Learner {
 public:
  static constexpr Index rows = 8, length = 64;

  Learner(dsv3::Context& ctx, std::uint64_t seed) : ctx_(ctx), model_(small_model()), order_(1000 + seed) {
    init_normal(model_, seed, 0.02);
    trainer_.emplace(model_, dsv3::train::TrainerOptions{});
  }
  dsv3::train::StepReport step(const dsv3::train::StepSettings& settings) {
    const Batch batch = texts(languages_, order_, rows, length);
    return trainer_->step(ctx_, batch.samples, settings);
  }
  /// The loss on texts that are not learned.
  double loss(Index samples) {
    Draw draw(99);
    const Batch batch = texts(languages_, draw, samples, length);
    return dsv3::train::evaluate(ctx_, model_, batch.samples);
  }
  /// Tokens that each expert of each layer gets of texts of one kind.
  Matrix<Index> loads(int kind, Index samples) {
    Draw draw(98);
    const Batch batch = texts(languages_, draw, samples, length, kind);
    dsv3::train::StepReport report;
    trainer_->gradients_of(ctx_, batch.samples, {}, report);
    return report.loads;
  }

 private:
  dsv3::Context& ctx_;
  Languages languages_;
  dsv3::Model<P> model_;
  Draw order_;
  std::optional<dsv3::train::Trainer<P, dsv3::codec::BFloat16>> trainer_;
};

/// Warm-up of a twentieth, then a cosine to a tenth.
inline dsv3::train::Schedule learning_rate(Index steps) {
  const auto n = static_cast<double>(steps);
  return dsv3::train::warmup_cosine(2e-3, 2e-4, 0.05 * n, 0, 0.95 * n);
}

}  // namespace laboratory::inline DSV3_ISA
