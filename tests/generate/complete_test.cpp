// Speculation changes nothing but the number of passes.
#include "dsv3/generate/complete.hpp"

#include "generate/models.hpp"
#include "support/sanitized.hpp"

using namespace test;

namespace {

struct Completed {
  Written written;
  Finish finish;
};

template <class P>
Completed completed(const Model<P>& model, CachedText<Cache<P>>& text, Request request, CompleteOptions options, TokenBytes bytes = {}) {
  Context ctx;
  Completed out;
  const OnToken keep = [&](const Token& token) {
    CHECK(token.index == static_cast<Index>(out.written.ids.size()));
    out.written.add(token.id, token.logits);
    return true;
  };
  out.finish = complete(ctx, model, text, std::move(request), options, keep, std::move(bytes));
  CHECK(out.finish.stats.new_tokens == static_cast<Index>(out.written.ids.size()));
  return out;
}

template <class P>
Completed completed(const Model<P>& model, Request request, CompleteOptions options, TokenBytes bytes = {}) {
  CachedText text{model.make_cache({static_cast<Index>(request.prompt.size()) + request.max_new_tokens})};
  return completed(model, text, std::move(request), options, std::move(bytes));
}

/// What generate() writes with the pipeline of `request`.
template <class P>
Written plain(const Model<P>& model, const Request& request) {
  return test::plain(model, request.prompt, request.max_new_tokens,
                     PipelineSampler(request.sampling, model.config().vocab_size, request.prompt, request.processors));
}

/// How many drafts are judged and accepted if `text`, of which `prompt` tokens are given, is written with one draft for each of the
/// MTP modules: computed from the states of the whole text at once.
template <class P>
std::pair<Index, Index> drafts_by_teacher(const Model<P>& model, const std::vector<int>& text, Index prompt) {
  Context ctx;
  NoTape none;
  const Index n = static_cast<Index>(text.size()), modules = model.mtp_modules();
  std::vector<Cache<P>> caches;
  const Matrix<int> ids = Eigen::Map<const Matrix<int>>(text.data(), 1, n);
  Matrix<float> h = run_batch(ctx, model, ids, caches, none);
  std::vector<std::vector<int>> likeliest;  // [module][position]
  for (Index k = 0; k < modules; ++k) {
    h = Matrix<float>(h.topRows(n - k - 1));
    const typename Model<P>::Sequence s{std::span(text).subspan(static_cast<std::size_t>(k) + 1), &caches[0]};
    model.mtp_forward(ctx, k, {&s, 1}, view(h), view(h));
    Matrix<float> logits(h.rows(), model.config().vocab_size);
    model.mtp_logits(ctx, k, view(h), view(logits));
    auto& best = likeliest.emplace_back();
    for (Index i = 0; i < logits.rows(); ++i) best.push_back(Greedy{}({logits.row(i).data(), static_cast<std::size_t>(logits.cols())}));
  }
  Index drafted = 0, accepted = 0;
  for (Index next = prompt + 1; next < n;) {  // the first pass has no drafts; text[next] is what this one chooses first
    const Index most = std::min(modules, n - next - 1);
    Index k = 0;
    for (bool stands = true; k < most && stands; ++k) {
      ++drafted;
      const int draft = likeliest[static_cast<std::size_t>(k)][static_cast<std::size_t>(next - 2)];
      stands = draft == text[static_cast<std::size_t>(next + k)];
      accepted += stands;
      if (!stands) break;
    }
    next += k + 1;
  }
  return {drafted, accepted};
}

}  // namespace

