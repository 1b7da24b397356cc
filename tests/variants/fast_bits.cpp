// Whether a product is formed in bf16 depends on the rows of the pass alone, in modules of one's own as well: with passes of more than 16
// rows, a prompt in one chunk or two gives the same bits.
#include "variants/tiny.hpp"

using namespace dsv3;

namespace {

struct GqaModel : DeepSeekV3 {
  template <class P>
  using Attention = Gqa<P>;
};

/// W_down max(W_up x, 0), one network after the other.
template <class P>
class Relu {
 public:
  Relu(Index hidden, Index inner) : up_(inner, hidden), down_(hidden, inner) {}

  static void forward_group(Context& ctx, std::span<const FfnJob<Relu>> jobs, const auto& rows) {
    for (const auto& [ffn, x, y, expert] : jobs) {
      auto scope = ctx.scratch();
      auto h = scope.template matrix<float>(x.rows(), ffn->up_.out_features());
      ffn->up_.forward(ctx, x, rows, h);
      h = h.cwiseMax(0.0f);
      ffn->down_.forward(ctx, h, rows, y);
    }
  }

  template <class Self, class Visit>
  static void for_each_tensor(Self& self, const std::string& prefix, Visit&& visit) {
    Linear<P>::for_each_tensor(self.up_, prefix + "up_proj.", visit);
    Linear<P>::for_each_tensor(self.down_, prefix + "down_proj.", visit);
  }

 private:
  Linear<P> up_, down_;
};

struct ReluModel : DeepSeekV3 {
  template <class P>
  using ExpertFfn = Relu<P>;
};

template <class P>
void check_chunks() {
  const auto model = test::tiny_model<test::InFloat32<Fast<P>>>();
  for (unsigned seed = 0; seed < 10; ++seed) {
    const std::vector<int> ids = test::Random(seed).ids(60, 64);
    const Matrix<float> whole = test::states(model, ids);
    for (const Index chunk : {20, 30}) CHECK(test::same_bits(test::states(model, ids, chunk), whole));
  }
}

}  // namespace

TEST_CASE("grouped-query attention in chunks under Fast") { check_chunks<GqaModel>(); }
TEST_CASE("experts of one's own under Fast, however few rows each gets") { check_chunks<ReluModel>(); }
