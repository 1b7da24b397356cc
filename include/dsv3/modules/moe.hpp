// Floor 4. Mixture of experts in three steps: route the tokens, run the experts on sorted rows, combine their outputs.
#pragma once

#include <algorithm>
#include <limits>
#include <optional>
#include <vector>

#include "dsv3/kernels/permute.hpp"
#include "dsv3/modules/gated_ffn.hpp"
#include "dsv3/modules/router.hpp"

namespace dsv3::inline DSV3_ISA {

/// A block's sparse feed-forward part, made from (config, layer) or (config): forward(ctx, x, rows, y), x, y [T, D], y overwritten.
template <class F, class Config = dsv3::Config>
concept FeedForward = LayerPart<F, Config> && HasTensors<F> &&
    requires(const F& f, Context& ctx, ConstMatrixView<float> x, const Rows<>& rows, MatrixView<float> y) {
  f.forward(ctx, x, rows, y);
};

/// y = sum over the chosen experts of gate * expert(x) + shared(x) (eq. 12, spec A15).
template <class P>
class Moe {
 public:
  using Config = typename P::Config;
  using Expert = typename P::template ExpertFfn<P>;
  using Router = typename P::Router;

  Moe(const Config& c, Index layer)
      : config_{c.n_routed_experts, c.num_experts_per_tok, c.n_group, c.topk_group, c.norm_topk_prob, c.routed_scaling_factor},
        router_(make_router(c, layer)),
        gate_{c.n_routed_experts, c.hidden_size},
        experts_(static_cast<std::size_t>(c.n_routed_experts), make_ffn<Expert>(c, c.hidden_size, c.moe_intermediate_size)) {
    require(config_.experts <= router::max_experts && config_.top_k <= router::max_choices, "Moe: at most ", router::max_choices, " of ",
            router::max_experts, " experts can be chosen, the config asks for ", config_.top_k, " of ", config_.experts);
    require(config_.groups <= router::max_groups, "Moe: at most ", router::max_groups,
            " groups of experts can be told apart, the config has ", config_.groups);
    if (c.scoring_func == router::Score::sigmoid) bias_ = {c.n_routed_experts, {}, false};
    if (c.n_shared_experts > 0) shared_ = make_ffn<Expert>(c, c.hidden_size, c.moe_intermediate_size * c.n_shared_experts);
  }

  /// x [T, D] -> y [T, D], overwritten; y must not overlap x.
  template <class Cache, Tape T>
  void forward(Context& ctx, ConstMatrixView<float> x, const Rows<Cache, T>& rows, MatrixView<float> y) const {
    auto scope = ctx.scratch();
    auto experts = scope.matrix<int>(x.rows(), config_.top_k);
    auto gates = scope.matrix<float>(x.rows(), config_.top_k);
    route(ctx, x, rows, experts, gates);

    const auto offsets = scope.array<Index>(config_.experts + 1);
    auto places = scope.matrix<int>(x.rows(), config_.top_k);
    auto sorted_x = scope.matrix<float>(experts.size(), x.cols());
    auto sorted_y = scope.matrix<float>(experts.size(), x.cols());
    kernels::sort_by_expert(experts, offsets, places);
    kernels::gather_rows(ctx, x, places, sorted_x);
    record(rows, point::ExpertPlaces{}, places);
    record(rows, point::ExpertInputs{}, sorted_x);

    run(ctx, sorted_x, offsets, x, rows, sorted_y, y);
    record(rows, point::ExpertOutputs{}, sorted_y);
    kernels::combine_rows<typename P::Arch>(ctx, sorted_y, places, gates, y);
  }

