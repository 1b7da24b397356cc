// Sequences in a scheduler get what they would get alone, each ends once, and limits hold.
#include "dsv3/generate/scheduler.hpp"

#include <atomic>
#include <thread>

#include "dsv3/generate/complete.hpp"
#include "generate/models.hpp"
#include "support/sanitized.hpp"

using namespace test;

namespace {

using TestModel = Model<DeepSeekV3>;
using Many = Scheduler<Model<DeepSeekV3>>;

/// Requests of many kinds: lengths of prompt and answer, greedy and drawn, penalties.
std::vector<Request> requests(std::size_t n) {
  Random random(3);
  std::vector<Request> out;
  for (std::size_t i = 0; i < n; ++i) {
    Request r{.prompt = passage(static_cast<std::size_t>(random.between(1, 50))), .max_new_tokens = random.between(1, 20)};
    r.prompt[0] = static_cast<int>(random.between(2, 1023));
    if (i % 3 == 1) r.sampling = {.temperature = 0.8, .top_k = 30, .seed = i};
    if (i % 3 == 2) r.sampling = {.temperature = 0.6, .top_p = 0.9, .frequency_penalty = 0.2, .seed = i};
    out.push_back(std::move(r));
  }
  return out;
}

struct Ended {
  Written written;
  int finishes = 0;
  Finish finish;
};

std::optional<Many::Id> submit(Many& scheduler, Request request, Ended& ended) {
  return scheduler.submit(
      std::move(request), [&](const Token& t) { return ended.written.add(t.id, t.logits), true; },
      [&](const Finish& f) {
        ++ended.finishes;
        ended.finish = f;
      });
}

Ended alone(const TestModel& model, Request request, const SchedulerOptions& options) {
  Context ctx;
  Ended out;
  CachedText text{model.make_cache({options.max_tokens})};
  const OnToken keep = [&](const Token& t) { return out.written.add(t.id, t.logits), true; };
  out.finish = complete(ctx, model, text, std::move(request), {.depth = options.depth, .verification = options.verification}, keep);
  return out;
}

}  // namespace

TEST_CASE("each sequence gets the bits it would get alone, and steps keep to their rows") {
  const TestModel three = with_modules(3, false);
  for (const Index depth : fewer<std::vector<Index>>({0, 1, 4}, {4})) {
    CAPTURE(depth);
    const SchedulerOptions options{
        .max_sequences = 5, .max_tokens = 100, .cache_tokens = 256, .step_tokens = 5 * (1 + depth) + 4, .depth = depth};
    const auto all = requests(fewer<std::size_t>(18, 6));
    Many scheduler(three, options);
    std::vector<Ended> ended(all.size());
    Context ctx;
    for (std::size_t i = 0; i < all.size(); ++i) {  // some arrive while others run
      REQUIRE(submit(scheduler, all[i], ended[i]).has_value());
      if (i % 4 == 3) CHECK(scheduler.step(ctx));
    }
    std::uint64_t rows = scheduler.stats().rows;
    while (scheduler.step(ctx)) {
      const SchedulerStats now = scheduler.stats();
      CHECK(now.rows - rows <= static_cast<std::uint64_t>(options.step_tokens));
      CHECK(now.running <= options.max_sequences);
      CHECK(now.cache_tokens <= options.cache_tokens);
      rows = now.rows;
    }
    std::uint64_t tokens = 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
      CAPTURE(i);
      const Ended expected = alone(three, all[i], options);
      CHECK(ended[i].written == expected.written);
      CHECK(ended[i].finishes == 1);
      CHECK(ended[i].finish.reason == expected.finish.reason);
      CHECK(ended[i].finish.stats.accepted == expected.finish.stats.accepted);
      tokens += static_cast<std::uint64_t>(expected.finish.stats.new_tokens);
    }
    const SchedulerStats end = scheduler.stats();
    CHECK(end.finished == all.size());
    CHECK(end.new_tokens == tokens);
    CHECK(end.queued + end.running == 0);
    CHECK(end.cache_tokens == end.kept_tokens);
    CHECK((end.accepted > 0) == (depth > 0));
  }
}

