// expect: dsv3: P::Router must have Choice route(const router::Config&, [const router::TokenInfo&,] std::span<const float> logits,
// std::span<const float> bias)
#include "dsv3/model/policy.hpp"

#ifdef FAIL
struct MyRouter {
  int choose(std::span<const float> logits) const;
};
#else
struct MyRouter {
  dsv3::router::Choice route(const dsv3::router::Config&, std::span<const float> logits, std::span<const float> bias) const;
};
#endif

struct MyModel : dsv3::DeepSeekV3 {
  using Router = MyRouter;
};
static_assert(dsv3::ModelPolicy<MyModel>);
