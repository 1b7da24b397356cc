// What a model promises whatever its weights: the same bits in any company, nothing allocated when decoding, and errors that leave caches
// as they were.
#include <numeric>

#include "support/allocations.hpp"
#include "support/checkpoint.hpp"
#include "support/oracle.hpp"
#include "support/sanitized.hpp"
#include "support/threads.hpp"

using namespace test;

namespace {

struct RoundedActivations : DeepSeekV3 {
  using Compute = compute::Fp8Activations<>;
};

struct Normed : DeepSeekV3 {
  static constexpr MtpOutput mtp_output = MtpOutput::after_head_norm;
};

struct Before : DeepSeekV3 {
  static constexpr MtpInput mtp_input = MtpInput::before_final_norm;
};

struct PowerOfTwoActivations : DeepSeekV3 {
  using Compute = compute::Fp8Activations<ScaleFormat::power_of_two>;
};

const std::string golden = DSV3_TEST_DATA "/golden/";

/// What a model says of some tokens: the states of the last block and of every MTP module, and their logits.
struct Outputs {
  std::vector<Matrix<float>> states, logits;

  bool operator==(const Outputs& other) const {
    bool equal = states.size() == other.states.size();
    for (std::size_t i = 0; equal && i < states.size(); ++i)
      equal = same_bits(states[i], other.states[i]) && same_bits(logits[i], other.logits[i]);
    return equal;
  }
};

/// Tokens for the main model and, behind them, the ones that only MTP modules see: as many as there are modules.
struct Prompt {
  std::vector<int> ids;
  Index tokens;

