// expect: dsv3: P::Norm<P> must be constructible from (channels, eps) and have forward(ctx, x, y) const
#include "dsv3/model/policy.hpp"

#ifdef FAIL
template <class P>
class MyNorm {
 public:
  explicit MyNorm(dsv3::Index channels);
};
#else
template <class P>
class MyNorm : public dsv3::RmsNorm<P> {
 public:
  using dsv3::RmsNorm<P>::RmsNorm;
};
#endif

struct MyModel : dsv3::DeepSeekV3 {
  template <class P>
  using Norm = MyNorm<P>;
};
static_assert(dsv3::ModelPolicy<MyModel>);
