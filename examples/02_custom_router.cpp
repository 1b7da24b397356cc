// A model variant by one policy: a router that balances less, choosing by score alone.   usage: 02_custom_router DIR
//
// The bundle inherits from DeepSeekV3 and overrides Router; every part of the model picks the override up.
#include <cstdio>

#include "dsv3/dsv3.hpp"
#include "dsv3/io/load.hpp"

/// Ignores the balancing bias and the groups: the largest sigmoid scores of all experts win.
struct Unbiased {
  dsv3::router::Choice route(const dsv3::router::Config& config, std::span<const float> logits, std::span<const float>) const {
    dsv3::router::Config ungrouped = config;
    ungrouped.groups = ungrouped.top_groups = 1;
    return dsv3::router::SigmoidTopK{}.route(ungrouped, logits, {});
  }
};

struct MyModel : dsv3::DeepSeekV3 {
  using Router = Unbiased;
};
static_assert(dsv3::ModelPolicy<MyModel>);

/// Mean loss, in nats, of predicting each token from those before.
template <class P>
double loss(const dsv3::Model<P>& model, const std::vector<int>& ids) {
  dsv3::Context ctx;
  auto cache = model.make_cache({.max_tokens = static_cast<dsv3::Index>(ids.size())});
  dsv3::Matrix<float> h(static_cast<dsv3::Index>(ids.size()), model.config().hidden_size), logits(h.rows(), model.config().vocab_size);
  const typename dsv3::Model<P>::Sequence sequence{ids, &cache};
  model.forward(ctx, {&sequence, 1}, dsv3::view(h));
  model.logits(ctx, dsv3::view(h), dsv3::view(logits));
  double sum = 0;
  for (dsv3::Index t = 0; t + 1 < logits.rows(); ++t) {
    const Eigen::RowVectorXd row = logits.row(t).cast<double>();
    sum += std::log((row.array() - row.maxCoeff()).exp().sum()) + row.maxCoeff() - row[ids[static_cast<std::size_t>(t) + 1]];
  }
  return sum / static_cast<double>(ids.size() - 1);
}

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: %s DIR\n", argv[0]), 2;
  const std::vector<int> text = {848, 270, 42, 461, 326, 310, 260, 471, 13, 302, 297, 391, 326, 310, 290, 36};
  std::printf("loss with the trained router: %.4f\n", loss(dsv3::io::load<dsv3::DeepSeekV3>(argv[1]), text));
  std::printf("loss without bias and groups: %.4f\n", loss(dsv3::io::load<MyModel>(argv[1]), text));
}
