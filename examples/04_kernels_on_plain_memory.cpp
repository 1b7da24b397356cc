// Single kernels on memory that you own: an fp8 product, a router, attention. No model, no config, no allocation by the library.
#include <cstdio>
#include <vector>

#include "dsv3/core/context.hpp"
#include "dsv3/kernels/attention.hpp"
#include "dsv3/kernels/linear.hpp"
#include "dsv3/modules/router.hpp"
#include "dsv3/quant/block_scale.hpp"

namespace {

std::vector<float> wave(std::size_t n, float frequency) {
  std::vector<float> v(n);
  for (std::size_t i = 0; i < n; ++i) v[i] = std::sin(frequency * static_cast<float>(i));
  return v;
}

void fp8_linear() {  // y = x W^T with W stored as e4m3 codes and 128x128 block scales
  constexpr dsv3::Index t = 3, k = 512, n = 256;
  const auto x = wave(t * k, 0.1f), w = wave(n * k, 0.37f);
  std::vector<float> y(t * n);
  const dsv3::Fp8Matrix stored = dsv3::quantize_fp8({w.data(), n, k});

  dsv3::Context ctx;
  dsv3::kernels::linear(ctx, dsv3::ConstMatrixView<float>(x.data(), t, k), stored.view(), dsv3::MatrixView<float>(y.data(), t, n));

  float exact = 0;
  for (std::size_t i = 0; i < k; ++i) exact += x[i] * w[i];
  std::printf("fp8 linear: y[0, 0] = %.4f, with float weights %.4f\n", static_cast<double>(y[0]), static_cast<double>(exact));
}

void router() {  // DeepSeek-V3's: 256 experts in 8 groups of which 4 stay, 8 chosen
  const auto logits = wave(256, 1.7f);
  const std::vector<float> bias(256, 0.0f);
  const auto choice = dsv3::router::SigmoidTopK{}.route({256, 8, 8, 4, true, 2.5}, logits, bias);
  std::printf("router:");
  for (std::size_t i = 0; i < 8; ++i) std::printf(" %d (%.3f)", choice.experts[i], static_cast<double>(choice.weights[i]));
  std::printf("\n");
}

void attention() {  // four queries at the end of ten keys, each seeing one more than the last
  constexpr dsv3::Index queries = 4, keys = 10, width = 64;
  const auto q = wave(queries * width, 0.3f), k = wave(keys * width, 0.21f), v = wave(keys * width, 0.05f);
  std::vector<float> out(queries * width), scratch(static_cast<std::size_t>(dsv3::kernels::attend_scratch(width)));
  const dsv3::kernels::QueryTile tile{{q.data(), queries, width}, {}, /*limit=*/keys - queries + 1, /*limit_step=*/1};
  dsv3::kernels::attend(tile, {{k.data(), keys, width}, {}, {v.data(), keys, width}}, 0.125f, {out.data(), queries, width}, scratch.data());
  std::printf("attention: out[3, 0] = %.4f\n", static_cast<double>(out[3 * width]));
}

}  // namespace

int main() {
  fp8_linear();
  router();
  attention();
}
