// Floor 4. Mixture of experts: route, sort tokens by expert, run all experts at once, combine with the shared expert.
#pragma once

#include <optional>
#include <vector>

#include "dsv3/core/tape.hpp"
#include "dsv3/kernels/permute.hpp"
#include "dsv3/modules/gated_ffn.hpp"
#include "dsv3/modules/router.hpp"

namespace dsv3::inline DSV3_ISA {

/// A block's sparse feed-forward part: forward(ctx, x, y, layer, tape), x, y [T, D], y overwritten.
template <class F>
concept FeedForward = std::constructible_from<F, const Config&> && HasTensors<F> &&
    requires(const F& f, Context& ctx, ConstMatrixView<float> x, MatrixView<float> y, NoTape tape) {
  f.forward(ctx, x, y, Index{}, tape);
};

/// y = sum over the chosen experts of gate * expert(x) + shared(x) (eq. 12, spec A15).
template <class P>
class Moe {
 public:
  using Expert = typename P::template ExpertFfn<P>;

  explicit Moe(const Config& c)
      : config_{c.n_routed_experts, c.num_experts_per_tok, c.n_group, c.topk_group, c.norm_topk_prob, c.routed_scaling_factor},
        gate_{c.n_routed_experts, c.hidden_size},
        experts_(static_cast<std::size_t>(c.n_routed_experts), Expert(c.hidden_size, c.moe_intermediate_size)) {
    require(config_.experts <= router::most_experts && config_.top_k <= router::most_choices, "Moe: at most ", router::most_choices, " of ",
            router::most_experts, " experts can be chosen, the config asks for ", config_.top_k, " of ", config_.experts);
    require(config_.groups <= router::most_groups, "Moe: at most ", router::most_groups,
            " groups of experts can be told apart, the config has ", config_.groups);
    if (c.scoring_func == router::Score::sigmoid) bias_.length = c.n_routed_experts;
    if (c.n_shared_experts > 0) shared_.emplace(c.hidden_size, c.moe_intermediate_size * c.n_shared_experts);
  }

  /// x [T, D] -> y [T, D], overwritten; y must not overlap x. Records "experts" and "weights".
  template <Tape T = NoTape>
  void forward(Context& ctx, ConstMatrixView<float> x, MatrixView<float> y, Index layer, T& tape) const {
    auto scope = ctx.scratch();
    auto experts = scope.matrix<int>(x.rows(), config_.top_k);
    auto weights = scope.matrix<float>(x.rows(), config_.top_k);
    route(ctx, x, experts, weights);
    if constexpr (T::enabled) {
      tape.record(layer, "experts", ConstMatrixView<int>(experts));
      tape.record(layer, "weights", ConstMatrixView<float>(weights));
    }

    const auto offsets = scope.array<Index>(config_.experts + 1);
    auto place = scope.matrix<int>(x.rows(), config_.top_k);
    auto sorted_x = scope.matrix<float>(experts.size(), x.cols());
    auto sorted_y = scope.matrix<float>(experts.size(), x.cols());
    kernels::sort_by_expert(experts, offsets, place);
    kernels::gather_rows(ctx, x, place, sorted_x);

    const auto jobs = scope.array<FfnJob<Expert>>(config_.experts + 1);
    std::size_t used = 0;
    for (std::size_t e = 0; e < experts_.size(); ++e)
      if (const Index begin = offsets[e], count = offsets[e + 1] - begin; count > 0)
        std::construct_at(&jobs[used++],
                          FfnJob<Expert>{&experts_[e], sorted_x.slice(begin, count), sorted_y.slice(begin, count), x.rows()});
    if (shared_)
      std::construct_at(&jobs[used++], FfnJob<Expert>{&*shared_, x, y, x.rows()});
    else
      y.setZero();
    Expert::forward_group(ctx, jobs.first(used));
    kernels::combine_rows<typename P::Arch>(ctx, sorted_y, place, weights, y);
  }

  template <class Self, class Visit>
  static void for_each_tensor(Self& self, const std::string& prefix, Visit&& visit) {
    visit(prefix + "gate.weight", self.gate_);
    if (self.bias_.length > 0) visit(prefix + "gate.e_score_correction_bias", self.bias_);
    for (std::size_t e = 0; e < self.experts_.size(); ++e)
      Expert::for_each_tensor(self.experts_[e], prefix + "experts." + std::to_string(e) + ".", visit);
    if (self.shared_) Expert::for_each_tensor(*self.shared_, prefix + "shared_experts.", visit);
  }

  const router::Config& router_config() const { return config_; }

 private:
  // Logits in float32 whatever the compute policy (spec A12).
  void route(Context& ctx, ConstMatrixView<float> x, MatrixView<int> experts, MatrixView<float> weights) const {
    auto scope = ctx.scratch();
    auto logits = scope.matrix<float>(x.rows(), config_.experts);
    kernels::linear<typename P::Arch>(ctx, x, gate_.view, logits);
    const std::span<const float> bias(bias_.values.data(), static_cast<std::size_t>(bias_.length));
    const typename P::Router router{};
    ctx.parallel_for(x.rows(), logits.size() * 16, [&](Index t, int) {
      const auto choice =
          router.route(config_, {logits.data() + t * logits.outerStride(), static_cast<std::size_t>(config_.experts)}, bias);
      require(choice.size == config_.top_k, "router: expected ", config_.top_k, " experts, it chose ", choice.size);
      for (Index k = 0; k < choice.size; ++k) {
        const int e = choice.experts[static_cast<std::size_t>(k)];
        require(e >= 0 && e < config_.experts, "router: chose expert ", e, " of ", config_.experts);
        experts(t, k) = e;
        weights(t, k) = choice.weights[static_cast<std::size_t>(k)];
      }
    });
  }

  router::Config config_;
  WeightMatrix<typename P::Storage> gate_;
  WeightVector bias_;
  std::vector<Expert> experts_;
  std::optional<Expert> shared_;
};

}  // namespace dsv3::inline DSV3_ISA
