// expect: dsv3: P::RopeScaling must have frequency(config, j), magnitude(config) and softmax_factor(config)
#include "dsv3/model/policy.hpp"

#ifdef FAIL
struct MyScaling {
  static double frequency(const dsv3::rope::Config& config, dsv3::Index j);
};
#else
using MyScaling = dsv3::rope::Unscaled;
#endif

struct MyModel : dsv3::DeepSeekV3 {
  using RopeScaling = MyScaling;
};
static_assert(dsv3::ModelPolicy<MyModel>);
