// Latent attention in both forms, grouped-query attention and a block, against their equations.
#include "dsv3/model/policy.hpp"
#include "dsv3/modules/gqa.hpp"
#include "support/random_weights.hpp"

using namespace test;

namespace {

using Row = std::vector<Real>;

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

Config small_config() {
  Config c;
  c.hidden_size = 40;
  c.intermediate_size = 50;
  c.num_attention_heads = 6;
  c.num_key_value_heads = 2;
  c.q_lora_rank = 30;
  c.kv_lora_rank = 24;
  c.qk_nope_head_dim = 10;
  c.qk_rope_head_dim = 8;
  c.v_head_dim = 14;
  c.rope_scaling = rope::Yarn{40, 16, 32, 1, 0.7, 1.0};  // cos and sin are scaled
  c.rms_norm_eps = 0.5;                                  // large and different, so that one in the other's place is seen
  c.inner_norm_eps = 0.25;
  c.n_routed_experts = 8;
  c.num_experts_per_tok = 2;
  c.n_group = 2;
  c.topk_group = 1;
  c.moe_intermediate_size = 20;
  return c;
}

rope::Config rope_config(const Config& c) { return {c.qk_rope_head_dim, c.rope_theta, c.rope_scaling}; }

Real softmax_scale(const Config& c) {
  const double scale =
      rope::YarnScaling::softmax_factor(rope_config(c)) / std::sqrt(static_cast<double>(c.qk_nope_head_dim + c.qk_rope_head_dim));
  return {scale, scale * unit};
}

Row part(const Row& row, Index begin, Index count) { return {row.begin() + begin, row.begin() + begin + count}; }

Real dot(const Row& a, const Row& b) {
  return sum(static_cast<Index>(a.size()), [&](Index i) { return a[at(i)] * b[at(i)]; });
}

/// Pairs of neighbours turned by position times frequency.
Row rotated(const Config& config, const Row& x, Index position) {
  const rope::Config c = rope_config(config);
  const double magnitude = rope::YarnScaling::magnitude(c);
  Row y;
  for (Index j = 0; j < c.dim / 2; ++j) {
    const float angle = static_cast<float>(position) * static_cast<float>(rope::YarnScaling::frequency(c, j));
    const Real scale = {magnitude, magnitude * unit}, cosine = Real(std::cos(static_cast<double>(angle)), unit) * scale,
               sine = Real(std::sin(static_cast<double>(angle)), unit) * scale;
    const Real a = x[at(2 * j)], b = x[at(2 * j + 1)];
    y.push_back(a * cosine - b * sine);
    y.push_back(b * cosine + a * sine);
  }
  return y;
}

/// softmax(scores) times rows of values, all of which are in one block of keys.
Row attend(const Row& scores, const Reals& values) {
  REQUIRE(scores.size() <= static_cast<std::size_t>(kernels::attention_block));
  const auto keys = static_cast<Index>(scores.size());
  Real largest = scores[0];
  for (const Real& s : scores)
    if (s.value > largest.value) largest = s;
  Row weights, out;
  for (const Real& s : scores) weights.push_back(exp(s - largest));
  const Real total = sum(keys, [&](Index s) { return weights[at(s)]; });
  for (std::size_t i = 0; i < values[0].size(); ++i)
    out.push_back(sum(keys, [&](Index s) { return weights[at(s)] * values[at(s)][i]; }) / total);
  return out;
}

void append(Row& to, const Row& values) { to.insert(to.end(), values.begin(), values.end()); }

/// eq. 1-11 for tokens 0 ... T - 1 of one sequence. Absorbed means: W_UK is applied to the query, W_UV to the weighted sum.
Reals mla_oracle(const Config& c, const RandomWeights& w, const std::string& prefix, const Reals& x, bool absorbed) {
  const Index n = c.qk_nope_head_dim, r = c.qk_rope_head_dim, v = c.v_head_dim, rank = c.kv_lora_rank;
  const auto weight = [&](const std::string& name) -> const Matrix<float>& { return w[prefix + name]; };
  const Reals q = c.q_lora_rank ? product(rms_norm(product(x, weight("q_a_proj.weight")), weight("q_a_layernorm.weight"), c.inner_norm_eps),
                                          weight("q_b_proj.weight"))
                                : product(x, weight("q_proj.weight"));
  const Reals kv = product(x, weight("kv_a_proj_with_mqa.weight"));
  Reals c_kv, k_pe, o(x.size());
  for (std::size_t t = 0; t < x.size(); ++t) {
    c_kv.push_back(part(kv[t], 0, rank));
    k_pe.push_back(rotated(c, part(kv[t], rank, r), static_cast<Index>(t)));
  }
  c_kv = rms_norm(c_kv, weight("kv_a_layernorm.weight"), c.inner_norm_eps);
  for (Index h = 0; h < c.num_attention_heads; ++h) {
    const Matrix<float> w_uk = weight("kv_b_proj.weight").middleRows(h * (n + v), n);
    const Matrix<float> w_uv = weight("kv_b_proj.weight").middleRows(h * (n + v) + n, v);
    const Reals k = absorbed ? c_kv : product(c_kv, w_uk), values = absorbed ? c_kv : product(c_kv, w_uv);
    for (std::size_t t = 0; t < x.size(); ++t) {
      const Row q_nope = part(q[t], h * (n + r), n), q_pe = rotated(c, part(q[t], h * (n + r) + n, r), static_cast<Index>(t));
      const Row query = absorbed ? product({q_nope}, w_uk.transpose())[0] : q_nope;
      Row scores;
      for (std::size_t s = 0; s <= t; ++s) scores.push_back((dot(query, k[s]) + dot(q_pe, k_pe[s])) * softmax_scale(c));
      const Row mixed = attend(scores, values);
      append(o[t], absorbed ? product({mixed}, w_uv)[0] : mixed);
    }
  }
  return product(o, weight("o_proj.weight"));
}

/// All rows as one sequence, or as sequences of the given lengths.
template <class A>
Matrix<float> forward(const A& attention, const Config& c, const Matrix<float>& x, const std::vector<Index>& lengths) {
  Context ctx;
  std::vector<typename A::Cache> caches(lengths.size(), typename A::Cache(c, x.rows()));
  std::vector<Segment<typename A::Cache>> segments;
  Index begin = 0;
  for (std::size_t i = 0; i < lengths.size(); begin += lengths[i++]) segments.push_back({begin, lengths[i], 0, &caches[i]});
  Matrix<float> y = Matrix<float>::Constant(x.rows(), x.cols(), NAN);
  attention.forward(ctx, view(x), Rows<typename A::Cache>{{x.rows(), 0}, {}, {}, segments}, view(y));
  return y;
}

/// One sequence in chunks.
template <class A>
Matrix<float> in_chunks(const A& attention, const Config& c, const Matrix<float>& x, Index chunk) {
  Context ctx;
  typename A::Cache cache(c, x.rows());
  Matrix<float> y(x.rows(), x.cols());
  for (Index begin = 0; begin < x.rows(); begin += chunk) {
    const Index count = std::min(chunk, x.rows() - begin);
    const Segment<typename A::Cache> segment{0, count, begin, &cache};
    attention.forward(ctx, view(x).slice(begin, count), Rows<typename A::Cache>{{count, 0}, {}, {}, {&segment, 1}},
                      view(y).slice(begin, count));
  }
  return y;
}

/// Keeps what a block adds to the residual stream.
struct Added {
  std::map<std::string, Matrix<float>> by;
  void record(point::AttentionOutput, Index, ConstMatrixView<float> x) { by["attn"] = x; }
  void record(point::FfnOutput, Index, ConstMatrixView<float> x) { by["mlp"] = x; }
};

struct WithGqa : DeepSeekV3 {
  template <class P>
  using Attention = Gqa<P>;
};

}  // namespace

