// A language model that is not Model<P>: generation, completion and the scheduler ask for the concept alone.
#include <new>

#include "variants/tiny.hpp"

using namespace dsv3;

namespace {

// [own_model]
/// Predicts the sum of the last two tokens, modulo the vocabulary.
class Fibonacci {
 public:
  class Cache {
   public:
    explicit Cache(CacheOptions options) : max_tokens_(options.max_tokens) {}
    Index size() const { return static_cast<Index>(ids.size()); }
    Index max_tokens() const { return max_tokens_; }
    void truncate(Index n, Index /*known*/ = 0) { ids.resize(static_cast<std::size_t>(n)); }
    void clear() { ids.clear(); }
    std::vector<int> ids;

   private:
    Index max_tokens_;
  };
  struct Sequence {
    std::span<const int> ids;
    Cache* cache = nullptr;
  };

  explicit Fibonacci(Config c) : config_(std::move(c)) {}
  const Config& config() const { return config_; }
  Index width() const { return 1; }
  Cache make_cache(CacheOptions options) const { return Cache(options); }

  void forward(Context&, std::span<const Sequence> batch, MatrixView<float> h) const {
    Index t = 0;
    for (const auto& [ids, cache] : batch)
      for (const int id : ids) {
        h(t++, 0) = static_cast<float>((id + (cache->ids.empty() ? 0 : cache->ids.back())) % config_.vocab_size);
        cache->ids.push_back(id);
      }
  }
  void logits(Context&, ConstMatrixView<float> h, MatrixView<float> logits) const {
    logits.setZero();
    for (Index t = 0; t < h.rows(); ++t) logits(t, static_cast<Index>(h(t, 0))) = 1;
  }

 private:
  Config config_;
};
static_assert(LanguageModel<Fibonacci> && !Speculative<Fibonacci>);
// [/own_model]

/// One whose caches can share what they begin with, but not when memory is short.
class Forgetful : public Fibonacci {
 public:
  class Cache : public Fibonacci::Cache {
   public:
    using Fibonacci::Cache::Cache;
    Cache fork(Index, Index, CacheOptions) const { throw std::bad_alloc(); }
  };
  struct Sequence {
    std::span<const int> ids;
    Cache* cache = nullptr;
  };
  using Fibonacci::Fibonacci;
  Cache make_cache(CacheOptions options) const { return Cache(options); }
  void forward(Context& ctx, std::span<const Sequence> batch, MatrixView<float> h) const {
    std::vector<Fibonacci::Sequence> plain;
    for (const auto& [ids, cache] : batch) plain.push_back({ids, cache});
    Fibonacci::forward(ctx, plain, h);
  }
};

}  // namespace

TEST_CASE("a model of one's own is generated from in every way") {
  const Fibonacci model(test::tiny_config());
  test::check_generation(model, {1, 2});
  Context ctx;
  std::vector<int> text;
  auto cache = model.make_cache({.max_tokens = 10});
  generate(ctx, model, cache, std::vector<int>{1, 2}, {.max_new_tokens = 6}, [&](int id) { return text.push_back(id), true; });
  CHECK(text == std::vector<int>{3, 5, 8, 13, 21, 34});
}

TEST_CASE("a request is told its end though its text cannot be kept") {
  const Forgetful model(test::tiny_config());
  static_assert(shares_prefixes<Forgetful>);
  Scheduler scheduler(model, {.max_tokens = 200, .cache_tokens = 512});
  Context ctx;
  int ended = 0;
  Request r;
  r.prompt.assign(100, 1);
  r.max_new_tokens = 80;
  r.stop_tokens = std::vector<int>{};
  for (int i = 0; i < 3; ++i) (void)scheduler.submit(r, {}, [&](const Finish& f) { ended += f.reason == FinishReason::max_new_tokens; });
  int steps = 0;
  while (scheduler.step(ctx) && ++steps < 1000) {
  }
  CHECK(ended == 3);
  CHECK(steps < 1000);
}
