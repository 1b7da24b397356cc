// A router that goes by the token and not by scores, as the first layers of DeepSeek-V4 do (there the experts of a token stand in a table).
#include <map>

#include "variants/tiny.hpp"

using namespace dsv3;

namespace {

// [hash_router]
/// Experts by a hash of the token's id and the layer, gates by the sigmoid scores.
struct HashRouter {
  router::Choice route(const router::Config& c, const router::TokenInfo& token, std::span<const float> logits,
                       std::span<const float>) const {
    router::Choice choice{c.top_k, {}, {}};
    for (Index k = 0; k < c.top_k; ++k) {
      const auto e = static_cast<std::size_t>((token.id * 31 + token.layer * 7 + k) % c.experts);
      choice.experts[static_cast<std::size_t>(k)] = static_cast<int>(e);
      choice.weights[static_cast<std::size_t>(k)] = static_cast<float>(c.scale) / (1 + std::exp(-logits[e]));
    }
    return choice;
  }
};
struct HashModel : DeepSeekV3 {
  using Router = HashRouter;
};
// [/hash_router]

struct KeepExperts {
  std::map<Index, Matrix<int>> experts;
  void record(point::Experts, Index layer, ConstMatrixView<int> x) { experts[layer] = x; }
};

using P = test::InFloat32<HashModel>;

}  // namespace

TEST_CASE("a router sees tokens, positions and layers, in all ways of generating") {
  Config c = test::tiny_config();
  c.num_nextn_predict_layers = 1;
  const auto model = test::tiny_model<P>(c);
  const std::vector<int> ids = {5, 9, 5, 33, 60, 1, 2, 3, 4};
  Context ctx;
  auto cache = model.make_cache({.max_tokens = 16});
  Matrix<float> h(9, model.width());
  const Model<P>::Sequence all{ids, &cache};
  KeepExperts kept;
  model.forward(ctx, {&all, 1}, view(h), kept);
  const std::vector<int> shifted(ids.begin() + 1, ids.end());
  const Model<P>::Sequence next{shifted, &cache};
  Matrix<float> out(8, model.width());
  model.mtp_forward(ctx, 0, {&next, 1}, view(h).slice(0, 8), view(out), kept);
  REQUIRE(kept.experts.size() == 3);  // layers 1 and 2, and the MTP module, which is layer 3 and sees the tokens that follow
  for (const auto& [layer, experts] : kept.experts)
    for (Index t = 0; t < experts.rows(); ++t)
      for (Index k = 0; k < experts.cols(); ++k) {
        const auto id = (layer == 3 ? shifted : ids)[static_cast<std::size_t>(t)];
        CHECK(experts(t, k) == (id * 31 + layer * 7 + k) % 8);
      }
  for (const Index chunk : {1, 2, 4}) CHECK(test::same_bits(test::states(model, ids, chunk), h));
  test::check_generation(model, ids);
}

TEST_CASE("the rows of a pass say where each token stands") {
  struct Positions {
    router::Choice route(const router::Config& c, const router::TokenInfo& token, std::span<const float>, std::span<const float>) const {
      router::Choice choice{c.top_k, {}, {}};
      for (Index k = 0; k < c.top_k; ++k) choice.experts[static_cast<std::size_t>(k)] = static_cast<int>((token.position + k) % c.experts);
      choice.weights.fill(0.5f);
      return choice;
    }
  };
  struct ByPosition : test::InFloat32<DeepSeekV3> {
    using Router = Positions;
  };
  const auto model = test::tiny_model<ByPosition>();
  Context ctx;
  auto a = model.make_cache({.max_tokens = 8}), b = model.make_cache({.max_tokens = 8});
  const std::vector<int> first = {1, 2, 3}, second = {4, 5}, third = {6};
  Matrix<float> h(3, model.width());
  using Sequence = Model<ByPosition>::Sequence;
  const Sequence start{first, &a};
  model.forward(ctx, {&start, 1}, view(h));
  KeepExperts kept;
  const std::array batch{Sequence{second, &a}, Sequence{third, &b}};
  model.forward(ctx, batch, view(h), kept);
  const std::array expected{3, 4, 0};
  for (Index t = 0; t < 3; ++t) CHECK(kept.experts.at(1)(t, 0) == expected[static_cast<std::size_t>(t)]);
}
