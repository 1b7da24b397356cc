// Floor 3. Choosing the k largest of n scores, with the group limit of node-limited routing.
#pragma once

#include <algorithm>
#include <array>
#include <limits>
#include <span>
#include <utility>

#include "dsv3/core/config.hpp"
#include "dsv3/core/error.hpp"

namespace dsv3::inline DSV3_ISA::kernels {

/// The indices of the k largest of `scores`, largest first, into `chosen` [k], k <= scores.size(). Of equal scores the lower index wins;
/// NaN loses to every number. The indices are always distinct and in range. Throws: Error if k is too large.
inline void top_k(std::span<const float> scores, std::span<int> chosen) {
  require(chosen.size() <= scores.size(), "top_k: expected at most as many choices as scores, got ", chosen.size(), " of ", scores.size());
  const auto before = [&](int a, int b) {  // strict weak order: numbers descending, then NaN; then by index
    const float x = scores[static_cast<std::size_t>(a)], y = scores[static_cast<std::size_t>(b)];
    const bool x_nan = x != x, y_nan = y != y;
    if (x_nan || y_nan) return x_nan == y_nan ? a < b : y_nan;
    return x != y ? x > y : a < b;
  };
  // Insertion into a sorted list of k: k is small, and most candidates fail the first comparison.
  std::size_t count = 0;
  for (int i = 0; i < static_cast<int>(scores.size()); ++i) {
    if (count == chosen.size() && (count == 0 || !before(i, chosen[count - 1]))) continue;
    std::size_t at = count < chosen.size() ? count++ : count - 1;
    for (; at > 0 && before(i, chosen[at - 1]); --at) chosen[at] = chosen[at - 1];
    chosen[at] = i;
  }
}

/// The score of a group: the sum of its two largest scores (V3, spec A13), or its largest (V2, spec A16).
struct SumOfTopTwo {
  static float score(std::span<const float> group) {
    float first = -std::numeric_limits<float>::infinity(), second = first;
    for (const float z : group) {
      if (z > first)
        second = std::exchange(first, z);
      else if (z > second)
        second = z;
    }
    return group.size() > 1 ? first + second : first;
  }
};
struct Largest {
  static float score(std::span<const float> group) { return *std::max_element(group.begin(), group.end()); }
};

/// Sets every score outside the `keep` best of `groups` equal groups to -infinity (never 0: scores with a bias can be negative).
/// `best` [keep] is scratch and receives the groups kept. Throws: Error if the groups do not divide the scores, or are too many.
template <class GroupScore>
void limit_groups(std::span<float> scores, Index groups, std::span<int> best) {
  require(groups > 0 && groups <= router::max_groups && scores.size() % static_cast<std::size_t>(groups) == 0,
          "limit_groups: expected 1 to ", router::max_groups, " groups that divide ", scores.size(), " scores, got ", groups);
  const auto size = scores.size() / static_cast<std::size_t>(groups);
  std::array<float, router::max_groups> group_scores;
  for (std::size_t g = 0; g < static_cast<std::size_t>(groups); ++g) group_scores[g] = GroupScore::score(scores.subspan(g * size, size));
  top_k(std::span<const float>(group_scores).first(static_cast<std::size_t>(groups)), best);
  for (std::size_t g = 0; g < static_cast<std::size_t>(groups); ++g)
    if (std::find(best.begin(), best.end(), static_cast<int>(g)) == best.end())
      std::fill_n(scores.begin() + static_cast<std::ptrdiff_t>(g * size), size, -std::numeric_limits<float>::infinity());
}

}  // namespace dsv3::inline DSV3_ISA::kernels
