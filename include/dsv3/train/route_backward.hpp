// Floor 6. Backward of routers: from the gates to the logits. The choice and the bias have no gradient (spec T13).
#pragma once

#include <vector>

#include "dsv3/core/matrix.hpp"
#include "dsv3/modules/router.hpp"

namespace dsv3::inline DSV3_ISA::train {

/// Backward of the scores s [E]: adds to dlogits [E] the gradient that ds [E] gives.
inline void score_backward(const router::Sigmoid&, std::span<const float> s, std::span<const float> ds, std::span<float> dlogits) {
  for (std::size_t e = 0; e < s.size(); ++e) dlogits[e] += ds[e] * s[e] * (1 - s[e]);
}
inline void score_backward(const router::Softmax&, std::span<const float> s, std::span<const float> ds, std::span<float> dlogits) {
  float mean = 0;
  for (std::size_t e = 0; e < s.size(); ++e) mean = std::fma(s[e], ds[e], mean);
  for (std::size_t e = 0; e < s.size(); ++e) dlogits[e] += s[e] * (ds[e] - mean);
}

/// Backward of TopK::route for one token: dgates [K] of the chosen `experts` [K] -> dlogits [E], added to. With g_i = c s_i / S:
/// ds_j = c (dg_j - sum_i dg_i s_i / S) / S.
template <class ScoreFunction, class GroupScore>
void route_backward(const router::TopK<ScoreFunction, GroupScore>&, const router::Config& config, std::span<const float> logits,
                    std::span<const int> experts, std::span<const float> dgates, std::span<float> dlogits) {
  std::array<float, router::max_experts> score_buffer, gradient_buffer;
  const auto s = std::span(score_buffer).first(logits.size()), ds = std::span(gradient_buffer).first(logits.size());
  ScoreFunction::scores(logits, s);
  std::fill(ds.begin(), ds.end(), 0.0f);
  float sum = 1e-20f, weighted = 0;
  for (std::size_t k = 0; k < experts.size(); ++k) {
    const float score = s[static_cast<std::size_t>(experts[k])];
    sum += score;
    weighted = std::fma(dgates[k], score, weighted);
  }
  const float scale = static_cast<float>(config.scale);
  for (std::size_t k = 0; k < experts.size(); ++k)
    ds[static_cast<std::size_t>(experts[k])] = scale * (config.normalize ? (dgates[k] - weighted / sum) / sum : dgates[k]);
  score_backward(ScoreFunction{}, s, ds, dlogits);
}

/// The sequence-wise balance loss (eq. 17-20, spec T8-T10) of one sequence's logits [T, E], alpha = 1, and its gradient times `weight`,
/// added to dlogits [T, E]: f_i = E / (K T) count(i among the K largest scores), P_i = mean of s_i / sum s; L = sum f_i P_i. f has no
/// gradient: dL/ds_j = (f_j - sum_i f_i s'_i) / (T S).
template <class ScoreFunction, class GroupScore>
double balance_backward(const router::TopK<ScoreFunction, GroupScore>&, const router::Config& config, ConstMatrixView<float> logits,
                        double weight, MatrixView<float> dlogits) {
  const auto experts = static_cast<std::size_t>(config.experts);
  const Index rows = logits.rows();
  if (rows == 0) return 0;
  std::array<float, router::max_experts> score_buffer, gradient_buffer;
  std::array<int, router::max_choices> chosen;
  std::vector<double> f(experts), mean(experts);
  const auto s = std::span(score_buffer).first(experts), ds = std::span(gradient_buffer).first(experts);
  const auto scores = [&](Index t) {
    ScoreFunction::scores({logits.row_data(t), experts}, s);
    double sum = 0;
    for (const float v : s) sum += static_cast<double>(v);
    return sum;
  };
  for (Index t = 0; t < rows; ++t) {
    const double sum = scores(t);
    kernels::top_k(s, std::span(chosen).first(static_cast<std::size_t>(config.top_k)));
    for (Index k = 0; k < config.top_k; ++k) f[static_cast<std::size_t>(chosen[static_cast<std::size_t>(k)])] += 1;
    for (std::size_t e = 0; e < experts; ++e) mean[e] += static_cast<double>(s[e]) / sum;
  }
  double loss = 0;
  for (std::size_t e = 0; e < experts; ++e) {
    f[e] *= static_cast<double>(config.experts) / static_cast<double>(config.top_k * rows);
    loss += f[e] * mean[e] / static_cast<double>(rows);
  }
  if (weight == 0) return loss;
  for (Index t = 0; t < rows; ++t) {
    const double sum = scores(t);
    double level = 0;
    for (std::size_t e = 0; e < experts; ++e) level += f[e] * static_cast<double>(s[e]) / sum;
    for (std::size_t e = 0; e < experts; ++e) ds[e] = static_cast<float>(weight * (f[e] - level) / (static_cast<double>(rows) * sum));
    score_backward(ScoreFunction{}, s, ds, {dlogits.row_data(t), experts});
  }
  return loss;
}

/// A router with a route_backward as above. A BalancedRouter has a balance_backward, which balance_weight != 0 needs.
template <class R>
concept TrainableRouter = requires(const R& r, const router::Config& c, std::span<const float> logits, std::span<const int> experts,
                                   std::span<float> d, ConstMatrixView<float> x, MatrixView<float> dx) {
  route_backward(r, c, logits, experts, logits, d);
};
template <class R>
concept BalancedRouter = requires(const R& r, const router::Config& c, ConstMatrixView<float> x, MatrixView<float> dx) {
  { balance_backward(r, c, x, 1.0, dx) } -> std::convertible_to<double>;
};

}  // namespace dsv3::inline DSV3_ISA::train
