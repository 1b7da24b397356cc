// Gated feed-forward networks and mixtures of them.
#include "dsv3/model/policy.hpp"
#include "support/random_weights.hpp"
#include "support/weight.hpp"

using namespace test;

namespace {

Config small_config() {
  Config c;
  c.hidden_size = 40;
  c.moe_intermediate_size = 24;
  c.n_routed_experts = 12;
  c.num_experts_per_tok = 3;
  c.n_group = 4;
  c.topk_group = 2;
  return c;
}

Matrix<float> forward(const Moe<DeepSeekV3>& moe, const Matrix<float>& x) {
  Context ctx;
  Matrix<float> y = Matrix<float>::Constant(x.rows(), x.cols(), NAN);
  moe.forward(ctx, view(x), Rows<>{{x.rows(), 0}}, view(y));
  return y;
}

/// Keeps what the router decided.
struct Routing {
  Matrix<int> experts;
  Matrix<float> weights;
  void record(point::Experts, Index, ConstMatrixView<int> x) { experts = x; }
  void record(point::Gates, Index, ConstMatrixView<float> x) { weights = x; }
};

struct ChoosesTooMany {
  router::Choice route(const router::Config& c, std::span<const float>, std::span<const float>) const { return {c.top_k + 1, {}, {}}; }
};
struct ChoosesNobody {
  router::Choice route(const router::Config& c, std::span<const float>, std::span<const float>) const {
    router::Choice choice{c.top_k, {}, {}};
    choice.experts.fill(static_cast<int>(c.experts));
    return choice;
  }
};
template <class R>
struct With : DeepSeekV3 {
  using Router = R;
};

}  // namespace

TEST_CASE("a gated network: W_down (silu(W_gate x) * W_up x)") {
  Context ctx;
  Random random;
  for (const auto& [d, inner] : {std::pair<Index, Index>{1, 1}, {40, 100}, {129, 37}}) {
    GatedFfn<DeepSeekV3> ffn(d, inner);
    const RandomWeights w(ffn, random);
    const Matrix<float> x = random.matrix(5, d);
    Matrix<float> y = Matrix<float>::Constant(5, d, NAN);
    ffn.forward(ctx, view(x), Rows<>{{5, 0}}, view(y));
    check_reals(y, gated_ffn(reals(x), w, ""));
  }
}

TEST_CASE("a mixture: every expert on every token, weighted by its gate or by zero, and the shared expert") {
  Random random;
  for (const Index shared : {0, 1, 2}) {
    Config c = small_config();
    c.n_shared_experts = shared;
    Moe<DeepSeekV3> moe(c, 0);
    const RandomWeights w(moe, random);
    const Matrix<float> x = random.matrix(9, c.hidden_size);
    Context ctx;
    Routing routing;
    Matrix<float> y(9, c.hidden_size);
    moe.forward(ctx, view(x), Rows<NoCache, Routing>{{9, 0}, {}, {}, {}, &routing}, view(y));
    CHECK(same_bits(forward(moe, x), y));

    Reals expected = shared > 0 ? gated_ffn(reals(x), w, "shared_experts.") : Reals(9, std::vector<Real>(40));
    for (int e = 0; e < static_cast<int>(c.n_routed_experts); ++e) {
      const Reals out = gated_ffn(reals(x), w, "experts." + std::to_string(e) + ".");
      for (Index t = 0; t < 9; ++t)
        for (Index k = 0; k < c.num_experts_per_tok; ++k)
          if (routing.experts(t, k) == e)
            for (std::size_t i = 0; i < 40; ++i) {
              Real& sum_so_far = expected[static_cast<std::size_t>(t)][i];
              sum_so_far = sum_so_far + Real(static_cast<double>(routing.weights(t, k))) * out[static_cast<std::size_t>(t)][i];
            }
    }
    check_reals(y, expected);

    // The router saw float32 logits and the bias.
    const Reals logits = product(reals(x), w["gate.weight"]);
    const auto& bias = w["gate.e_score_correction_bias"];
    for (std::size_t t = 0; t < 9; ++t) {
      std::vector<float> row;
      double error = 0;
      for (const Real& l : logits[t]) {
        row.push_back(static_cast<float>(l.value));
        error = std::max(error, l.error);
      }
      const auto choice = router::SigmoidTopK().route(moe.router_config(), row, std::span(bias.data(), 12));
      for (std::size_t k = 0; k < 3; ++k) {
        CHECK(routing.experts(static_cast<Index>(t), static_cast<Index>(k)) == choice.experts[k]);
        // A sigmoid moves by less than its argument, the sum of the gates by as much; both routers round about 10 times each.
        const double gate = static_cast<double>(choice.weights[k]);
        CHECK(agrees(routing.weights(static_cast<Index>(t), static_cast<Index>(k)), {gate, gate * (2 * error + roundings(20))}));
      }
    }
  }
}

TEST_CASE("a token's result does not depend on the other tokens") {
  Random random;
  Moe<DeepSeekV3> moe(small_config(), 0);
  const RandomWeights w(moe, random);
  const Matrix<float> x = random.matrix(60, 40), y = forward(moe, x);
  for (Index t = 0; t < 60; ++t) CHECK(same_bits(forward(moe, x.row(t)), y.row(t)));
  CHECK(same_bits(forward(moe, x.middleRows(10, 25)), y.middleRows(10, 25)));
  CHECK(forward(moe, Matrix<float>(0, 40)).rows() == 0);
}

