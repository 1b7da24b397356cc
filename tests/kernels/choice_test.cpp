// top_k, limit_groups, and moving rows to experts and back.
#include <tuple>

#include "dsv3/kernels/permute.hpp"
#include "dsv3/kernels/top_k.hpp"
#include "support/arch.hpp"
#include "support/oracle.hpp"

using namespace test;

namespace {

/// Indices by score, largest first; equal scores by index; NaN last.
std::vector<int> sorted(const std::vector<float>& scores) {
  std::vector<int> order(scores.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
  std::sort(order.begin(), order.end(), [&](int a, int b) {
    const auto key = [&](int i) {
      const float score = scores[static_cast<std::size_t>(i)];
      return std::tuple(std::isnan(score), std::isnan(score) ? 0.0f : -score, i);
    };
    return key(a) < key(b);
  });
  return order;
}

/// Scores with many ties, and now and then NaN and infinities.
std::vector<float> scores_with_ties(Random& random, Index n) {
  std::vector<float> scores;
  for (Index i = 0; i < n; ++i) {
    const Index kind = random.between(0, 30);
    scores.push_back(kind == 0 ? NAN : kind == 1 ? -INFINITY : kind == 2 ? INFINITY : static_cast<float>(random.between(-4, 4)));
  }
  return scores;
}

}  // namespace

TEST_CASE("top_k: a sort decides") {
  Random random;
  for (int repeat = 0; repeat < 5000; ++repeat) {
    const Index n = random.between(1, 300), k = random.between(0, std::min<Index>(n, 12));
    const auto scores = scores_with_ties(random, n);
    std::vector<int> chosen(static_cast<std::size_t>(k)), expected = sorted(scores);
    expected.resize(chosen.size());
    kernels::top_k(scores, chosen);
    REQUIRE(chosen == expected);
  }
}

TEST_CASE("group limit: the best groups keep their scores, the others get -infinity") {
  Random random;
  const auto check = [&]<class GroupScore>(GroupScore, auto&& judge) {
    for (int repeat = 0; repeat < 3000; ++repeat) {
      const Index groups = random.between(1, 16), size = random.between(2, 12), keep = random.between(1, groups);
      std::vector<float> scores;
      for (Index i = 0; i < groups * size; ++i) scores.push_back(static_cast<float>(random.between(-20, 2)) / 8);  // mostly negative
      std::vector<float> judged, expected = scores, found = scores;
      for (Index g = 0; g < groups; ++g) {
        std::vector<float> group(scores.begin() + g * size, scores.begin() + (g + 1) * size);
        std::sort(group.begin(), group.end(), std::greater<>());
        judged.push_back(judge(group));
      }
      const auto order = sorted(judged);
      for (Index g = keep; g < groups; ++g) std::fill_n(expected.begin() + order[static_cast<std::size_t>(g)] * size, size, -INFINITY);
      std::vector<int> kept(static_cast<std::size_t>(keep));
      kernels::limit_groups<GroupScore>(found, groups, kept);
      REQUIRE(found == expected);
      REQUIRE(std::equal(kept.begin(), kept.end(), order.begin()));
    }
  };
  check(kernels::SumOfTopTwo{}, [](const std::vector<float>& descending) { return descending[0] + descending[1]; });
  check(kernels::Largest{}, [](const std::vector<float>& descending) { return descending[0]; });
}

TEST_CASE_TEMPLATE("rows sorted by expert and combined again", Arch, DSV3_TEST_ARCHS) {
  Random random;
  for (int repeat = 0; repeat < 50; ++repeat) {
    const Index tokens = random.between(0, 20), k = random.between(1, 4), experts = random.between(4, 9), d = random.between(1, 40);
    Matrix<int> chosen(tokens, k), place(tokens, k);
    for (Index i = 0; i < chosen.size(); ++i) chosen.data()[i] = static_cast<int>(random.between(0, experts - 1));
    std::vector<Index> offsets(static_cast<std::size_t>(experts) + 1);
    kernels::sort_by_expert(view(chosen), offsets, view(place));

    Index next = 0;  // a stable sort: by expert, then by token, then by choice
    for (int e = 0; e < static_cast<int>(experts); ++e) {
      REQUIRE(offsets[static_cast<std::size_t>(e)] == next);
      for (Index t = 0; t < tokens; ++t)
        for (Index i = 0; i < k; ++i)
          if (chosen(t, i) == e) REQUIRE(place(t, i) == next++);
    }
    REQUIRE(offsets.back() == tokens * k);

    Context ctx;
    const Matrix<float> x = random.matrix(tokens, d), gates = random.matrix(tokens, k);
    Matrix<float> moved(tokens * k, d), y = random.matrix(tokens, d);
    const Matrix<float> before = y;
    kernels::gather_rows(ctx, view(x), view(place), view(moved));
    for (Index t = 0; t < tokens; ++t)
      for (Index i = 0; i < k; ++i) REQUIRE(same_bits(moved.row(place(t, i)), x.row(t)));
    kernels::combine_rows<Arch>(ctx, view(moved), view(place), view(gates), view(y));
    if (tokens > 0)
      check_matrix(y, [&](Index t, Index c) {
        const auto added = [&](Index i) { return Real(static_cast<double>(gates(t, i))) * Real(static_cast<double>(x(t, c))); };
        return sum(k + 1, [&](Index i) { return i == k ? Real(static_cast<double>(before(t, c))) : added(i); });
      });
  }
}

TEST_CASE("results are combined in the order of choice") {
  Context ctx;
  Matrix<float> sorted(3, 1), y = Matrix<float>::Zero(1, 1), gates = Matrix<float>::Ones(1, 3);
  sorted << 1, 1e8f, -1e8f;
  Matrix<int> place(1, 3);
  place << 0, 1, 2;
  kernels::combine_rows(ctx, view(sorted), view(place), view(gates), view(y));
  CHECK(y(0, 0) == 0.0f);  // ((0 + 1) + 1e8) - 1e8; from the other end it would be 1
}
