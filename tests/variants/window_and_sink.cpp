// A sliding window and a learned sink logit a head, as DeepSeek-V4 and gpt-oss have them: latent attention in both forms, exact and by bf16
// tiles, and grouped-query attention.
#include <cmath>

#include "dsv3/io/json_fields.hpp"
#include "dsv3/kernels/chosen_keys.hpp"
#include "support/random_weights.hpp"
#include "variants/tiny.hpp"

using namespace dsv3;

namespace {

// [window_and_sink]
struct WindowConfig : Config {
  Index sliding_window = 8;
  void read(const io::Fields& fields) { sliding_window = fields.integer("sliding_window", sliding_window); }
  bool operator==(const WindowConfig&) const = default;
};

/// Token t sees the last `sliding_window` tokens, itself one of them; each head's softmax has one more logit, without a value.
struct WindowAndSink {
  explicit WindowAndSink(const WindowConfig& c) : window(c.sliding_window), sinks{c.num_attention_heads} {}

  Index first_key(Index limit) const { return limit - window; }
  float sink(Index head) const { return sinks.values[head]; }

  template <class Self, class Visit>
  static void for_each_tensor(Self& self, const std::string& prefix, Visit&& visit) {
    visit(prefix + "sinks", self.sinks);
  }

  Index window;
  WeightVector sinks;
};

struct WindowModel : DeepSeekV3 {
  using Config = WindowConfig;
  template <class P>
  using AttentionVariant = WindowAndSink;
};
// [/window_and_sink]
static_assert(ModelPolicy<WindowModel>);

struct GqaWindowModel : WindowModel {
  template <class P>
  using Attention = Gqa<P>;
};

/// softmax of [sink, scores of the keys in the window] times values, head by head, in double precision from the module's own queries and
/// cache.
struct KeepStages {
  Matrix<float> q, cached, heads, lse;
  void record(point::Query, Index, ConstMatrixView<float> x) { q = x; }
  void record(point::CachedLatent, Index, ConstMatrixView<float> x) { cached = x; }
  void record(point::HeadsOutput, Index, ConstMatrixView<float> x) { heads = x; }
};
struct KeepLse : KeepStages {
  using KeepStages::record;
  void record(point::LogSumExp, Index, ConstMatrixView<float> x) { lse = x; }
};

template <class Attention, class Tape>
void run(const Attention& attention, const WindowConfig& c, const Matrix<float>& x, Tape& tape) {
  using Cache = typename Attention::Cache;
  Context ctx;
  Cache cache(c, x.rows());
  const Segment<Cache> segment{0, x.rows(), 0, &cache};
  Matrix<float> y(x.rows(), x.cols());
  attention.forward(ctx, view(x), Rows<Cache, Tape>{{x.rows(), 0}, {}, {}, {&segment, 1}, &tape}, view(y));
}

}  // namespace

TEST_CASE("a window and sinks in latent attention against plain loops") {
  test::Random random;
  const WindowConfig c = [] {
    WindowConfig w = test::tiny_config<WindowConfig>();
    w.sliding_window = 70;  // more than a block of keys, and no multiple of it
    return w;
  }();
  Mla<test::InFloat32<WindowModel>> mla(c, 0);
  const test::RandomWeights w(mla, random);
  const Matrix<float> x = random.matrix(200, c.hidden_size);
  const Index n = c.qk_nope_head_dim, r = c.qk_rope_head_dim, v = c.v_head_dim, rank = c.kv_lora_rank;
  const Matrix<float>&kv_b = w["kv_b_proj.weight"], sinks = w["sinks"];
  for (const auto form : {mla::Form::absorbed, mla::Form::expanded}) {
    mla.form = form;
    KeepStages plain;
    KeepLse with_lse;
    run(mla, c, x, plain);
    run(mla, c, x, with_lse);
    for (Index t = 0; t < x.rows(); t += 7)
      for (Index h = 0; h < c.num_attention_heads; ++h) {
        const auto dot = [](const auto& a, const auto& b) { return a.template cast<double>().dot(b.template cast<double>()); };
        const Index first = std::max<Index>(0, t - c.sliding_window + 1);
        std::vector<double> weights;
        double score_error = 0;
        double total = std::exp(static_cast<double>(sinks(0, h)));
        const Eigen::MatrixXd w_uk = kv_b.middleRows(h * (n + v), n).cast<double>(),
                              w_uv = kv_b.middleRows(h * (n + v) + n, v).cast<double>();
        for (Index s = first; s <= t; ++s) {
          const Eigen::VectorXd key = w_uk * plain.cached.row(s).head(rank).transpose().cast<double>();
          const double score = key.dot(plain.q.row(t).segment(h * (n + r), n).transpose().cast<double>()) +
                               dot(plain.cached.row(s).tail(r), plain.q.row(t).segment(h * (n + r) + n, r));
          const Eigen::VectorXd widest = w_uk.cwiseAbs() * plain.cached.row(s).head(rank).transpose().cast<double>().cwiseAbs();
          const double magnitude = widest.dot(plain.q.row(t).segment(h * (n + r), n).transpose().cast<double>().cwiseAbs()) +
                                   dot(plain.cached.row(s).tail(r).cwiseAbs(), plain.q.row(t).segment(h * (n + r) + n, r).cwiseAbs());
          score_error = std::max(
              score_error, test::roundings(static_cast<double>(rank + n + r) + 8) * magnitude / std::sqrt(static_cast<double>(n + r)));
          weights.push_back(std::exp(score / std::sqrt(static_cast<double>(n + r))));
          total += weights.back();
        }
        Eigen::VectorXd expected = Eigen::VectorXd::Zero(v);
        double largest = 0;
        for (Index s = first; s <= t; ++s) {
          const Eigen::VectorXd value = w_uv * plain.cached.row(s).head(rank).transpose().cast<double>();
          expected += weights[static_cast<std::size_t>(s - first)] / total * value;
          largest = std::max(largest, (w_uv.cwiseAbs() * plain.cached.row(s).head(rank).transpose().cast<double>().cwiseAbs()).maxCoeff());
        }
        // A weight, and their sum, is off by what scores are off by and by the roundings of a window's sum; values are sums of `rank`
        // products.
        const double sums = test::roundings(static_cast<double>(2 * c.sliding_window + rank) + 40);
        const double bound = (2 * std::expm1(score_error) + sums) * largest;
        const Eigen::VectorXd found = plain.heads.row(t).segment(h * v, v).transpose().cast<double>();
        CHECK((found - expected).cwiseAbs().maxCoeff() <= bound);
        CHECK(std::abs(static_cast<double>(with_lse.lse(t, h)) - std::log(total)) <=
              score_error + sums * std::max(1.0, std::abs(std::log(total))));
      }
  }
}

