// expect: dsv3: P::Residual<P> must have width(const Config&), a Connection with read(ctx, scope, stream)
#include "dsv3/model/policy.hpp"

template <class P>
struct MyResidual : dsv3::PlainResidual<P> {
#ifdef FAIL
  struct Ends {};
#endif
};

struct MyModel : dsv3::DeepSeekV3 {
  template <class P>
  using Residual = MyResidual<P>;
};
static_assert(dsv3::ModelPolicy<MyModel>);
