// expect: dsv3: P::Compute must have prepare(Context&, Workspace::Scope&, x, weight)
#include "dsv3/model/policy.hpp"

#ifdef FAIL
struct MyCompute {
  static void prepare(dsv3::Context&);
};
#else
using MyCompute = dsv3::compute::Fp8Activations<>;
#endif

struct MyModel : dsv3::DeepSeekV3 {
  using Compute = MyCompute;
};
static_assert(dsv3::ModelPolicy<MyModel>);