TEST_CASE("greedy text and its logits are those of the plain loop, bit for bit") {
  const auto tiny = io::load<DeepSeekV3>(DSV3_TEST_DATA "/golden/v3-tiny");
  const Model<> three = with_modules(3, false), wrong = with_modules(2, true);
  Random random(1);
  for (const auto& [model, name] : {std::pair<const Model<>*, const char*>{&shakespeare(), "trained"},
                                    {&three, "three modules"},
                                    {&wrong, "random modules"},
                                    {&tiny, "golden"}}) {
    const std::string which = name;
    CAPTURE(which);
    Index accepted = 0;
    for (const std::size_t tokens : fewer<std::vector<std::size_t>>({1, 2, 3, 5, 17, 40}, {1, 17})) {
      CAPTURE(tokens);
      const std::vector<int> prompt = model == &tiny ? random.ids(static_cast<Index>(tokens), tiny.config().vocab_size) : passage(tokens);
      const Index max_new = fewer<Index>(12, 6) + static_cast<Index>(tokens % 7);
      const Written expected = test::plain(*model, prompt, max_new, Greedy{});
      for (const auto& [depth, chunk] : {std::pair<Index, Index>{0, 3}, {1, 1}, {1, 512}, {2, 3}, {3, 512}, {5, 2}}) {
        const Index drafts = depth;
        CAPTURE(drafts);
        const auto [written, finish] =
            completed(*model, {.prompt = prompt, .max_new_tokens = max_new}, {.depth = depth, .prefill_chunk = chunk});
        CHECK(written == expected);
        accepted += finish.stats.accepted;
      }
    }
    if (model == &shakespeare() || model == &three) CHECK(accepted > 0);
  }
}

TEST_CASE("drafts are those that the modules make of the whole text") {
  const Model<> three = with_modules(3, false);
  for (const Model<>* model : {&shakespeare(), &three})
    for (const std::size_t tokens : fewer<std::vector<std::size_t>>({1, 2, 7, 23}, {2})) {
      CAPTURE(tokens);
      const Request request{.prompt = passage(tokens), .max_new_tokens = fewer<Index>(60, 30), .stop_tokens = std::vector<int>{}};
      for (const Index chunk : {2, 512}) {
        CAPTURE(chunk);
        const auto [written, finish] = completed(*model, request, {.depth = model->mtp_modules(), .prefill_chunk = chunk});
        std::vector<int> text = request.prompt;
        text.insert(text.end(), written.ids.begin(), written.ids.end());
        const auto [drafted, accepted] = drafts_by_teacher(*model, text, static_cast<Index>(tokens));
        CHECK(finish.stats.drafted == drafted);
        CHECK(finish.stats.accepted == accepted);
        CHECK(finish.stats.passes == finish.stats.new_tokens - finish.stats.accepted);
      }
    }
}

TEST_CASE("penalties, masks and stop tokens act the same under speculation") {
  const AnyTokenMask no_neighbours = [](const TextSoFar& text, std::span<std::uint8_t> allowed) {  // no id twice in four tokens
    for (const int id : text.ids.last(std::min<std::size_t>(text.ids.size(), 4))) allowed[static_cast<std::size_t>(id)] = 0;
  };
  Request request{.prompt = passage(9),
                  .max_new_tokens = 40,
                  .sampling = {.repetition_penalty = 1.1, .presence_penalty = 0.3, .frequency_penalty = 0.2, .logit_bias = {{200, -2.0f}}},
                  .processors = {sampling::Masked(no_neighbours)}};
  const Written expected = plain(shakespeare(), request);
  for (const Index depth : {1, 3}) CHECK(completed(shakespeare(), request, {.depth = depth}).written == expected);
  for (const Index depth : {0, 1, 2, 3}) {
    request.stop_tokens = std::vector<int>{expected.ids[20]};
    const auto [written, finish] = completed(shakespeare(), request, {.depth = depth});
    const auto first = std::find(expected.ids.begin(), expected.ids.end(), expected.ids[20]);
    CHECK(written.ids == std::vector<int>(expected.ids.begin(), first));
    CHECK(finish.reason == FinishReason::stop_token);
  }
}

TEST_CASE("with Verification::same_choice a seed's text is that of the plain loop") {
  const Model<> three = with_modules(3, false);
  Index accepted = 0;
  for (const std::uint64_t seed : fewer<std::vector<std::uint64_t>>({1, 2, 3}, {1})) {
    const Request request{.prompt = passage(6),
                          .max_new_tokens = 40,
                          .sampling = {.temperature = 0.7, .top_k = 20, .top_p = 0.95, .presence_penalty = 0.1, .seed = seed}};
    const Written expected = plain(three, request);
    for (const Index depth : fewer<std::vector<Index>>({0, 1, 3, 4}, {1, 4})) {
      const Written drawn = completed(three, request, {.depth = depth}).written;  // chunks do not change what rejection draws
      CHECK(completed(three, request, {.depth = depth, .prefill_chunk = 5}).written == drawn);
      CHECK(completed(three, request, {.depth = depth, .prefill_chunk = 1}).written == drawn);
      const auto [written, finish] = completed(three, request, {.depth = depth, .verification = Verification::same_choice});
      CHECK(written == expected);
      accepted += finish.stats.accepted;
    }
    CHECK(completed(three, request, {.depth = 0}).written == expected);
  }
  CHECK(accepted > 0);
}

