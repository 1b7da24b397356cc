// expect: dsv3: P::Block<P> must have a Cache, a constructor from (const Config&, layer), static width(const Config&)
#include "dsv3/model/policy.hpp"

template <class P>
class MyBlock : public dsv3::Block<P> {
 public:
  using dsv3::Block<P>::Block;
#ifdef FAIL
  static double width(const dsv3::Config&);
#endif
};

struct MyModel : dsv3::DeepSeekV3 {
  template <class P>
  using Block = MyBlock<P>;
};
static_assert(dsv3::ModelPolicy<MyModel>);
