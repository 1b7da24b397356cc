// A clamp inside of SwiGLU, as DeepSeek-V4 has it (swiglu_limit): the limit comes from config.json, and grouping and fusion stay.
#include "dsv3/io/json_fields.hpp"
#include "support/random_weights.hpp"
#include "variants/tiny.hpp"

using namespace dsv3;

namespace {

struct ClampConfig : Config {
  double swiglu_limit = 0.2;
  void read(const io::Fields& fields) { swiglu_limit = fields.number("swiglu_limit", swiglu_limit); }
  bool operator==(const ClampConfig&) const = default;
};

// [clamp]
struct ClampedSwiGlu {
  float limit = 0;
  ClampedSwiGlu() = default;
  explicit ClampedSwiGlu(const ClampConfig& c) : limit(static_cast<float>(c.swiglu_limit)) {}
  template <class V>
  V operator()(const V& gate, const V& up) const {
    return simd::silu(xsimd::min(gate, V(limit))) * xsimd::max(xsimd::min(up, V(limit)), V(-limit));
  }
};
// [/clamp]
struct ClampModel : DeepSeekV3 {
  using Config = ClampConfig;
  using Activation = ClampedSwiGlu;
};

template <class P>
void check_chunks(Index chunk) {
  const auto model = test::tiny_model<P>();
  const std::vector<int> ids = test::Random(4).ids(60, 64);
  CHECK(test::same_bits(test::states(model, ids, chunk), test::states(model, ids)));
}

}  // namespace

TEST_CASE("a clamped gate against plain loops") {
  using test::Real;
  Context ctx;
  test::Random random;
  const ClampConfig c = test::tiny_config<ClampConfig>();
  GatedFfn<test::InFloat32<ClampModel>> ffn(c, 32, 48);
  const test::RandomWeights w(ffn, random);
  const Matrix<float> x = random.matrix(5, 32);
  Matrix<float> y(5, 32);
  ffn.forward(ctx, view(x), Rows<>{{5, 0}}, view(y));
  auto gate = test::product(test::reals(x), w["gate_proj.weight"]);
  const auto up = test::product(test::reals(x), w["up_proj.weight"]);
  const double limit = static_cast<double>(static_cast<float>(c.swiglu_limit));
  Index clamped = 0;
  for (std::size_t t = 0; t < gate.size(); ++t)
    for (std::size_t i = 0; i < gate[t].size(); ++i) {
      Real g = gate[t][i], u = up[t][i];
      clamped += g.value > limit;
      g.value = std::min(g.value, limit);
      u.value = std::clamp(u.value, -limit, limit);
      gate[t][i] = g / (Real(1) + test::exp(Real(-g.value, g.error))) * u;
    }
  CHECK(clamped > 20);
  test::check_reals(y, test::product(gate, w["down_proj.weight"]));
}

TEST_CASE("a clamped model, exact and fast: chunks change no bit, generation works") {
  static_assert(ModelPolicy<ClampModel>);
  check_chunks<test::InFloat32<ClampModel>>(7);
  check_chunks<Fast<ClampModel>>(20);
  test::check_generation(test::tiny_model<test::InFloat32<ClampModel>>(), {5, 9, 5, 33});
}