  /// The experts [T, K] of each row of x [T, D], in the order of choice, and their gates [T, K] (eq. 13-16). Logits are formed in float32
  /// whatever the compute policy (spec A12).
  /// A row of x that is not finite gets NaN gates, so that its output is NaN as well.
  /// Throws: Error if a logit of a finite row is not finite, or the router gives another number of experts than K, or one that does not
  /// exist.
  template <class Cache, Tape T>
  void route(Context& ctx, ConstMatrixView<float> x, const Rows<Cache, T>& rows, MatrixView<int> experts, MatrixView<float> gates) const {
    auto scope = ctx.scratch();
    auto logits = scope.matrix<float>(x.rows(), config_.experts);
    kernels::linear<typename P::Arch>(ctx, x, gate(), logits);
    record(rows, point::RouterLogits{}, logits);
    const std::span<const float> bias(bias_.bound("Moe").data(), static_cast<std::size_t>(bias_.length));
    ctx.parallel_for(x.rows(), logits.size() * 16, [&](Index t, int) {
      const std::span<const float> row(logits.row_data(t), static_cast<std::size_t>(config_.experts));
      if (std::any_of(row.begin(), row.end(), [](float v) { return !std::isfinite(v); })) [[unlikely]] {
        require(!x.row(t).allFinite(), "Moe: layer ", rows.layer, ": a router logit of row ", t,
                " is not finite: NaN or infinite values in gate.weight?");
        for (Index k = 0; k < config_.top_k; ++k) {
          experts(t, k) = static_cast<int>(k);
          gates(t, k) = std::numeric_limits<float>::quiet_NaN();
        }
        return;
      }
      const auto choice = router::route(router_, config_, {rows.id(t), rows.position(t), rows.layer}, row, bias);
      require(choice.size == config_.top_k, "router: expected ", config_.top_k, " experts, it chose ", choice.size);
      for (Index k = 0; k < choice.size; ++k) {
        const int e = choice.experts[static_cast<std::size_t>(k)];
        require(e >= 0 && e < config_.experts, "router: chose expert ", e, " of ", config_.experts);
        experts(t, k) = e;
        gates(t, k) = choice.weights[static_cast<std::size_t>(k)];
      }
    });
    record(rows, point::Experts{}, experts);
    record(rows, point::Gates{}, gates);
  }

  /// Runs every expert e on rows [offsets[e], offsets[e + 1]) of sorted_x, into the same rows of sorted_y [rows, D], and the shared expert
  /// on x [T, D], into y [T, D] (0 without a shared expert). Both are overwritten. Experts may have no rows, and x may be empty.
  template <class Cache, Tape T>
  void run(Context& ctx, ConstMatrixView<float> sorted_x, std::span<const Index> offsets, ConstMatrixView<float> x,
           const Rows<Cache, T>& rows, MatrixView<float> sorted_y, MatrixView<float> y) const {
    auto scope = ctx.scratch();
    const auto jobs = scope.array<FfnJob<Expert>>(config_.experts + 1);
    const Index expected_rows = std::max(Index{1}, rows.rows * config_.top_k / config_.experts);
    std::size_t used = 0;
    for (std::size_t e = 0; e < experts_.size(); ++e)
      if (const Index begin = offsets[e], count = offsets[e + 1] - begin; count > 0)
        std::construct_at(&jobs[used++], FfnJob<Expert>{&experts_[e], sorted_x.slice(begin, count), sorted_y.slice(begin, count),
                                                        static_cast<Index>(e), expected_rows});
    if (shared_ && x.rows() > 0)
      std::construct_at(&jobs[used++], FfnJob<Expert>{&*shared_, x, y});
    else
      y.setZero();
    Expert::forward_group(ctx, jobs.first(used), rows);
  }

  template <class Self, class Visit>
  static void for_each_tensor(Self& self, const std::string& prefix, Visit&& visit) {
    visit(prefix + "gate.weight", self.gate_);
    if (self.bias_.length > 0) visit(prefix + "gate.e_score_correction_bias", self.bias_);
    if constexpr (HasTensors<Router>) Router::for_each_tensor(self.router_, prefix + "gate.", visit);
    for (std::size_t e = 0; e < self.experts_.size(); ++e)
      Expert::for_each_tensor(self.experts_[e], prefix + "experts." + std::to_string(e) + ".", visit);
    if (self.shared_) Expert::for_each_tensor(*self.shared_, prefix + "shared_experts.", visit);
  }

  const router::Config& router_config() const { return config_; }
  /// W_gate [E, D]. Throws: Error if it is not bound to memory.
  const typename P::Storage::View& gate() const { return gate_.bound("Moe"); }
  const Router& router() const { return router_; }
  const std::vector<Expert>& experts() const { return experts_; }
  const std::optional<Expert>& shared() const { return shared_; }

 private:
  static Router make_router(const Config& c, Index layer) {
    if constexpr (LayerPart<Router, Config>)
      return make_part<Router>(c, layer);
    else
      return Router{};
  }

  router::Config config_;
  Router router_;
  WeightMatrix<typename P::Storage> gate_;
  WeightVector bias_;
  std::vector<Expert> experts_;
  std::optional<Expert> shared_;
};

}  // namespace dsv3::inline DSV3_ISA