  std::span<const int> part(Index begin, Index count) const {
    return std::span(ids).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
  }
};

template <class P>
Prompt make_prompt(const Model<P>& model, Index tokens, unsigned seed = 1) {
  return {Random(seed).ids(tokens + model.mtp_modules(), model.config().vocab_size), tokens};
}

/// Adds tokens [begin, begin + count) of every prompt, in one batch, to the caches.
template <class P>
Outputs advance(Context& ctx, const Model<P>& model, const std::vector<Prompt>& prompts, std::vector<Cache<P>>& caches, Index begin,
                std::span<const Index> counts) {
  const Index rows = std::accumulate(counts.begin(), counts.end(), Index{0});
  Outputs out;
  Matrix<float> h(rows, model.config().hidden_size), scores(rows, model.config().vocab_size);
  for (Index depth = 0; depth <= model.mtp_modules(); ++depth) {
    std::vector<typename Model<P>::Sequence> batch;
    for (std::size_t i = 0; i < prompts.size(); ++i) batch.push_back({prompts[i].part(begin + depth, counts[i]), &caches[i]});
    if (depth == 0) {
      model.forward(ctx, batch, view(h));
      model.logits(ctx, view(h), view(scores));
    } else {
      model.mtp_forward(ctx, depth - 1, batch, view(h), view(h));
      model.mtp_logits(ctx, depth - 1, view(h), view(scores));
    }
    out.states.push_back(h);
    out.logits.push_back(scores);
  }
  return out;
}

template <class P>
Outputs advance(Context& ctx, const Model<P>& model, const Prompt& prompt, std::vector<Cache<P>>& caches, Index begin, Index count) {
  return advance(ctx, model, std::vector{prompt}, caches, begin, std::span(&count, 1));
}

template <class P>
std::vector<Cache<P>> make_caches(const Model<P>& model, std::size_t n, Index max_tokens) {
  std::vector<Cache<P>> caches;
  for (std::size_t i = 0; i < n; ++i) caches.push_back(model.make_cache({max_tokens}));
  return caches;
}

/// The whole prompt in one pass through a fresh cache.
template <class P>
Outputs whole(Context& ctx, const Model<P>& model, const Prompt& prompt) {
  auto caches = make_caches(model, 1, prompt.tokens);
  return advance(ctx, model, prompt, caches, 0, prompt.tokens);
}

/// Rows [begin, begin + count) of each result.
Outputs rows_of(const Outputs& o, Index begin, Index count) {
  Outputs part;
  for (const auto& m : o.states) part.states.push_back(m.middleRows(begin, count));
  for (const auto& m : o.logits) part.logits.push_back(m.middleRows(begin, count));
  return part;
}

/// The prompt in as many passes as it has tokens.
template <class P>
Outputs token_by_token(Context& ctx, const Model<P>& model, const Prompt& prompt) {
  auto caches = make_caches(model, 1, prompt.tokens);
  Outputs all = advance(ctx, model, prompt, caches, 0, 1);
  const auto append = [](std::vector<Matrix<float>>& to, const std::vector<Matrix<float>>& rows) {
    for (std::size_t i = 0; i < to.size(); ++i) {
      to[i].conservativeResize(to[i].rows() + 1, Eigen::NoChange);
      to[i].bottomRows(1) = rows[i];
    }
  };
  for (Index t = 1; t < prompt.tokens; ++t) {
    const Outputs next = advance(ctx, model, prompt, caches, t, 1);
    append(all.states, next.states);
    append(all.logits, next.logits);
  }
  return all;
}

/// The prompt cut into chunks of at most `chunk` tokens gives the rows of `expected`.
template <class P>
bool same_in_chunks(Context& ctx, const Model<P>& model, const Prompt& prompt, Index chunk, const Outputs& expected) {
  auto caches = make_caches(model, 1, prompt.tokens);
  for (Index begin = 0; begin < prompt.tokens; begin += chunk) {
    const Index count = std::min(chunk, prompt.tokens - begin);
    if (!(advance(ctx, model, prompt, caches, begin, count) == rows_of(expected, begin, count))) return false;
  }
  return true;
}

template <class F>
void for_each_case(F&& f) {
  for (const std::string name : {"v3-tiny", "v3-odd", "v3-fp8"})
    for (const auto form : {mla::Form::absorbed, mla::Form::expanded}) {
      CAPTURE(name);
      CAPTURE(static_cast<int>(form));
      auto model = io::load<DeepSeekV3>(golden + name);
      set_form(model, form);
      f(model);
    }
}

/// Sequences of different lengths in one batch give what each gives alone.
template <class P>
void check_ragged_batch(Context& ctx, const Model<P>& model,
                        const std::vector<Index>& counts = fewer<std::vector<Index>>({1, 2, 3, 17, 64, 65, 5, 30}, {1, 65, 17})) {
  std::vector<Prompt> prompts;
  for (std::size_t i = 0; i < counts.size(); ++i) prompts.push_back(make_prompt(model, counts[i], static_cast<unsigned>(i)));
  auto caches = make_caches(model, counts.size(), 65);
  const Outputs together = advance(ctx, model, prompts, caches, 0, counts);
  Index row = 0;
  for (std::size_t i = 0; i < counts.size(); row += counts[i++]) {
    CAPTURE(i);
    CHECK(rows_of(together, row, counts[i]) == whole(ctx, model, prompts[i]));
  }
}

}  // namespace

TEST_CASE("an MTP module hands on its block's output, or what shared_head.norm gives of it (spec T6)") {
  Context ctx;
  const auto model = io::load(golden + "v3-tiny");
  const auto normed_model = io::load<Normed>(golden + "v3-tiny");
  REQUIRE(model.mtp_modules() == 2);
  const Prompt prompt = make_prompt(model, 7);
  const Outputs plain = whole(ctx, model, prompt), normed = whole(ctx, normed_model, prompt);
  CHECK(same_bits(plain.logits[1], normed.logits[1]));
  Matrix<float> h(7, model.config().hidden_size), scores(7, model.config().vocab_size);
  model.mtp(0).finish(ctx, view(plain.states[1]), view(h));
  CHECK(same_bits(h, normed.states[1]));
  auto cache = model.make_cache({9});
  const typename Model<>::Sequence sequence{prompt.part(0, 7), &cache};
  Matrix<float> main(7, model.config().hidden_size);
  model.forward(ctx, {&sequence, 1}, view(main));
  const typename Model<>::Sequence later{prompt.part(2, 7), &cache};
  model.mtp_forward(ctx, 1, {&later, 1}, view(h), view(h));
  model.mtp_logits(ctx, 1, view(h), view(scores));
  CHECK(same_bits(scores, normed.logits[2]));
  CHECK_FALSE(same_bits(scores, plain.logits[2]));
}

