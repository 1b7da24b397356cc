// Routing against its equations, written out plainly.
#include "dsv3/modules/router.hpp"

#include <algorithm>
#include <map>

#include "support/oracle.hpp"

using namespace test;

namespace {

/// Expert -> gate weight. Random scores have no ties, so the order of choice does not matter here.
using Gates = std::map<int, Real>;

struct Rule {
  bool sigmoid, sum_of_two;
};
constexpr Rule v3 = {true, true}, v2 = {false, false};

Gates oracle(const Rule& rule, const router::Config& c, const std::vector<float>& logits, const std::vector<float>& bias) {
  const auto n = static_cast<int>(c.experts), size = n / static_cast<int>(c.groups);
  const auto at = [](const auto& v, int e) { return v[static_cast<std::size_t>(e)]; };
  std::vector<Real> s;
  const double largest = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  const Real total = sum(n, [&](Index e) { return exp(Real(static_cast<double>(at(logits, static_cast<int>(e)))) - Real(largest)); });
  for (const float x : logits) {
    const Real logit = static_cast<double>(x);
    s.push_back(rule.sigmoid ? Real(1) / (Real(1) + exp(Real(-logit.value))) : exp(logit - Real(largest)) / total);
  }
  std::vector<double> z;
  for (int e = 0; e < n; ++e) z.push_back(at(s, e).value + (bias.empty() ? 0.0 : static_cast<double>(at(bias, e))));

  std::vector<std::pair<double, int>> groups;  // best first
  for (int g = 0; g < static_cast<int>(c.groups); ++g) {
    std::vector<double> members(z.begin() + g * size, z.begin() + (g + 1) * size);
    std::sort(members.rbegin(), members.rend());
    groups.emplace_back(rule.sum_of_two && c.groups > 1 ? members[0] + members[1] : members[0], g);
  }
  std::sort(groups.rbegin(), groups.rend());
  std::vector<std::pair<double, int>> allowed;
  for (std::size_t i = 0; i < static_cast<std::size_t>(c.top_groups); ++i)
    for (int e = groups[i].second * size; e < (groups[i].second + 1) * size; ++e) allowed.emplace_back(at(z, e), e);
  std::sort(allowed.rbegin(), allowed.rend());
  allowed.resize(static_cast<std::size_t>(c.top_k));

  const Real denominator =
      c.normalize ? sum(c.top_k, [&](Index k) { return at(s, allowed[static_cast<std::size_t>(k)].second); }) : Real(1);
  Gates gates;
  for (const auto& [score, e] : allowed) gates[e] = at(s, e) / denominator * Real(c.scale, c.scale * unit);
  return gates;
}

template <class R>
void check_router(const Rule& rule, const router::Config& c, float bias_level, Random& random) {
  std::vector<float> logits, bias;
  for (Index e = 0; e < c.experts; ++e) {
    logits.push_back(random.normal(2));
    if (rule.sigmoid) bias.push_back(random.normal(0.3f) + bias_level);
  }
  const auto choice = R().route(c, logits, bias);
  const Gates expected = oracle(rule, c, logits, bias);
  REQUIRE(choice.size == c.top_k);
  REQUIRE(expected.size() == static_cast<std::size_t>(c.top_k));
  for (std::size_t k = 0; k < static_cast<std::size_t>(c.top_k); ++k) {
    REQUIRE(expected.contains(choice.experts[k]));
    REQUIRE(agrees(choice.weights[k], expected.at(choice.experts[k])));
  }
}

}  // namespace

TEST_CASE("DeepSeek-V3, with biases of either sign") {
  Random random;
  for (int repeat = 0; repeat < 1000; ++repeat)
    for (const float level : {-2.0f, 0.0f, 2.0f}) {  // at -2 every choice score is negative
      check_router<router::SigmoidTopK>(v3, {256, 8, 8, 4, true, 2.5}, level, random);
      check_router<router::SigmoidTopK>(v3, {10, 5, 5, 3, false, 1.0}, level, random);
      check_router<router::SigmoidTopK>(v3, {64, 6, 1, 1, true, 2.446}, level, random);  // Moonlight
    }
}