// Frequencies need many draws. A sanitizer sees the same code draw less in the test above.
TEST_CASE("drawn text under speculation follows the model's distribution" * doctest::skip(sanitized)) {
  // The exact probabilities of all texts of three tokens, from the plain distribution.
  const SamplingOptions sampling{.temperature = 0.9, .top_k = 3};
  const std::vector<int> prompt = passage(5);
  const Model<>& model = shakespeare();
  std::map<std::vector<int>, double> expected{{{}, 1.0}};
  Context ctx;
  for (int place = 0; place < 3; ++place) {
    std::map<std::vector<int>, double> longer;
    for (const auto& [ids, probability] : expected) {
      std::vector<int> text = prompt;
      text.insert(text.end(), ids.begin(), ids.end());
      Matrix<float> h(static_cast<Index>(text.size()), model.config().hidden_size), logits(1, model.config().vocab_size);
      auto cache = model.make_cache({h.rows()});
      const Model<>::Sequence s{text, &cache};
      model.forward(ctx, {&s, 1}, view(h));
      model.logits(ctx, view(h).slice(h.rows() - 1, 1), view(logits));
      std::vector<double> p;
      sampling::Pipeline(sampling).distribution({text, prompt.size()}, {logits.data(), static_cast<std::size_t>(logits.size())}, p);
      for (std::size_t id = 0; id < p.size(); ++id)
        if (p[id] > 0) {
          auto next = ids;
          next.push_back(static_cast<int>(id));
          longer[next] = probability * p[id];
        }
    }
    expected = std::move(longer);
  }
  REQUIRE(expected.size() == 27);

  constexpr int draws = 500;
  std::map<std::vector<int>, int> count;
  Index drafted = 0, accepted = 0;
  CachedText text{model.make_cache({16})};
  for (int seed = 0; seed < draws; ++seed) {
    Request request{.prompt = prompt, .max_new_tokens = 3, .sampling = sampling, .stop_tokens = std::vector<int>{}};
    request.sampling.seed = static_cast<std::uint64_t>(seed);
    const auto [written, finish] = completed(model, text, std::move(request), {.depth = 2});
    ++count[written.ids];
    drafted += finish.stats.drafted;
    accepted += finish.stats.accepted;
  }
  CHECK(accepted > drafted / 10);
  CHECK(accepted < drafted);
  for (const auto& [ids, n] : count) CHECK(expected.contains(ids));
  for (const auto& [ids, p] : expected)  // five standard deviations of a binomial count
    CHECK(std::abs(count[ids] - draws * p) <= 5 * std::sqrt(draws * p * (1 - p)));
}

TEST_CASE("a longer text continues what is cached") {
  for (const Index depth : {0, 1, 2}) {
    CAPTURE(depth);
    CachedText text{shakespeare().make_cache({200})};
    const auto first = completed(shakespeare(), text, {.prompt = passage(12), .max_new_tokens = 20}, {.depth = depth});
    CHECK(first.finish.stats.cached_tokens == 0);
    std::vector<int> prompt = passage(12);
    prompt.insert(prompt.end(), first.written.ids.begin(), first.written.ids.end());
    prompt.insert(prompt.end(), {7, 7, 9});
    const auto second = completed(shakespeare(), text, {.prompt = prompt, .max_new_tokens = 20}, {.depth = depth});
    CHECK(second.finish.stats.cached_tokens >= 32 - depth - 2);
    CHECK(second.written == test::plain(shakespeare(), prompt, 20, Greedy{}));

    prompt.resize(15);  // an earlier place, and another way on
    prompt.push_back(3);
    const auto third = completed(shakespeare(), text, {.prompt = prompt, .max_new_tokens = 20}, {.depth = depth});
    CHECK(third.finish.stats.cached_tokens == (depth == 0 ? 15 : 14));  // a module must see the token after its last position again
    CHECK(third.written == test::plain(shakespeare(), prompt, 20, Greedy{}));
    const auto again = completed(shakespeare(), text, {.prompt = prompt, .max_new_tokens = 20}, {.depth = 1});  // a depth it did not have
    CHECK(again.written == third.written);
    CHECK(text.cache.size() == static_cast<Index>(text.ids.size()));
  }
}

