// Floor 4. Routers: which experts a token goes to, and with what weight. They work on one row of logits.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <span>

#include "dsv3/kernels/softmax.hpp"
#include "dsv3/kernels/top_k.hpp"

namespace dsv3::inline DSV3_ISA::router {

/// The experts of one token in the order of choice, and their gate weights. Experts are distinct.
struct [[nodiscard]] Choice {
  Index size = 0;
  std::array<int, max_choices> experts;
  std::array<float, max_choices> weights;
};

/// What a router may ask of its token besides the logits. -1: unknown to the caller.
struct TokenInfo {
  int id = -1;          ///< of the vocabulary
  Index position = -1;  ///< in its sequence, from 0
  Index layer = -1;
};

/// A router that needs only logits [E] and bias ([E] or empty), like all routers of this library.
template <class R>
concept RoutesScores = requires(const R& r, const Config& config, std::span<const float> logits, std::span<const float> bias) {
  { r.route(config, logits, bias) } -> std::same_as<Choice>;
};
/// A router that needs the token too.
template <class R>
concept RoutesTokens = requires(const R& r, const Config& config, const TokenInfo& token, std::span<const float> logits,
                                std::span<const float> bias) {
  { r.route(config, token, logits, bias) } -> std::same_as<Choice>;
};
/// route(config, [token,] logits, bias) -> Choice of config.top_k experts. It may not depend on anything else.
template <class R>
concept Router = RoutesScores<R> || RoutesTokens<R>;

/// Calls a router of either kind.
template <Router R>
Choice route(const R& router, const Config& config, const TokenInfo& token, std::span<const float> logits, std::span<const float> bias) {
  if constexpr (RoutesTokens<R>)
    return router.route(config, token, logits, bias);
  else
    return router.route(config, logits, bias);
}

/// s = sigmoid(logit) (eq. 15).
struct Sigmoid {
  static constexpr Score kind = Score::sigmoid;
  static void scores(std::span<const float> logits, std::span<float> s) {
    for (std::size_t e = 0; e < logits.size(); ++e) s[e] = 1.0f / (1.0f + std::exp(-logits[e]));
  }
};

/// s = softmax over all experts (spec A16).
struct Softmax {
  static constexpr Score kind = Score::softmax;
  static void scores(std::span<const float> logits, std::span<float> s) {
    kernels::softmax(logits.data(), static_cast<Index>(logits.size()), s.data());
  }
};

/// Chooses by score + bias within the best groups and weighs by score alone (eq. 12-16, spec A12-A14): the bias never reaches a weight.
/// Ties go to the lower index.
template <class ScoreFunction, class GroupScore>
struct TopK {
  static constexpr Score kind = ScoreFunction::kind;

  /// Throws: Error if logits or bias have another length than config.experts, more experts or choices are asked for than a Choice can hold,
  /// the groups are not of equal size, or a score is not finite: NaN fails every comparison, so the choice would hide it.
  Choice route(const Config& config, std::span<const float> logits, std::span<const float> bias) const {
    const auto n = static_cast<std::size_t>(config.experts);
    require(config.experts <= max_experts && config.top_k <= max_choices && config.top_k <= config.experts, "router: cannot choose ",
            config.top_k, " of ", config.experts, " experts: at most ", max_choices, " of ", max_experts);
    require(config.groups >= 1 && config.groups <= max_groups && config.experts % config.groups == 0 && config.top_groups >= 1 &&
                config.top_groups <= config.groups && config.top_k >= 1 &&
                config.top_k <= config.experts / config.groups * config.top_groups,
            "router: cannot keep ", config.top_groups, " of ", config.groups, " groups of ", config.experts, " experts: at most ",
            max_groups, " groups of equal size");
    require(logits.size() == n && (bias.empty() || bias.size() == n), "router: expected ", n, " logits and as many biases or none, got ",
            logits.size(), " and ", bias.size());
    std::array<float, max_experts> score_buffer, choice_buffer;
    const auto s = std::span(score_buffer).first(n), z = std::span(choice_buffer).first(n);
    ScoreFunction::scores(logits, s);
    for (std::size_t e = 0; e < n; ++e) z[e] = bias.empty() ? s[e] : s[e] + bias[e];
    const auto bad = std::find_if(z.begin(), z.end(), [](float v) { return !std::isfinite(v); });
    if (bad != z.end()) [[unlikely]] {
      const auto e = static_cast<std::size_t>(bad - z.begin());
      fail("router: the score of expert ", e, " is not finite: logit ", logits[e], bias.empty() ? "" : " and a bias",
           "; NaN or infinite weights or activations?");
    }

    std::array<int, max_groups> kept;
    if (config.groups > 1)
      kernels::limit_groups<GroupScore>(z, config.groups, std::span(kept).first(static_cast<std::size_t>(config.top_groups)));

    Choice choice{config.top_k, {}, {}};
    kernels::top_k(z, std::span(choice.experts).first(static_cast<std::size_t>(config.top_k)));
    float sum = 1e-20f;
    for (Index k = 0; k < config.top_k; ++k) {
      const auto i = static_cast<std::size_t>(k);
      choice.weights[i] = s[static_cast<std::size_t>(choice.experts[i])];
      sum += choice.weights[i];
    }
    const float scale = static_cast<float>(config.scale);
    for (Index k = 0; k < config.top_k; ++k) {
      float& w = choice.weights[static_cast<std::size_t>(k)];
      w = (config.normalize ? w / sum : w) * scale;
    }
    return choice;
  }
};

/// DeepSeek-V3 and all that followed it.
using SigmoidTopK = TopK<Sigmoid, kernels::SumOfTopTwo>;
/// DeepSeek-V2: "greedy" with one group, "group_limited_greedy" with several.
using SoftmaxTopK = TopK<Softmax, kernels::Largest>;

}  // namespace dsv3::inline DSV3_ISA::router
