// Floor 6. Logit processors that shape the distribution as a whole: temperature, and truncation of unlikely tokens.
//
// Each of them keeps the likeliest token. Of equal logits the lower id counts as likelier.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "dsv3/generate/logits.hpp"
#include "dsv3/model/sampler.hpp"

namespace dsv3::inline DSV3_ISA::sampling {

/// Subtracts the largest logit, then divides by `temperature` > 0: the largest becomes 0, so even a tiny temperature overflows nothing.
struct Scale {
  double temperature;

  void operator()(const TextSoFar&, std::span<float> logits) const {
    const auto largest = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
    if (largest == static_cast<double>(excluded)) return;
    for (float& l : logits) l = static_cast<float>((static_cast<double>(l) - largest) / temperature);
  }
};

/// Excludes all but the likeliest token.
struct OnlyLikeliest {
  void operator()(const TextSoFar&, std::span<float> logits) const {
    const auto best = static_cast<std::size_t>(Greedy{}(logits));
    for (std::size_t i = 0; i < logits.size(); ++i)
      if (i != best) logits[i] = excluded;
  }
};

/// Excludes all but the k likeliest tokens, k >= 1.
class TopK {
 public:
  explicit TopK(Index k) : k_(static_cast<std::size_t>(k)) {}

  void operator()(const TextSoFar&, std::span<float> logits) {
    ids_.clear();
    for (std::size_t i = 0; i < logits.size(); ++i)
      if (logits[i] > excluded) ids_.push_back(i);
    if (ids_.size() <= k_) return;
    std::nth_element(ids_.begin(), ids_.begin() + static_cast<std::ptrdiff_t>(k_), ids_.end(),
                     [&](std::size_t a, std::size_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
    for (std::size_t i = k_; i < ids_.size(); ++i) logits[ids_[i]] = excluded;
  }

 private:
  std::size_t k_;
  std::vector<std::size_t> ids_;
};

/// Nucleus sampling (Holtzman et al., 2019): excludes all but the fewest likeliest tokens whose probabilities sum to p or more.
class TopP {
 public:
  explicit TopP(double p) : p_(p) {}

  void operator()(const TextSoFar&, std::span<float> logits) {
    const auto largest = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
    candidates_.clear();
    double total = 0;
    for (std::size_t i = 0; i < logits.size(); ++i) {
      if (!(logits[i] > excluded)) continue;
      candidates_.push_back({std::exp(static_cast<double>(logits[i]) - largest), i});
      total += candidates_.back().weight;
    }
    const auto less = [](const Candidate& a, const Candidate& b) { return a.weight != b.weight ? a.weight < b.weight : a.id > b.id; };
    std::make_heap(candidates_.begin(), candidates_.end(), less);
    auto end = candidates_.end();  // [begin, end) is a heap of the tokens not taken yet
    for (double sum = 0; end != candidates_.begin() && (sum < p_ * total || end == candidates_.end()); --end) {
      std::pop_heap(candidates_.begin(), end, less);
      sum += (end - 1)->weight;
    }
    for (auto c = candidates_.begin(); c != end; ++c) logits[c->id] = excluded;
  }

 private:
  struct Candidate {
    double weight;
    std::size_t id;
  };
  double p_;
  std::vector<Candidate> candidates_;
};

/// Excludes tokens less than `p` times as likely as the likeliest.
struct MinP {
  double p;

  void operator()(const TextSoFar&, std::span<float> logits) const {
    const double least = static_cast<double>(*std::max_element(logits.begin(), logits.end())) + std::log(p);
    for (float& l : logits)
      if (static_cast<double>(l) < least) l = excluded;
  }
};

}  // namespace dsv3::inline DSV3_ISA::sampling