TEST_CASE("a prompt in chunks, or token by token, gives the bits of the whole") {
  Context ctx;
  for_each_case([&](const auto& model) {
    const Prompt prompt = make_prompt(model, 80);
    const Outputs expected = whole(ctx, model, prompt);
    for (const Index chunk : fewer<std::vector<Index>>({1, 7, 16, 17, 65}, {7, 65})) {
      CAPTURE(chunk);
      CHECK(same_in_chunks(ctx, model, prompt, chunk, expected));
    }
  });
}

TEST_CASE("a ragged batch gives the bits of each sequence alone") {
  Context ctx;
  for_each_case([&](const auto& model) { check_ragged_batch(ctx, model); });
}

TEST_CASE("the number of threads changes no bit") {
  for (const auto form : {mla::Form::absorbed, mla::Form::expanded}) {
    auto model = io::load<DeepSeekV3>(DSV3_MODELS "/shakespeare");  // large enough for loops to be shared
    set_form(model, form);
    const Prompt prompt = make_prompt(model, 100);
    Context serial;
    const Outputs expected = whole(serial, model, prompt);
    for (const int n : fewer<std::vector<int>>({1, 2, 3, 5}, {3})) {
      CAPTURE(n);
      Parallel openmp{n};
      Threads threads{n};
      Context a(openmp), b(threads);
      CHECK(whole(a, model, prompt) == expected);
      CHECK(whole(b, model, prompt) == expected);
    }
  }
}

TEST_CASE("tokens taken back leave no trace") {
  Context ctx;
  for_each_case([&](const auto& model) {
    const Prompt prompt = make_prompt(model, 40);
    const Outputs expected = whole(ctx, model, prompt);
    auto caches = make_caches(model, 1, 60);
    const Prompt other = make_prompt(model, 60, 2);
    advance(ctx, model, other, caches, 0, 60);
    caches[0].clear();
    advance(ctx, model, prompt, caches, 0, 40);
    for (const Index kept : {39, 17, 0}) {
      caches[0].truncate(kept);
      CHECK(caches[0].size() == kept);
      Matrix<float> h(40 - kept, model.config().hidden_size);
      const typename std::remove_cvref_t<decltype(model)>::Sequence rest{prompt.part(kept, 40 - kept), &caches[0]};
      model.forward(ctx, {&rest, 1}, view(h));
      CHECK(h == expected.states[0].bottomRows(40 - kept));
      for (Index k = 0; k < model.mtp_modules(); ++k) {  // module k's row i has seen token i + k + 1
        const Index begin = std::max(kept - k - 1, Index{0});
        REQUIRE(caches[0].mtp_size(k) == begin);
        Matrix<float> in = expected.states[static_cast<std::size_t>(k)].bottomRows(40 - begin);
        const typename std::remove_cvref_t<decltype(model)>::Sequence following{prompt.part(begin + k + 1, 40 - begin), &caches[0]};
        model.mtp_forward(ctx, k, {&following, 1}, view(in), view(in));
        CHECK(in == expected.states[static_cast<std::size_t>(k) + 1].bottomRows(40 - begin));
      }
    }
    CHECK_THROWS_AS(caches[0].truncate(41), Error);
    CHECK_THROWS_AS(caches[0].truncate(-1), Error);
  });
}

TEST_CASE("sequences without new tokens may be in a batch") {
  Context ctx;
  for_each_case([&](const auto& model) {
    const std::vector<Prompt> prompts = {make_prompt(model, 0), make_prompt(model, 5)};
    auto caches = make_caches(model, 2, 5);
    const std::vector<Index> counts = {0, 5};
    CHECK(advance(ctx, model, prompts, caches, 0, counts) == whole(ctx, model, prompts[1]));
    CHECK(caches[0].size() == 0);
    const std::vector<typename std::remove_cvref_t<decltype(model)>::Sequence> nobody;
    Matrix<float> none(0, model.config().hidden_size);
    model.forward(ctx, nobody, view(none));
  });
}