TEST_CASE("prompts are computed beside the decoding of others") {
  Many scheduler(shakespeare(), {.max_sequences = 2, .max_tokens = 200, .step_tokens = 8});
  Context ctx;
  Ended first, second;
  submit(scheduler, {.prompt = passage(3), .max_new_tokens = 30}, first);
  scheduler.step(ctx);
  submit(scheduler, {.prompt = passage(70), .max_new_tokens = 2}, second);
  while (second.written.ids.empty()) {
    const auto before = first.written.ids.size();
    scheduler.step(ctx);
    CHECK(first.written.ids.size() == before + 1);
  }
  CHECK(first.written.ids.size() == 1 + 10);  // seven rows a step are left for the prompt
}

TEST_CASE("what prompts begin with in common is computed once, to the same bits") {
  const std::vector<int> system = passage(150);
  const int n = fewer(9, 3);
  const auto at_once = static_cast<std::size_t>(n / 2 + 1);
  for (const Index depth : fewer<std::vector<Index>>({0, 2}, {2})) {
    CAPTURE(depth);
    const SchedulerOptions options{.max_sequences = 6, .max_tokens = 250, .cache_tokens = 64 * 30, .step_tokens = 40, .depth = depth};
    Many scheduler(shakespeare(), options);
    Context ctx;
    std::vector<Request> all;
    for (int i = 0; i < n; ++i) {
      Request r{.prompt = system, .max_new_tokens = 12 + i};
      r.prompt.insert(r.prompt.end(), {100 + i, 7, 300 + i});
      if (i % 2 == 1) r.sampling = {.temperature = 0.8, .top_k = 20, .seed = static_cast<std::uint64_t>(i)};
      all.push_back(r);
    }
    std::vector<Ended> ended(all.size());
    for (std::size_t i = 0; i < at_once; ++i) submit(scheduler, all[i], ended[i]);  // at once: the others wait for the first to compute it
    while (scheduler.step(ctx)) CHECK(scheduler.stats().cache_tokens <= options.cache_tokens);
    for (std::size_t i = at_once; i < all.size(); ++i) submit(scheduler, all[i], ended[i]);  // and later
    while (scheduler.step(ctx)) {
    }
    for (std::size_t i = 0; i < all.size(); ++i) {
      CAPTURE(i);
      CHECK(ended[i].written == alone(shakespeare(), all[i], options).written);
      CHECK(ended[i].finish.stats.cached_tokens == (i == 0 ? 0 : 128));
    }
    // A conversation that goes on.
    Request next{.prompt = all[static_cast<std::size_t>(n / 3)].prompt, .max_new_tokens = 70};
    Ended first, second;
    submit(scheduler, next, first);
    while (scheduler.step(ctx)) {
    }
    next.prompt.insert(next.prompt.end(), first.written.ids.begin(), first.written.ids.end());
    submit(scheduler, next, second);
    while (scheduler.step(ctx)) {
    }
    CHECK(first.finish.stats.cached_tokens == 128);
    CHECK(second.finish.stats.cached_tokens == 192);
    CHECK(second.written == alone(shakespeare(), next, options).written);
  }
}