TEST_CASE("a window costs no bit: chunks, single tokens and the whole prompt agree, exact and by tiles") {
  for (const Index window : {1, 8, 64, 70}) {
    WindowConfig c = test::tiny_config<WindowConfig>();
    c.sliding_window = window;
    const std::vector<int> ids = test::Random(4).ids(150, 64);
    const auto exact = test::tiny_model<test::InFloat32<WindowModel>>(c);
    const Matrix<float> whole = test::states(exact, ids);
    for (const Index chunk : {1, 40}) CHECK(test::same_bits(test::states(exact, ids, chunk), whole));
    const auto gqa = test::tiny_model<test::InFloat32<GqaWindowModel>>(c);
    const Matrix<float> grouped = test::states(gqa, ids);
    for (const Index chunk : {1, 40}) CHECK(test::same_bits(test::states(gqa, ids, chunk), grouped));
    const auto fast = test::tiny_model<Fast<test::InFloat32<WindowModel>>>(c);
    const Matrix<float> tiled = test::states(fast, ids);
    for (const Index chunk : {50, 75}) CHECK(test::same_bits(test::states(fast, ids, chunk), tiled));
    if (window < 150) {
      c.sliding_window = 1000;
      CHECK(!test::same_bits(test::states(test::tiny_model<test::InFloat32<WindowModel>>(c), ids), whole));
    }
  }
  test::check_generation(test::tiny_model<test::InFloat32<WindowModel>>(), {5, 9, 5, 33, 7, 8, 1, 2, 3, 4, 5, 6});
}

TEST_CASE("a key outside of the window never reaches a row, NaN or not") {
  test::Random random;
  Matrix<float> q = random.matrix(3, 8), k = random.matrix(100, 8), v = random.matrix(100, 8), out(3, 8), clean(3, 8);
  struct Window {
    Index first_key(Index limit) const { return limit - 5; }
  };
  std::vector<float> scratch(static_cast<std::size_t>(kernels::attend_scratch(8)));
  const auto attend = [&](Matrix<float>& to) {
    kernels::attend({view(q), {}, 90, 1}, kernels::KeysValues{view(k), {}, view(v)}, 0.3f, view(to), scratch.data(), Window{});
  };
  attend(clean);
  k.topRows(85).setConstant(NAN), v.topRows(85).setConstant(NAN);
  k.bottomRows(8).setConstant(NAN), v.bottomRows(8).setConstant(NAN);
  attend(out);
  CHECK(test::same_bits(out, clean));
  v.row(85).setConstant(NAN);  // the first row's first key
  attend(out);
  CHECK(out.row(0).array().isNaN().all());
  CHECK(test::same_bits(out.bottomRows(2), clean.bottomRows(2)));
}

TEST_CASE("attention over chosen keys is attention over these keys alone") {
  test::Random random;
  const Matrix<float> q = random.matrix(5, 8), q_pe = random.matrix(5, 4), k = random.matrix(300, 8), k_pe = random.matrix(300, 4),
                      v = random.matrix(300, 6);
  std::vector<Index> chosen;
  for (Index i = 0; i < 90; ++i) chosen.push_back(random.between(0, 299));
  Matrix<float> k2(90, 8), k_pe2(90, 4), v2(90, 6), found(5, 6), expected(5, 6);
  for (Index i = 0; i < 90; ++i) {
    const Index from = chosen[static_cast<std::size_t>(i)];
    k2.row(i) = k.row(from), k_pe2.row(i) = k_pe.row(from), v2.row(i) = v.row(from);
  }
  const kernels::ChosenKeys<kernels::KeysValues> source{{view(k), view(k_pe), view(v)}, chosen, 18};
  std::vector<float> scratch(static_cast<std::size_t>(kernels::attend_scratch(6) + source.block_scratch()));
  kernels::attend({view(q), view(q_pe), 90, 0}, source, 0.3f, view(found), scratch.data());
  kernels::attend({view(q), view(q_pe), 90, 0}, kernels::KeysValues{view(k2), view(k_pe2), view(v2)}, 0.3f, view(expected), scratch.data());
  CHECK(test::same_bits(found, expected));
}
