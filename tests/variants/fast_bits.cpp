// Whether a product is formed in bf16 depends on the rows of the pass alone, in attention of another kind as well: with passes of more than
// 16 rows, a prompt in one chunk or two gives the same bits.
#include "variants/tiny.hpp"

using namespace dsv3;

namespace {

struct GqaModel : DeepSeekV3 {
  template <class P>
  using Attention = Gqa<P>;
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