TEST_CASE("a router's mistakes are caught") {
  Context ctx;
  Random random;
  Matrix<float> x = random.matrix(2, 40), y(2, 40);
  Moe<With<ChoosesTooMany>> many(small_config(), 0);
  const RandomWeights w(many, random);
  CHECK(error_of([&] { many.forward(ctx, view(x), Rows<>{{2, 0}}, view(y)); }) == "router: expected 3 experts, it chose 4");
  Moe<With<ChoosesNobody>> nobody(small_config(), 0);
  const RandomWeights v(nobody, random);
  CHECK(error_of([&] { nobody.forward(ctx, view(x), Rows<>{{2, 0}}, view(y)); }) == "router: chose expert 12 of 12");
}

TEST_CASE("more experts, choices or groups than a router can hold are refused") {
  const auto complaint = [](auto&& change) {
    Config c = small_config();
    change(c);
    return error_of([&] { Moe<DeepSeekV3> moe(c, 0); });
  };
  CHECK(complaint([](Config&) {}).empty());
  CHECK(contains(complaint([](Config& c) { c.n_routed_experts = 1028; }), "asks for 3 of 1028"));
  CHECK(contains(complaint([](Config& c) { c.n_routed_experts = 1024, c.n_group = 512; }), "at most 256 groups"));
}

TEST_CASE("NaN in a router's weights is an error, NaN in its input a result of NaN") {
  Context ctx;
  Random random;
  Moe<DeepSeekV3> moe(small_config(), 4);
  const RandomWeights w(moe, random);
  Matrix<float> x = random.matrix(3, 40), y(3, 40), broken;
  x(1, 7) = NAN;
  moe.forward(ctx, view(x), Rows<>{{3, 4}}, view(y));
  CHECK(y.row(0).allFinite());
  CHECK(y.row(1).array().isNaN().all());
  CHECK(y.row(2).allFinite());
  Moe<DeepSeekV3>::for_each_tensor(moe, "", [&]<class T>(const std::string& name, T& parameter) {
    if constexpr (requires { parameter.view; })
      if (name == "gate.weight") {
        const auto& stored = std::get<F32::View>(parameter.view);
        broken = ConstMatrixView<float>(stored.data, stored.rows, stored.cols);
        broken(11, 2) = NAN;
        parameter.view = F32::View{broken.data(), stored.rows, stored.cols, stored.cols};
      }
  });
  CHECK(error_of([&] {
          moe.forward(ctx, view(x), Rows<>{{3, 4}}, view(y));
        }) == "Moe: layer 4: a router logit of row 0 is not finite: NaN or infinite values in gate.weight?");
}

TEST_CASE("weights that are not bound to memory are an error") {
  Context ctx;
  Matrix<float> x = Matrix<float>::Ones(2, 40), y(2, 40);
  const GatedFfn<DeepSeekV3> ffn(40, 8);
  CHECK(contains(error_of([&] { ffn.forward(ctx, view(x), Rows<>{{2, 0}}, view(y)); }), "weights [8, 40] are not bound to memory"));
  const RmsNorm<DeepSeekV3> norm(40, 1e-6);
  CHECK(contains(error_of([&] { norm.forward(ctx, view(x), view(y)); }), "RmsNorm: weights [40] are not bound to memory"));
}

TEST_CASE("the steps of a mixture, called one by one on a share of the experts, give its result") {
  Context ctx;
  Random random;
  const Config c = small_config();
  Moe<DeepSeekV3> moe(c, 0);
  const RandomWeights w(moe, random);
  const Matrix<float> x = random.matrix(9, 40), expected = forward(moe, x);
  const Rows<> rows{{9, 0}};
  Matrix<int> experts(9, 3), places(9, 3);
  Matrix<float> gates(9, 3), sorted_x(27, 40), sorted_y = Matrix<float>::Constant(27, 40, NAN), y(9, 40), ignored(0, 40);
  moe.route(ctx, view(x), rows, view(experts), view(gates));
  std::vector<Index> offsets(13);
  kernels::sort_by_expert(view(experts), offsets, view(places));
  kernels::gather_rows(ctx, view(x), view(places), view(sorted_x));
  for (const auto& [first, last] : {std::pair<std::size_t, std::size_t>{0, 5}, {5, 12}}) {  // as two ranks would, each with its experts
    std::vector<Index> own(13, offsets[first]);
    for (std::size_t e = 0; e <= 12; ++e) own[e] = std::clamp(offsets[e], offsets[first], offsets[last]);
    const Matrix<float> nothing(0, 40);
    moe.run(ctx, view(sorted_x), own, view(nothing), rows, view(sorted_y), view(ignored));
  }
  const std::vector<Index> none(13);
  moe.run(ctx, view(sorted_x), none, view(x), rows, view(sorted_y), view(y));  // the shared expert, at the source
  kernels::combine_rows(ctx, view(sorted_y), view(places), view(gates), view(y));
  CHECK(same_bits(y, expected));
}