TEST_CASE("latent attention, absorbed and expanded") {
  Random random;
  for (const bool query_rank : {true, false}) {
    Config c = small_config();
    if (!query_rank) c.q_lora_rank.reset();
    Mla<DeepSeekV3> mla(c);
    const RandomWeights w(mla, random);
    const Matrix<float> x = random.matrix(20, c.hidden_size);
    mla.form = mla::Form::absorbed;
    const auto absorbed = forward(mla, c, x, {20});
    check_reals(absorbed, mla_oracle(c, w, "", reals(x), true));
    mla.form = mla::Form::expanded;
    const auto expanded = forward(mla, c, x, {20});
    check_reals(expanded, mla_oracle(c, w, "", reals(x), false));
    mla.form = mla::Form::automatic;
    CHECK(same_bits(forward(mla, c, x, {20}), expanded));
    CHECK(same_bits(forward(mla, c, x.topRows(16), {16}), absorbed.topRows(16)));
  }
}

TEST_CASE("the absorbed form may cover more heads than a tile") {
  Random random;
  Config c = small_config();
  c.num_attention_heads = 19;
  Mla<DeepSeekV3> mla(c);
  const RandomWeights w(mla, random);
  const Matrix<float> x = random.matrix(5, c.hidden_size);
  check_reals(forward(mla, c, x, {5}), mla_oracle(c, w, "", reals(x), true));
}