TEST_CASE("text, stop strings and log-probabilities") {
  const TokenBytes bytes = [](int id) {
    static std::string last;
    last = "<" + std::to_string(id) + ">";
    return std::string_view(last);
  };
  const Written expected = test::plain(shakespeare(), passage(8), 12, Greedy{});
  std::string all;
  for (const int id : expected.ids) all += bytes(id);
  const std::string stop = all.substr(all.size() / 2, 7);  // straddles tokens
  for (const Index depth : {0, 2}) {
    Context ctx;
    CachedText text{shakespeare().make_cache({64})};
    std::string shown;
    const OnToken show = [&](const Token& token) {
      shown += token.text;
      REQUIRE(token.log_probabilities.has_value());
      CHECK(token.log_probabilities->top.at(0).id == token.id);
      CHECK(token.log_probabilities->top.at(0).value == token.log_probabilities->chosen);
      CHECK(token.log_probabilities->chosen <= 0);
      return true;
    };
    Request request{.prompt = passage(8), .max_new_tokens = 12, .log_probabilities = 2};
    Finish finish = complete(ctx, shakespeare(), text, request, {.depth = depth}, show, bytes);
    CHECK(shown + finish.text == all);
    CHECK(finish.reason == FinishReason::max_new_tokens);

    shown.clear();
    request.stop_strings = {"not there", stop};
    finish = complete(ctx, shakespeare(), text, request, {.depth = depth}, show, bytes);
    CHECK(finish.reason == FinishReason::stop_string);
    CHECK(shown + finish.text == all.substr(0, all.find(stop)));
    CHECK_THROWS_AS(complete(ctx, shakespeare(), text, request), Error);  // no bytes
  }
}

TEST_CASE("other ends, and requests that do not fit") {
  Context ctx;
  CachedText text{shakespeare().make_cache({20})};
  const auto end = [&](Request request, Index depth, OnToken on_token = {}) {
    return complete(ctx, shakespeare(), text, std::move(request), {.depth = depth}, std::move(on_token));
  };
  for (const Index depth : {0, 1, 3}) {
    const Finish full = end({.prompt = passage(15)}, depth);
    CHECK(full.reason == FinishReason::cache_full);
    CHECK(full.stats.new_tokens == 6);  // the last token needs no place
    CHECK(text.cache.size() == 20);
    CHECK(end({.prompt = passage(20)}, depth).stats.new_tokens == 1);
    const Finish stopped = end({.prompt = passage(5)}, depth, [](const Token& t) { return t.index < 3; });
    CHECK(stopped.reason == FinishReason::cancelled);
    CHECK(stopped.stats.new_tokens == 4);
    const Finish thrown = end({.prompt = passage(5)}, depth, [](const Token&) -> bool { throw std::runtime_error("out of paper"); });
    CHECK(thrown.reason == FinishReason::error);
    CHECK(thrown.error == "out of paper");
    const AnyTokenMask nothing = [](const TextSoFar&, std::span<std::uint8_t> allowed) { std::fill(allowed.begin(), allowed.end(), 0); };
    const Finish masked = end({.prompt = passage(5), .processors = {sampling::Masked(nothing)}}, depth);
    CHECK(masked.reason == FinishReason::error);
    CHECK(masked.error == "sampling: every token is excluded: the constraints of this request leave none");
  }
  CHECK_THROWS_WITH_AS(end({.prompt = {}}, 0), "request: prompt: expected at least one token", Error);
  CHECK_THROWS_WITH_AS(end({.prompt = {1024}}, 0), "request: prompt: expected token ids in [0, 1024), got 1024", Error);
  CHECK_THROWS_WITH_AS(end({.prompt = passage(21)}, 0), "request: the prompt has 21 tokens, the cache has room for 20", Error);
  CHECK_THROWS_AS(end({.prompt = {1}, .max_new_tokens = -1}, 0), Error);
  CHECK_THROWS_AS(end({.prompt = {1}, .sampling = {.temperature = -1}}, 0), Error);
  CHECK_THROWS_AS(end({.prompt = {1}, .log_probabilities = -1}, 0), Error);
  CHECK_THROWS_AS(end({.prompt = {1}}, -1), Error);
  CHECK_THROWS_AS(complete(ctx, with_modules(0, true), text, {.prompt = {1}}, {.depth = 1}), Error);
}
