// expect: dsv3: P::Attention<P> must have a Cache, a constructor from (const Config&[, layer]), forward(ctx, x, rows, y) const
#include "dsv3/model/policy.hpp"

#ifdef FAIL
template <class P>
class MyAttention {
 public:
  explicit MyAttention(const dsv3::Config&);
};
#else
template <class P>
class MyAttention : public dsv3::Mla<P> {
 public:
  using dsv3::Mla<P>::Mla;
};
#endif

struct MyModel : dsv3::DeepSeekV3 {
  template <class P>
  using Attention = MyAttention<P>;
};
static_assert(dsv3::ModelPolicy<MyModel>);