TEST_CASE("latent attention has the same bits in chunks and in batches") {
  Random random;
  const Config c = small_config();
  Mla<DeepSeekV3> mla(c);
  const RandomWeights w(mla, random);
  const Matrix<float> x = random.matrix(90, c.hidden_size);
  for (const auto form : {mla::Form::absorbed, mla::Form::expanded}) {
    mla.form = form;
    const auto whole = forward(mla, c, x, {90});
    for (const Index chunk : {1, 5, 17, 64, 89}) CHECK(same_bits(in_chunks(mla, c, x, chunk), whole));
    const auto batch = forward(mla, c, x, {70, 0, 1, 19});
    CHECK(same_bits(batch.topRows(70), whole.topRows(70)));
    CHECK(same_bits(batch.row(70), forward(mla, c, x.row(70), {1})));
    CHECK(same_bits(batch.bottomRows(19), forward(mla, c, x.bottomRows(19), {19})));
  }
}

TEST_CASE("grouped-query attention") {
  Random random;
  for (const Index key_heads : {1, 2, 6}) {
    Config c = small_config();
    c.num_key_value_heads = key_heads;
    Gqa<WithGqa> gqa(c);
    const RandomWeights w(gqa, random);
    const Matrix<float> x = random.matrix(20, c.hidden_size);
    const Index n = c.qk_nope_head_dim, r = c.qk_rope_head_dim, head = n + r;
    const Reals q = product(reals(x), w["q_proj.weight"]), k = product(reals(x), w["k_proj.weight"]),
                v = product(reals(x), w["v_proj.weight"]);
    const auto turned = [&](const Row& row, Index h, std::size_t t) {
      Row out = part(row, h * head, n);
      append(out, rotated(c, part(row, h * head + n, r), static_cast<Index>(t)));
      return out;
    };
    Reals o(20);
    for (Index h = 0; h < c.num_attention_heads; ++h)
      for (std::size_t t = 0; t < 20; ++t) {
        const Index g = h / (c.num_attention_heads / key_heads);
        Row scores;
        Reals values;
        for (std::size_t s = 0; s <= t; ++s) {
          scores.push_back(dot(turned(q[t], h, t), turned(k[s], g, s)) * softmax_scale(c));
          values.push_back(part(v[s], g * c.v_head_dim, c.v_head_dim));
        }
        append(o[t], attend(scores, values));
      }
    const auto whole = forward(gqa, c, x, {20});
    check_reals(whole, product(o, w["o_proj.weight"]));
    for (const Index chunk : {1, 7}) CHECK(same_bits(in_chunks(gqa, c, x, chunk), whole));
    CHECK(same_bits(forward(gqa, c, x, {12, 8}).topRows(12), whole.topRows(12)));
  }
  Config c = small_config();
  c.num_key_value_heads = 4;
  CHECK(error_of([&] { Gqa<WithGqa> gqa(c); }) == "Gqa: num_attention_heads 6 is not a multiple of num_key_value_heads 4");
}

TEST_CASE("a dense block: x += attention(norm(x)), x += ffn(norm(x))") {
  Random random;
  const Config c = small_config();
  Block<DeepSeekV3> block(c, 0);
  const RandomWeights w(block, random);
  const Matrix<float> x = random.matrix(6, c.hidden_size);
  Context ctx;
  LatentCache<> cache(c, 6);
  const Segment<LatentCache<>> segment{0, 6, 0, &cache};
  Added added;
  Matrix<float> found = x;
  block.forward(ctx, view(found), Rows<LatentCache<>, Added>{{6, 0}, {}, {}, {&segment, 1}, &added});

  const Reals normed = rms_norm(reals(x), w["input_layernorm.weight"], c.rms_norm_eps);
  check_reals(added.by["attn"], mla_oracle(c, w, "self_attn.", normed, true));
  const Matrix<float> h = x + added.by["attn"];
  check_reals(added.by["mlp"], gated_ffn(rms_norm(reals(h), w["post_attention_layernorm.weight"], c.rms_norm_eps), w, "mlp."));
  CHECK(same_bits(found, h + added.by["mlp"]));
}