TEST_CASE("kept texts make room, the longest unused first") {
  const SchedulerOptions options{.max_sequences = 2, .max_tokens = 256, .cache_tokens = 64 * 6, .step_tokens = 64};
  Many scheduler(shakespeare(), options);
  Context ctx;
  const auto run = [&](int start, std::size_t tokens) {
    Request r{.prompt = passage(tokens), .max_new_tokens = 2};
    r.prompt[0] = start;
    Ended ended;
    submit(scheduler, r, ended);
    while (scheduler.step(ctx)) CHECK(scheduler.stats().cache_tokens <= options.cache_tokens);
    if (!sanitized || ended.finish.stats.cached_tokens > 0) CHECK(ended.written == alone(shakespeare(), r, options).written);
    return ended.finish.stats.cached_tokens;
  };
  CHECK(run(2, 130) == 0);  // two pages stay
  CHECK(run(3, 130) == 0);
  CHECK(scheduler.stats().kept_tokens == 256);
  CHECK(run(2, 130) == 128);  // was used after the other
  CHECK(run(4, 180) == 0);    // three pages: one is missing
  CHECK(run(2, 130) == 128);
  CHECK(run(3, 130) == 0);
  CHECK(run(5, 255) == 0);  // whatever is kept: this needs four
  CHECK(run(5, 255) == 192);

  SchedulerOptions none = options;
  none.keep_prefixes = false;
  Many forgetful(shakespeare(), none);
  for (int i = 0; i < 2; ++i) {
    Ended ended;
    submit(forgetful, {.prompt = passage(130), .max_new_tokens = 2}, ended);
    while (forgetful.step(ctx)) {
    }
    CHECK(ended.finish.stats.cached_tokens == 0);
    CHECK(forgetful.stats().cache_tokens == 0);
  }
}

TEST_CASE("requests that share and fail, end and are cancelled at random leave nothing behind") {
  const SchedulerOptions options{.max_sequences = 4, .max_tokens = 200, .cache_tokens = 64 * 8, .step_tokens = 30, .depth = 1};
  Many scheduler(shakespeare(), options);
  Context ctx;
  Random random(8);
  struct Client {
    Request request;
    Ended ended;
    std::optional<Many::Id> id;
  };
  std::vector<std::unique_ptr<Client>> clients;
  const int n = fewer(40, 10);
  for (int i = 0; i < n; ++i) {
    auto& c = *clients.emplace_back(std::make_unique<Client>());
    c.request = {.prompt = passage(static_cast<std::size_t>(random.between(1, 160))), .max_new_tokens = random.between(1, 30)};
    c.request.prompt[static_cast<std::size_t>(random.between(0, static_cast<Index>(c.request.prompt.size()) - 1))] = 5;
    c.id = submit(scheduler, c.request, c.ended);
    for (Index steps = random.between(0, 6); steps > 0; --steps) scheduler.step(ctx);
    if (const auto& other = clients[static_cast<std::size_t>(random.between(0, i))]; random.between(0, 3) == 0 && other->id)
      scheduler.cancel(*other->id);
    CHECK(scheduler.stats().cache_tokens <= options.cache_tokens);
  }
  while (scheduler.step(ctx)) CHECK(scheduler.stats().cache_tokens <= options.cache_tokens);
  Index shared = 0, whole = 0;
  for (const auto& c : clients) {
    CHECK(c->ended.finishes == 1);
    shared += c->ended.finish.stats.cached_tokens;
    if (c->ended.finish.reason == FinishReason::cancelled) continue;
    ++whole;
    CHECK(c->ended.written == alone(shakespeare(), c->request, options).written);
  }
  CHECK(shared > 0);
  CHECK(whole > n / 4);
  CHECK(scheduler.stats().cache_tokens == scheduler.stats().kept_tokens);
}

TEST_CASE("queue and memory are limited") {
  Many scheduler(shakespeare(), {.max_sequences = 4, .max_queue = 3, .max_tokens = 60, .cache_tokens = 128, .step_tokens = 32});
  Context ctx;
  std::vector<Ended> ended(5);
  for (std::size_t i = 0; i < 3; ++i) CHECK(submit(scheduler, {.prompt = passage(20), .max_new_tokens = 6}, ended[i]).has_value());
  CHECK_FALSE(submit(scheduler, {.prompt = passage(20)}, ended[3]).has_value());
  CHECK(scheduler.stats().refused == 1);
  CHECK(scheduler.stats().queued == 3);
  CHECK_THROWS_WITH_AS(submit(scheduler, {.prompt = passage(61)}, ended[3]), "request: the prompt has 61 tokens, the cache has room for 60",
                       Error);
  scheduler.step(ctx);
  CHECK(scheduler.stats().running == 1);  // a page each, and one for the first to grow
  CHECK(scheduler.stats().cache_tokens == 64);
  CHECK(submit(scheduler, {.prompt = passage(40), .max_new_tokens = 100}, ended[4]).has_value());
  while (scheduler.step(ctx)) CHECK(scheduler.stats().cache_tokens <= 128);
  for (const std::size_t i : {0, 1, 2, 4}) CHECK(ended[i].finishes == 1);
  CHECK(ended[3].finishes == 0);
  CHECK(ended[4].finish.reason == FinishReason::cache_full);
  CHECK(ended[4].written.ids.size() == 21);
}

