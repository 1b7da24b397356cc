// expect: dsv3: P::AttentionVariant<P> may have Index first_key(Index limit) const, transform(score) const and float sink(Index head)
#include "dsv3/model/policy.hpp"

struct MyVariant {
#ifdef FAIL
  int first_key(dsv3::Index limit) const;
#else
  dsv3::Index first_key(dsv3::Index limit) const;
#endif
};

struct MyModel : dsv3::DeepSeekV3 {
  template <class P>
  using AttentionVariant = MyVariant;
};
static_assert(dsv3::ModelPolicy<MyModel>);
