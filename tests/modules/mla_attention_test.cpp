#include "dsv3/modules/mla_attention.hpp"

#include "dsv3/modules/latent_cache.hpp"
#include "support/oracle.hpp"
#include "support/threads.hpp"

using namespace test;

namespace {

using Arch = simd::DefaultArch;
using Cache = LatentCache<cache_format::Bf16>;

Matrix<float> bf16(Matrix<float> m) {
  return m.unaryExpr([](float x) { return codec::BFloat16::decode(codec::BFloat16::encode(x)); });
}

/// A window of 300 keys, a soft cap of 2 and a sink a head.
struct Capped {
  Index first_key(Index limit) const { return limit - 300; }
  template <class V>
  V transform(const V& score) const {
    return V(2.0f) * xsimd::tanh(score / V(2.0f));
  }
  float sink(Index head) const { return static_cast<float>(head) / 4 - 2; }
};

template <class Variant>
void check_tiles(const Variant& variant) {
  Random random;
  Config c;
  c.kv_lora_rank = 70;
  c.qk_rope_head_dim = 10;
  for (const Index heads : {5, 40}) {
    const mla::Heads h{heads, 12, 10, 16, 70, 0.1f};
    const std::vector<Index> positions = {700, 3, 1500, 256};
    std::vector<Cache> caches;
    for (const Index position : positions) {
      auto& cache = caches.emplace_back(c, position + 3);
      cache.open(0, position + 3);
      const auto rows = random.matrix(position + 3, 80);
      for (Index t = 0; t < rows.rows(); ++t) cache.write(t, rows.row(t).data(), rows.row(t).data() + 70);
    }
    const auto segments_of = [&](Index count) {
      std::vector<Segment<Cache>> segments;
      for (std::size_t i = 0; i < positions.size(); ++i)
        segments.push_back({static_cast<Index>(i) * count, count, positions[i], &caches[i]});
      return segments;
    };
    const auto latent_q = bf16(random.matrix(12, heads * 70)), q = bf16(random.matrix(12, heads * h.query()));
    const auto attend = [&]<bool tiled>(std::bool_constant<tiled>, int threads, std::span<const Segment<Cache>> segments, Index rows) {
      Parallel openmp{threads};
      Context ctx(openmp, 0);
      const Index begin = segments.front().begin;
      Matrix<float> out = Matrix<float>::Constant(rows, heads * 70, NAN);
      mla::attend_latents<tiled, Arch>(ctx, h, segments, view(latent_q).slice(begin, rows), view(q), view(out), variant);
      return out;
    };
    const auto segments = segments_of(3);
    const auto exact = attend(std::false_type{}, 1, segments, 12), tiled = attend(std::true_type{}, 1, segments, 12);
    float largest = 0;
    for (std::size_t i = 0; i < caches.size(); ++i)
      for (Index t = 0; t < positions[i] + 3; ++t) {
        std::array<float, 80> row;
        caches[i].read(t, row.data());
        for (Index k = 0; k < 70; ++k) largest = std::max(largest, std::abs(row[static_cast<std::size_t>(k)]));
      }
    // Weights sum up to 1, and each is off by half a unit of 8 bits; a tenth of that is left for sums in float32.
    CHECK((exact - tiled).cwiseAbs().maxCoeff() <= 1.1f * 0x1p-8f * largest);
    for (const int threads : {2, 3}) CHECK(same_bits(attend(std::true_type{}, threads, segments, 12), tiled));
    for (std::size_t i = 0; i < segments.size(); ++i)
      for (Index t = 0; t < 3; ++t) {
        const Segment<Cache> one{segments[i].begin + t, 1, segments[i].position + t, segments[i].cache};
        CHECK(same_bits(attend(std::true_type{}, 1, {&one, 1}, 1), tiled.middleRows(one.begin, 1)));
      }
  }
}

template <class Variant>
void check_expanded_tiles(const Variant& variant) {
  Random random;
  const mla::Heads h{3, 12, 10, 20, 70, 0.1f};
  const Index earlier = 500, rows = 40, tokens = earlier + rows;
  const auto expanded = bf16(random.matrix(tokens, 3 * 32)), k_pe = bf16(random.matrix(tokens, 10)), q = bf16(random.matrix(rows, 3 * 22));
  const mla::Text text{0, rows, 0, earlier};
  const auto attend = [&]<bool tiled>(std::bool_constant<tiled>, int threads, Matrix<float>& lse) {
    Parallel openmp{threads};
    Context ctx(openmp, 0);
    Matrix<float> out = Matrix<float>::Constant(rows, 3 * 20, NAN);
    mla::attend_expanded<tiled, Arch>(ctx, h, 0, 3, {&text, 1}, view(expanded), view(k_pe), view(q), view(out), variant, view(lse));
    return out;
  };
  Matrix<float> lse(rows, 3), lse_tiled(rows, 3);
  const auto exact = attend(std::false_type{}, 1, lse), tiled = attend(std::true_type{}, 1, lse_tiled);
  CHECK((exact - tiled).cwiseAbs().maxCoeff() <= 1.1f * 0x1p-8f * expanded.cwiseAbs().maxCoeff());
  // Scores are sums of 22 products in two orders, of which the softmax takes the difference to the largest; then `tokens` exponentials are
  // summed in two orders.
  const double scores =
      0.1 * 22 * static_cast<double>(q.cwiseAbs().maxCoeff() * std::max(expanded.cwiseAbs().maxCoeff(), k_pe.cwiseAbs().maxCoeff()));
  CHECK(static_cast<double>((lse - lse_tiled).cwiseAbs().maxCoeff()) <=
        2 * (roundings(22 + 8) * scores + roundings(static_cast<double>(tokens) + 16)));
  for (const int threads : {2, 3}) CHECK(same_bits(attend(std::true_type{}, threads, lse_tiled), tiled));
}

}  // namespace

TEST_CASE("attention over latents by tiles is that in float32 up to the rounding of weights, on any number of threads and in any company") {
  check_tiles(attention::Full{});
  check_tiles(Capped{});
}

TEST_CASE("expanded attention by tiles is that in float32 up to the rounding of weights, whatever the variant") {
  check_expanded_tiles(attention::Full{});
  check_expanded_tiles(Capped{});
}