TEST_CASE("sequences take pages as they grow; the youngest give way, and their texts go on unchanged") {
  const TestModel three = with_modules(3, false);
  Context ctx;
  for (const Index depth : fewer<std::vector<Index>>({0, 2}, {2}))
    for (const bool keep : {true, false}) {
      CAPTURE(depth);
      CAPTURE(keep);
      const SchedulerOptions options{
          .max_sequences = 8, .max_tokens = 256, .cache_tokens = 64 * 7, .keep_prefixes = keep, .step_tokens = 40, .depth = depth};
      Many scheduler(three, options);
      std::vector<Request> all;
      for (int i = 0; i < 10; ++i) {
        Request r{
            .prompt = passage(static_cast<std::size_t>(20 + 7 * i)), .max_new_tokens = 130 - 9 * i, .stop_tokens = std::vector<int>{}};
        r.prompt[0] = 2 + i;
        if (i % 3 == 1) r.sampling = {.temperature = 0.8, .top_k = 30, .seed = static_cast<std::uint64_t>(i)};
        if (i % 3 == 2) r.sampling = {.temperature = 0.6, .top_p = 0.9, .frequency_penalty = 0.2, .seed = static_cast<std::uint64_t>(i)};
        if (i == 4) r.log_probabilities = 0, r.report_prompt = true;  // is reported once
        all.push_back(std::move(r));
      }
      std::vector<Ended> ended(all.size());
      for (std::size_t i = 0; i < all.size(); ++i) submit(scheduler, all[i], ended[i]);
      Index most = 0;
      while (scheduler.step(ctx)) {
        CHECK(scheduler.stats().cache_tokens <= options.cache_tokens);
        most = std::max(most, scheduler.stats().running);
      }
      CHECK(most > 2);  // with their longest answers two would fit
      CHECK(scheduler.stats().preempted > 0);
      for (std::size_t i = 0; i < all.size(); ++i) {
        CAPTURE(i);
        CHECK(ended[i].finishes == 1);
        CHECK(ended[i].finish.reason == FinishReason::max_new_tokens);
        CHECK(ended[i].written == alone(three, all[i], options).written);
      }
    }
}

TEST_CASE("cancelled and failing requests end, and leave the others alone") {
  Many scheduler(shakespeare(), {.max_sequences = 4, .max_tokens = 100, .step_tokens = 64});
  Context ctx;
  std::vector<Ended> ended(6);
  const Request request{.prompt = passage(10), .max_new_tokens = 25};
  const auto running = submit(scheduler, request, ended[0]);
  submit(scheduler, request, ended[1]);
  Request spoiled = request;
  spoiled.processors = {[](const TextSoFar& text, std::span<float> logits) {
    if (text.generated().size() == 3) std::fill(logits.begin(), logits.end(), excluded);
  }};
  submit(scheduler, spoiled, ended[2]);
  const auto finish = [&](std::size_t i) {
    return [&, i](const Finish& f) {
      ++ended[i].finishes;
      ended[i].finish = f;
      throw 1;  // is lost
    };
  };
  REQUIRE(scheduler.submit(
      request, [](const Token& t) -> bool { return t.index < 2 ? true : throw std::runtime_error("no more paper"); }, finish(3)));
  const auto queued = scheduler.submit(request, {}, finish(4));
  submit(scheduler, request, ended[5]);
  for (int i = 0; i < 3; ++i) scheduler.step(ctx);
  CHECK(scheduler.cancel(*running));
  CHECK(scheduler.cancel(*queued));
  CHECK_FALSE(scheduler.cancel(12345));
  while (scheduler.step(ctx)) {
  }
  for (const Ended& e : ended) CHECK(e.finishes == 1);
  CHECK(ended[0].finish.reason == FinishReason::cancelled);
  CHECK(ended[0].written.ids.size() == 3);
  CHECK(ended[2].finish.reason == FinishReason::error);
  CHECK(ended[2].written.ids.size() == 3);
  CHECK(ended[3].finish.error == "no more paper");
  CHECK(ended[4].finish.reason == FinishReason::cancelled);
  const Ended expected = alone(shakespeare(), request, scheduler.options());
  CHECK(ended[1].written == expected.written);
  CHECK(ended[5].written == expected.written);
  CHECK_FALSE(scheduler.cancel(*running));
  const SchedulerStats end = scheduler.stats();
  CHECK(end.cancelled == 2);
  CHECK(end.failed == 2);
  CHECK(end.finished == 2);
}