TEST_CASE("steady-state decoding allocates nothing") {
  for (const std::string name : {"v3-tiny", "v3-fp8", "v3-odd"})
    for (const auto form : {mla::Form::absorbed, mla::Form::expanded}) {
      Context ctx;
      auto model = io::load<DeepSeekV3>(golden + name);
      set_form(model, form);
      const Prompt prompt = make_prompt(model, 50);
      auto cache = model.make_cache({50});
      Matrix<float> h(1, model.config().hidden_size), scores(1, model.config().vocab_size);
      const auto step = [&](Index t) {
        Model<>::Sequence sequence{prompt.part(t, 1), &cache};
        model.forward(ctx, {&sequence, 1}, view(h));
        model.logits(ctx, view(h), view(scores));
        for (Index k = 0; k < model.mtp_modules(); ++k) {
          sequence.ids = prompt.part(t + k + 1, 1);
          model.mtp_forward(ctx, k, {&sequence, 1}, view(h), view(h));
          model.mtp_logits(ctx, k, view(h), view(scores));
        }
      };
      for (Index t = 0; t < 50; ++t) step(t);  // scratch grows with the context in the expanded form
      cache.truncate(20);
      const long before = allocations();
      const auto held = ctx.workspace().capacity();
      for (Index t = 20; t < 50; ++t) step(t);
      CHECK(allocations() == before);
      CHECK(ctx.workspace().capacity() == held);
    }
}

TEST_CASE("texts without caches give what fresh caches give, and do not see each other") {
  Context ctx;
  struct Nothing {
    void record(point::Experts, Index, ConstMatrixView<int>) {}
  } tape;
  auto model = io::load<DeepSeekV3>(golden + "v3-tiny");
  set_form(model, mla::Form::expanded);
  std::vector<Prompt> prompts;
  const std::vector<Index> counts = {5, 1, 70, 12};
  for (std::size_t i = 0; i < counts.size(); ++i) prompts.push_back(make_prompt(model, counts[i], static_cast<unsigned>(i)));
  auto caches = make_caches(model, counts.size(), 70);
  const Outputs expected = advance(ctx, model, prompts, caches, 0, counts);
  const auto texts = [&](Index shift) {
    std::vector<std::span<const int>> out;
    for (std::size_t i = 0; i < counts.size(); ++i) out.push_back(prompts[i].part(shift, counts[i]));
    return out;
  };
  Matrix<float> h(88, model.width());
  model.forward_texts(ctx, texts(0), view(h), tape);
  CHECK(same_bits(h, expected.states[0]));
  for (Index k = 0; k < model.mtp_modules(); ++k) {
    model.mtp_forward_texts(ctx, k, texts(k + 1), view(h), view(h), tape);
    CHECK(same_bits(h, expected.states[static_cast<std::size_t>(k + 1)]));
  }
}

TEST_CASE("MTP modules start from the state after the final norm, as the bundle says") {
  Context ctx;
  const auto after = io::load<DeepSeekV3>(golden + "v3-tiny");
  const auto before = io::load<Before>(golden + "v3-tiny");
  const Prompt prompt = make_prompt(after, 12);
  auto a = make_caches(after, 1, 12);
  auto b = make_caches(before, 1, 12);
  const Outputs expected = advance(ctx, after, prompt, a, 0, 12);
  advance(ctx, before, prompt, b, 0, 12);
  b[0].truncate_mtp(0, 0);
  Matrix<float> normed(12, after.width()), out(12, after.width());
  after.finish(ctx, view(expected.states[0]), view(normed));
  const Model<Before>::Sequence next{prompt.part(1, 12), &b[0]};
  before.mtp_forward(ctx, 0, {&next, 1}, view(normed), view(out));
  CHECK(same_bits(out, expected.states[1]));
}

TEST_CASE("fp8 activations: other bits than exact products, the same in any company") {
  Context ctx;
  const auto check = [&]<class P>(P) {
    const auto exact = io::load<DeepSeekV3>(golden + "v3-fp8");
    const auto rounded = io::load<P>(golden + "v3-fp8");
    const Prompt prompt = make_prompt(exact, 60);
    const Outputs expected = whole(ctx, exact, prompt), found = whole(ctx, rounded, prompt);
    CHECK(relative_error(found.logits[0], expected.logits[0]) > 1e-4);  // how near the two are is seen on a trained model
    CHECK(same_in_chunks(ctx, rounded, prompt, 7, found));
    check_ragged_batch(ctx, rounded);
  };
  check(RoundedActivations{});
  check(PowerOfTwoActivations{});
}

