#include "dsv3/model/generate.hpp"

#include "dsv3/model/init.hpp"
#include "support/checkpoint.hpp"

using namespace test;

namespace {

const Model<>& model() {
  static const auto loaded = io::load<DeepSeekV3>(DSV3_TEST_DATA "/golden/v3-tiny");
  return loaded;
}

const std::vector<int> prompt = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8};

struct Run {
  std::vector<int> ids;
  GenerateResult result;
};

Run run(Cache<DeepSeekV3>& cache, std::span<const int> ids, GenerateOptions options, std::size_t stop_after = 1000) {
  Context ctx;
  Run r;
  if (!options.stop_tokens) options.stop_tokens.emplace();
  r.result = generate(ctx, model(), cache, ids, options, [&](int id) {
    r.ids.push_back(id);
    return r.ids.size() < stop_after;
  });
  CHECK(r.result.new_tokens == static_cast<Index>(r.ids.size()));
  return r;
}

}  // namespace

TEST_CASE("generate gives the argmax of each position's logits") {
  auto cache = model().make_cache({64});
  const Run r = run(cache, prompt, {.max_new_tokens = 10});
  CHECK(r.result.reason == StopReason::max_new_tokens);
  REQUIRE(r.ids.size() == 10);
  CHECK(cache.size() == static_cast<Index>(prompt.size()) + 9);  // the last token is not in the cache yet

  std::vector<int> all = prompt;
  all.insert(all.end(), r.ids.begin(), r.ids.end());
  Context ctx;
  std::vector<Cache<DeepSeekV3>> caches;
  NoTape none;
  const Matrix<int> ids = Eigen::Map<const Matrix<int>>(all.data(), 1, static_cast<Index>(all.size()));
  const Matrix<float> l = logits(ctx, model(), run_batch(ctx, model(), ids, caches, none));
  for (std::size_t i = 0; i < r.ids.size(); ++i) {
    Index best;
    l.row(static_cast<Index>(prompt.size() + i) - 1).maxCoeff(&best);
    CHECK(best == r.ids[i]);
  }
}

TEST_CASE("the size of prefill chunks changes nothing") {
  auto cache = model().make_cache({64});
  const Run whole = run(cache, prompt, {.max_new_tokens = 8});
  for (const Index chunk : {1, 2, 5, 11, 12, 100}) {
    cache.clear();
    CHECK(run(cache, prompt, {.max_new_tokens = 8, .prefill_chunk = chunk}).ids == whole.ids);
  }
}

TEST_CASE("a second turn continues what the cache holds") {
  auto cache = model().make_cache({64});
  const Run first = run(cache, prompt, {.max_new_tokens = 4});
  const std::vector<int> turn = {first.ids.back(), 7, 7};
  const Run second = run(cache, turn, {.max_new_tokens = 4});

  std::vector<int> all = prompt;
  all.insert(all.end(), first.ids.begin(), first.ids.end());
  all.insert(all.end(), {7, 7});
  cache.clear();
  CHECK(run(cache, all, {.max_new_tokens = 4}).ids == second.ids);
}

TEST_CASE("reasons to stop") {
  auto cache = model().make_cache({64});
  const Run free_run = run(cache, prompt, {.max_new_tokens = 6});
  cache.clear();
  const Run stopped = run(cache, prompt, {.max_new_tokens = 6, .stop_tokens = std::vector<int>{free_run.ids[3]}});
  CHECK(stopped.result.reason == StopReason::stop_token);
  const auto first = std::find(free_run.ids.begin(), free_run.ids.end(), free_run.ids[3]);
  CHECK(stopped.ids == std::vector<int>(free_run.ids.begin(), first));

  cache.clear();
  const Run caller = run(cache, prompt, {.max_new_tokens = 6}, 2);
  CHECK(caller.result.reason == StopReason::caller);
  CHECK(caller.ids.size() == 2);

  auto small = model().make_cache({static_cast<Index>(prompt.size()) + 2});
  const Run full = run(small, prompt, {.max_new_tokens = 6});
  CHECK(full.result.reason == StopReason::cache_full);
  CHECK(full.ids.size() == 3);

  cache.clear();
  CHECK(run(cache, prompt, {.max_new_tokens = 0}).ids.empty());
  CHECK(cache.size() == static_cast<Index>(prompt.size()));
}

TEST_CASE("what cannot be generated from") {
  auto cache = model().make_cache({8});
  CHECK_THROWS_WITH_AS(run(cache, {}, {}), "generate: expected at least one prompt token", Error);
  CHECK_THROWS_WITH_AS(run(cache, prompt, {}), "generate: the prompt has 12 tokens, the cache has room for 8", Error);
  CHECK_THROWS_AS(run(cache, std::vector<int>{1}, {.prefill_chunk = 0}), Error);
  CHECK_THROWS_AS(Temperature(-1, 0), Error);
  CHECK_THROWS_AS(Temperature(NAN, 0), Error);
  CHECK_THROWS_AS(model().make_cache({0}), Error);
}

TEST_CASE("Greedy takes the lowest of equal tokens, as Temperature(0) does") {
  const std::vector<float> l = {0, 3, 1, 3, 3};
  CHECK(Greedy{}(l) == 1);
  CHECK(Temperature(0, 5)(l) == 1);
}

TEST_CASE("Temperature draws from the softmax") {
  const std::vector<float> l = {1.0f, 0.0f, 2.5f, -1.0f, 2.0f};
  const double temperature = 0.7;
  std::vector<double> p(l.size());
  double total = 0;
  for (std::size_t i = 0; i < l.size(); ++i) total += p[i] = std::exp(static_cast<double>(l[i]) / temperature);
  Temperature sampler(temperature, 42), same(temperature, 42);
  constexpr int draws = 100000;
  std::vector<int> count(l.size());
  for (int i = 0; i < draws; ++i) {
    const int id = sampler(l);
    REQUIRE(id == same(l));
    ++count[static_cast<std::size_t>(id)];
  }
  for (std::size_t i = 0; i < l.size(); ++i) {  // five standard deviations of a binomial count
    const double q = p[i] / total, expected = draws * q;
    CHECK(std::abs(count[i] - expected) <= 5 * std::sqrt(expected * (1 - q)));
  }
}

TEST_CASE("init_normal has the asked mean and deviation, and repeats itself") {
  Config c = model().config();
  Model<> a(c), b(c), other(c);
  init_normal(a, 1, 0.02);
  init_normal(b, 1, 0.02);
  init_normal(other, 2, 0.02);
  double sum = 0, squares = 0, n = 0;
  std::vector<float> first, second, third;
  const auto collect = [](std::vector<float>& into) {
    return [&into](const std::string&, auto& parameter) {
      if constexpr (requires { parameter.view; }) {
        const auto& w = std::get<F32::View>(parameter.view);
        into.insert(into.end(), w.data, w.data + w.rows * w.cols);
      }
    };
  };
  Model<>::for_each_tensor(a, collect(first));
  Model<>::for_each_tensor(b, collect(second));
  Model<>::for_each_tensor(other, collect(third));
  CHECK(first == second);
  CHECK(first != third);
  for (const float x : first) {
    sum += static_cast<double>(x);
    squares += static_cast<double>(x) * static_cast<double>(x);
    n += 1;
  }
  // Five standard errors: of the mean, and of the variance of a normal distribution.
  CHECK(std::abs(sum / n) <= 5 * 0.02 / std::sqrt(n));
  CHECK(std::abs(squares / n - 0.0004) <= 5 * 0.0004 * std::sqrt(2 / n));
}