TEST_CASE("a model of NaN ends the requests of the step, not the program") {
  TestModel broken(shakespeare().config());
  init_normal(broken, 1, NAN);
  Many scheduler(broken);
  Context ctx;
  Ended ended;
  submit(scheduler, {.prompt = {1, 2}}, ended);
  CHECK_FALSE(scheduler.step(ctx));
  CHECK(ended.finish.reason == FinishReason::error);
  CHECK(ended.finish.error.find("not finite") != std::string::npos);
}

TEST_CASE("requests come and go from several threads") {
  Many scheduler(shakespeare(), {.max_sequences = 6, .max_queue = 8, .max_tokens = 40, .cache_tokens = 200, .step_tokens = 32, .depth = 1});
  const Request request{.prompt = passage(6), .max_new_tokens = 6};
  const Ended expected = alone(shakespeare(), request, scheduler.options());
  std::atomic<int> accepted = 0, finishes = 0, whole = 0, wrong = 0, clients = 4;
  std::vector<std::thread> threads;
  for (int client = 0; client < 4; ++client)
    threads.emplace_back([&, client] {
      for (int i = 0; i < 12; ++i) {
        const auto ids = std::make_shared<std::vector<int>>();
        const auto id = scheduler.submit(
            request, [ids](const Token& t) { return ids->push_back(t.id), true; },
            [&, ids](const Finish& f) {
              ++finishes;
              if (f.reason == FinishReason::max_new_tokens) {
                ++whole;
                wrong += *ids != expected.written.ids;
              }
            });
        if (id) {
          ++accepted;
          if (i % 3 == client % 3) scheduler.cancel(*id);
        } else {
          std::this_thread::yield();
        }
        scheduler.stats();
      }
      --clients;
    });
  Context ctx;
  while (clients > 0) {
    scheduler.step(ctx);
    scheduler.wait(std::chrono::milliseconds(1));
  }
  while (scheduler.step(ctx)) {
  }
  for (auto& t : threads) t.join();
  CHECK(finishes == accepted);
  CHECK(whole > 0);
  CHECK(wrong == 0);
}

TEST_CASE("cancel_all ends everything; options are checked") {
  Many scheduler(shakespeare(), {.max_sequences = 1, .step_tokens = 8});
  Context ctx;
  std::vector<Ended> ended(3);
  for (Ended& e : ended) submit(scheduler, {.prompt = passage(4)}, e);
  scheduler.step(ctx);
  scheduler.cancel_all();
  CHECK_FALSE(scheduler.step(ctx));
  for (const Ended& e : ended) CHECK(e.finish.reason == FinishReason::cancelled);

  const auto refused = [](const TestModel& model, const SchedulerOptions& options) { CHECK_THROWS_AS(Many(model, options), Error); };
  refused(shakespeare(), {.max_sequences = 0});
  refused(shakespeare(), {.max_queue = 0});
  refused(shakespeare(), {.max_tokens = 0});
  refused(shakespeare(), {.cache_tokens = 0});
  refused(shakespeare(), {.depth = -1});
  refused(with_modules(0, true), {.depth = 1});
  CHECK_THROWS_WITH_AS(
      Scheduler(shakespeare(), {.max_sequences = 16, .step_tokens = 32, .depth = 1}),
      "scheduler: step_tokens: expected more than 32, the tokens and drafts of max_sequences, so that prompts get on; got 32", Error);
}

