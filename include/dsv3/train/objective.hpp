// Floor 6. The training objective: samples, the terms of the loss, and the sums that the passes over a batch's samples add to.
#pragma once

#include <span>
#include <utility>
#include <vector>

#include "dsv3/core/error.hpp"
#include "dsv3/core/matrix.hpp"

namespace dsv3::inline DSV3_ISA::train {

/// A sample of training data: ids [n] are both input and labels. Row i predicts id i + 1, depth k of multi-token prediction id i + k + 1.
struct Sample {
  std::span<const int> ids;
  std::span<const std::uint8_t> trained{};  ///< one flag per id: whether it counts as a target (spec T2); empty: all do
  std::span<const Index> documents{};       ///< starts of documents, the first 0; none attends to another (spec T54); empty: one text

  /// f(begin, count) for each text.
  template <class F>
  void for_each_text(F&& f) const {
    const Index n = std::ssize(ids);
    if (documents.empty()) return f(Index{0}, n);
    for (std::size_t i = 0; i < documents.size(); ++i) f(documents[i], (i + 1 < documents.size() ? documents[i + 1] : n) - documents[i]);
  }
  bool counts(Index i) const { return trained.empty() || trained[static_cast<std::size_t>(i)] != 0; }
};

/// The divisor of an MTP loss (spec T3): the number of its own targets, as in Megatron, or of the main loss's targets (eq. 24).
enum class MtpReduction { own_count, main_count };

/// L = L_main + mtp_weight / D sum_k L_MTP^k + balance_weight sum over layers of the mean balance loss (eq. 17-20, 24, 25, spec T4).
struct Objective {
  double mtp_weight = 0;      ///< lambda; 0: MTP modules do not run
  double balance_weight = 0;  ///< alpha
  MtpReduction mtp_reduction = MtpReduction::own_count;
};

/// Counts of a batch: its targets (mtp_targets[k] for depth k + 1) and its samples. Every loss is a sum divided by such a count of the
/// whole batch, so that micro-batches add up to it (spec T36).
struct Counts {
  Index main_targets = 0;
  std::vector<Index> mtp_targets;
  Index samples = 0;
};

/// Counts targets for the main model and for `depths` MTP modules. Throws: Error if a sample's `trained` or `documents` do not fit its ids.
[[nodiscard]] inline Counts count(std::span<const Sample> samples, Index depths) {
  Counts c{0, std::vector<Index>(static_cast<std::size_t>(depths)), std::ssize(samples)};
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const Sample& s = samples[i];
    require(s.trained.empty() || s.trained.size() == s.ids.size(), "train: sample ", i, ": expected ", s.ids.size(),
            " marks of trained ids or none, got ", s.trained.size());
    for (std::size_t d = 0; d < s.documents.size(); ++d)
      require(d == 0 ? s.documents[0] == 0 : s.documents[d] > s.documents[d - 1] && s.documents[d] < std::ssize(s.ids), "train: sample ", i,
              ": documents must begin at 0 and then at growing places within its ", s.ids.size(), " ids, document ", d, " begins at ",
              s.documents[d]);
    s.for_each_text([&](Index begin, Index n) {
      for (Index t = 1; t < n; ++t) {
        if (!s.counts(begin + t)) continue;
        ++c.main_targets;
        for (Index k = 1; k <= std::min(depths, t - 1); ++k) ++c.mtp_targets[static_cast<std::size_t>(k - 1)];
      }
    });
  }
  return c;
}

/// Sums over samples: of losses, before the division by Counts, and of tokens per expert.
struct Sums {
  double main = 0;
  std::vector<double> mtp;      ///< per depth
  std::vector<double> balance;  ///< per layer with experts, MTP modules last; alpha = 1
  Matrix<Index> loads;          ///< [layers with experts, E]: tokens per expert, including rows without a target

  Sums& operator+=(const Sums& other) {
    const auto add = [](auto& to, const auto& from) {
      to.resize(std::max(to.size(), from.size()));
      for (std::size_t i = 0; i < from.size(); ++i) to[i] += from[i];
    };
    main += other.main;
    add(mtp, other.mtp);
    add(balance, other.balance);
    if (loads.size() == 0)
      loads = other.loads;
    else if (other.loads.size() > 0)
      loads += other.loads;
    return *this;
  }
};

/// Means of the losses from Sums and Counts, and the objective's total.
struct Losses {
  double main = 0, total = 0;
  std::vector<double> mtp, balance;
};
[[nodiscard]] inline Losses losses(const Sums& sums, const Counts& counts, const Objective& objective) {
  const auto mean = [](double sum, Index n) { return n > 0 ? sum / static_cast<double>(n) : 0.0; };
  Losses l;
  l.main = l.total = mean(sums.main, counts.main_targets);
  for (std::size_t k = 0; k < sums.mtp.size(); ++k) {
    l.mtp.push_back(mean(sums.mtp[k], objective.mtp_reduction == MtpReduction::own_count ? counts.mtp_targets[k] : counts.main_targets));
    l.total += objective.mtp_weight / static_cast<double>(sums.mtp.size()) * l.mtp.back();
  }
  for (const double sum : sums.balance) {
    l.balance.push_back(mean(sum, counts.samples));
    l.total += objective.balance_weight * l.balance.back();
  }
  return l;
}

}  // namespace dsv3::inline DSV3_ISA::train