namespace {

/// Fast with experts by tiles, or by dot products along K, in all passes of more than 16 rows.
template <Index Rows>
struct FastWith : Fast<DeepSeekV3> {
  struct Compute : compute::Bf16Activations {
    static constexpr Index few_rows = Rows;
  };
};

template <class P>
void check_company(const std::string& name, const std::vector<Index>& chunks, const std::vector<Index>& company) {
  Context ctx;
  const auto exact = io::load<DeepSeekV3>(golden + name);
  const auto fast = io::load<P>(golden + name);
  const Prompt prompt = make_prompt(exact, 80);
  const Outputs found = whole(ctx, fast, prompt), by_token = token_by_token(ctx, fast, prompt);
  CHECK_FALSE(found == whole(ctx, exact, prompt));
  for (const Index chunk : chunks) CHECK(same_in_chunks(ctx, fast, prompt, chunk, found));
  check_ragged_batch(ctx, fast, company);
  for (const Index chunk : fewer<std::vector<Index>>({7, 16}, {7})) CHECK(same_in_chunks(ctx, fast, prompt, chunk, by_token));
  for (const int n : fewer<std::vector<int>>({2, 3}, {3})) {
    Parallel openmp{n};
    Context parallel(openmp, 0);
    CHECK(whole(parallel, fast, prompt) == found);
    CHECK(token_by_token(parallel, fast, prompt) == by_token);
  }
}

}  // namespace

TEST_CASE("prompts in bf16: the same bits in any company of more than 16 rows, and in any of up to 16") {
  for (const std::string name : {"v3-tiny", "v3-odd", "v3-fp8"}) {
    CAPTURE(name);
    const auto chunks = fewer<std::vector<Index>>({20, 40}, {20}), company = fewer<std::vector<Index>>({17, 64, 65, 30}, {17, 65});
    check_company<FastWith<0>>(name, chunks, company);
    check_company<FastWith<1000>>(name, chunks, company);
  }
}

TEST_CASE("experts that can expect few rows have the same bits in any company of which that holds") {
  Context ctx;
  const auto fast = io::load<Fast<DeepSeekV3>>(golden + "v3-tiny");
  const Config& c = fast.config();
  const Index most = (compute::Bf16Activations::few_rows + 1) * c.n_routed_experts / c.num_experts_per_tok - 1;
  REQUIRE(most > 34);
  const Prompt prompt = make_prompt(fast, std::min(most, Index{80}));
  CHECK(same_in_chunks(ctx, fast, prompt, 17, whole(ctx, fast, prompt)));
}