TEST_CASE("one token of a prompt is never taken from a kept text") {
  PrefixStore<TestModel> store(0);
  const std::vector<int> text = passage(192);
  const auto common = [&](std::size_t prompt) { return store.common(text, std::span(text).first(prompt), 192); };
  CHECK(common(192) == 128);
  CHECK(common(129) == 128);
  CHECK(common(128) == 64);  // all 128 are there, but the last must be computed to give logits
  CHECK(common(64) == 0);
  CHECK(PrefixStore<TestModel>(1).common(text, text, 192) == 128);
}

TEST_CASE("tokens of prompts are reported with the logits of the whole text, also where others computed them") {
  const TestModel three = with_modules(3, false);
  Context ctx;
  NoTape none;
  for (const Index depth : {0, 2}) {
    CAPTURE(depth);
    Many scheduler(three, {.max_sequences = 4, .max_tokens = 200, .step_tokens = 24, .depth = depth});
    for (const std::size_t tokens : {1, 2, 33, 80}) {
      CAPTURE(tokens);
      Request request{.prompt = passage(tokens), .max_new_tokens = 3, .log_probabilities = 2, .report_prompt = true};
      std::vector<Cache<DeepSeekV3>> caches;
      const Matrix<int> ids = Eigen::Map<const Matrix<int>>(request.prompt.data(), 1, static_cast<Index>(tokens));
      const Matrix<float> h = run_batch(ctx, three, ids, caches, none);
      Matrix<float> logits(h.rows(), three.config().vocab_size);
      three.logits(ctx, view(h), view(logits));

      for (const Index max_new : {0, 3}) {  // the same prompt twice: the second time its pages are kept
        request.max_new_tokens = max_new;
        Index next = -static_cast<Index>(tokens);
        Finish end;
        (void)scheduler.submit(
            request,
            [&](const Token& t) {
              CHECK(t.index == next);
              if (next < 0) CHECK(t.id == request.prompt[static_cast<std::size_t>(next + static_cast<Index>(tokens))]);
              if (const Index row = next + static_cast<Index>(tokens) - 1; row < 0) {
                CHECK((t.logits.empty() && !t.log_probabilities));
              } else if (next < 0) {
                const std::span<const float> expected(logits.row(row).data(), t.logits.size());
                CHECK(std::equal(expected.begin(), expected.end(), t.logits.begin()));
                const auto log = sampling::log_probabilities(expected, t.id, 2);
                CHECK((t.log_probabilities->chosen == log.chosen && t.log_probabilities->rank == log.rank));
                CHECK(log.rank == 1 + std::count_if(expected.begin(), expected.end(),
                                                    [&](float l) { return l > expected[static_cast<std::size_t>(t.id)]; }));
              }
              ++next;
              return true;
            },
            [&](const Finish& f) { end = f; });
        while (scheduler.step(ctx)) {
        }
        CHECK(next == max_new);
        CHECK(end.reason == FinishReason::max_new_tokens);
        CHECK((end.stats.cached_tokens == 0 && end.stats.new_tokens == max_new));
      }
    }
    bool ended = false;  // a callback that returns false ends it there
    Index seen = 0;
    (void)scheduler.submit(
        {.prompt = passage(50), .report_prompt = true}, [&](const Token&) { return ++seen < 40; },
        [&](const Finish& f) { ended = f.reason == FinishReason::cancelled; });
    while (scheduler.step(ctx)) {
    }
    CHECK((ended && seen == 40));
  }
}