TEST_CASE("DeepSeek-V2: greedy and group-limited") {
  Random random;
  for (int repeat = 0; repeat < 1000; ++repeat) {
    check_router<router::SoftmaxTopK>(v2, {64, 6, 1, 1, false, 1.0}, 0, random);
    check_router<router::SoftmaxTopK>(v2, {160, 6, 8, 3, false, 16.0}, 0, random);
  }
}

TEST_CASE("the bias chooses and never weighs") {
  const router::Config c{4, 2, 1, 1, false, 1.0};
  const std::vector<float> logits = {0, 0, 0, 0}, bias = {0, 5, 0, -5};
  const auto choice = router::SigmoidTopK().route(c, logits, bias);
  CHECK(choice.experts[0] == 1);
  CHECK(choice.experts[1] == 0);  // a tie of 0 and 2
  CHECK(choice.weights[0] == 0.5f);
  CHECK(choice.weights[1] == 0.5f);
}

TEST_CASE("wrong sizes are refused") {
  const router::SigmoidTopK r;
  const std::vector<float> eight(8), nine(9), many(2048);
  const auto complaint = [&](const router::Config& c, const std::vector<float>& logits, const std::vector<float>& bias) {
    return error_of([&] { (void)r.route(c, logits, bias); });
  };
  CHECK(complaint({8, 2, 2, 1, true, 1}, eight, {}).empty());
  CHECK(complaint({8, 2, 2, 1, true, 1}, nine, {}) == "router: expected 8 logits and as many biases or none, got 9 and 0");
  CHECK(complaint({8, 2, 2, 1, true, 1}, eight, nine) == "router: expected 8 logits and as many biases or none, got 8 and 9");
  CHECK(contains(complaint({8, 9, 1, 1, true, 1}, eight, {}), "cannot choose 9 of 8 experts"));
  CHECK(contains(complaint({2048, 2, 1, 1, true, 1}, many, {}), "cannot choose 2 of 2048 experts"));
  for (const auto& [groups, kept] : {std::pair<Index, Index>{0, 1}, {3, 1}, {4, 5}, {4, 0}})
    CHECK(contains(complaint({8, 2, groups, kept, true, 1}, eight, {}),
                   "cannot keep " + std::to_string(kept) + " of " + std::to_string(groups) + " groups of 8 experts"));
  const std::vector<float> thousand(1024);
  CHECK(contains(complaint({1024, 2, 512, 1, true, 1}, thousand, {}), "at most 256 groups"));
}

TEST_CASE("scores that are all zero give gates of zero, not NaN") {
  const std::vector<float> lowest(8, -200.0f);  // sigmoid(-200) is 0 in float32: the sum of the gates is the 1e-20 of the reference
  const auto choice = router::SigmoidTopK{}.route({8, 2, 1, 1, true, 2.5}, lowest, {});
  CHECK(choice.weights[0] == 0.0f);
  CHECK(choice.weights[1] == 0.0f);
}

TEST_CASE("a score that is not finite is an error wherever it stands") {
  for (const float bad : {NAN, INFINITY, -INFINITY})
    for (std::size_t e = 0; e < 8; ++e)
      for (const Index groups : {1, 2}) {
        std::vector<float> logits(8, 0.5f), bias(8, 0.1f);
        bias[e] = bad;
        const router::Config c{8, 2, groups, 1, true, 1};
        CHECK(contains(error_of([&] { (void)router::SigmoidTopK{}.route(c, logits, bias); }), "the score of expert " + std::to_string(e)));
        if (!std::isnan(bad)) continue;
        logits[e] = bad;
        CHECK(contains(error_of([&] { (void)router::SigmoidTopK{}.route(c, logits, {}); }), "the score of expert " + std::to_string(e)));
        CHECK(contains(error_of([&] { (void)router::SoftmaxTopK{}.route(c, logits, {}); }), "is not finite"));
      }
}