TEST_CASE("bad input is refused and no cache changes its size") {
  Context ctx;
  auto model = io::load<DeepSeekV3>(golden + "v3-tiny");
  using Sequence = Model<>::Sequence;
  const Index d = model.config().hidden_size, vocabulary = model.config().vocab_size;
  auto caches = make_caches(model, 2, 8);
  Cache<DeepSeekV3>&a = caches[0], &b = caches[1];
  const std::vector<int> good = {1, 2, 3, 4};
  Matrix<float> h(8, d), small(4, d), three(3, d), narrow(4, d - 1);
  const std::vector<Sequence> start = {{good, &a}};
  model.forward(ctx, start, view(small));
  model.mtp_forward(ctx, 0, start, view(small), view(small));

  const auto refused = [&](const std::vector<Sequence>& batch, Matrix<float>& out) {
    const std::string message = error_of([&] { model.forward(ctx, batch, view(out)); });
    CHECK(a.size() == 4);
    CHECK(a.mtp_size(0) == 4);
    CHECK(b.size() == 0);
    return message;
  };
  for (const int id : {-1, static_cast<int>(vocabulary), std::numeric_limits<int>::max(), std::numeric_limits<int>::min()}) {
    const std::vector<int> bad = {1, id, 2, 3};
    CHECK(refused({{good, &a}, {bad, &b}}, h) ==
          "Model: sequence 1 has token id " + std::to_string(id) + ", expected ids in [0, " + std::to_string(vocabulary) + ")");
  }
  const std::vector<int> five = {1, 2, 3, 4, 5};
  CHECK(refused({{five, &a}}, h) == "Model: the cache of sequence 0 has room for 8 tokens, holds 4 and was to take 5 more");
  CHECK(refused({{good, &a}, {good, &a}}, h) == "Model: sequences 0 and 1 of the batch share one cache");
  CHECK(refused({{good, nullptr}}, small) == "Model: sequence 0 of the batch has no cache");
  CHECK(refused({{good, &b}}, three) == "Model: expected hidden states of shape [4, 64], got [3, 64]");
  CHECK(refused({{good, &b}}, h) == "Model: expected hidden states of shape [4, 64], got [8, 64]");
  CHECK(refused({{good, &b}}, narrow) == "Model: expected hidden states of shape [4, 64], got [4, 63]");

  const auto other = io::load<DeepSeekV3>(golden + "v3-noq");
  auto foreign = other.make_cache({8});
  CHECK(refused({{good, &foreign}}, small) == "Model: the cache of sequence 0 belongs to another model");
  Config halves = model.config();
  halves.rope_interleave = false;
  CHECK(contains(error_of([&] { Model<DeepSeekV3>{halves}; }), "rope_interleave"));
  CHECK(contains(error_of([&] { Model<DeepSeekV3Halves>{model.config()}; }), "rope_interleave"));

  const std::vector<Sequence> next = {{good, &a}};
  const auto mtp_refused = [&](Index k, const Matrix<float>& in, Matrix<float>& out) {
    const std::string message = error_of([&] { model.mtp_forward(ctx, k, next, view(in), view(out)); });
    CHECK(a.mtp_size(0) == 4);
    return message;
  };
  CHECK(mtp_refused(2, small, small) == "Model: there is no MTP module 2, the model has 2");
  CHECK(mtp_refused(-1, small, small) == "Model: there is no MTP module -1, the model has 2");
  CHECK(mtp_refused(0, three, small) == "Model: expected hidden states of shape [4, 64], got [3, 64]");
  CHECK(mtp_refused(0, small, three) == "Model: expected hidden states of shape [4, 64], got [3, 64]");
  CHECK(mtp_refused(1, narrow, small) == "Model: expected hidden states of shape [4, 64], got [4, 63]");

  Matrix<float> scores(4, vocabulary), few(3, vocabulary), narrow_scores(4, vocabulary - 1);
  CHECK(contains(error_of([&] { model.logits(ctx, view(small), view(few)); }), "expected logits of shape [4, 320], got [3, 320]"));
  CHECK(contains(error_of([&] { model.logits(ctx, view(small), view(narrow_scores)); }), "got [4, 319]"));
  CHECK(contains(error_of([&] { model.logits(ctx, view(narrow), view(scores)); }), "64"));
  CHECK(contains(error_of([&] { model.mtp_logits(ctx, 5, view(small), view(scores)); }), "no MTP module 5"));
  CHECK(contains(error_of([&] { (void)model.make_cache({0}); }), "expected room for at least 1 token, got 0"));
}

TEST_CASE("weights that are not finite are noticed in the layer they are in") {
  Context ctx;
  for (const float bad : {NAN, INFINITY})
    for (const std::string layer : {"model.layers.0.", "model.layers.2.", "model.layers.5."}) {
      auto model = io::load<DeepSeekV3>(golden + "v3-tiny");
      Matrix<float> broken;
      Model<>::for_each_tensor(model, [&]<class T>(const std::string& name, T& parameter) {
        if constexpr (requires { parameter.view; })
          if (name == layer + "self_attn.o_proj.weight") {
            const auto& w = std::get<F32::View>(parameter.view);
            broken = ConstMatrixView<float>(w.data, w.rows, w.cols);
            broken(3, 4) = bad;
            parameter.view = F32::View{broken.data(), w.rows, w.cols, w.cols};
          }
      });
      const Prompt prompt = make_prompt(model, 6);
      auto caches = make_caches(model, 1, 6);
      CHECK(contains(error_of([&] { advance(ctx, model, prompt, caches, 0, 6); }), "the output of " + layer + " is not finite in row"));
      CHECK(caches[0].size() == (layer == "model.layers.5." ? 6 : 0));  // layers 4 and 5 are MTP modules
      CHECK(caches[0].mtp_size(1) == 0);
    }
}
