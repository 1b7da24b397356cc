// expect: dsv3: P::RopePairing must have first(j, dim) and second(j, dim)
#include "dsv3/model/policy.hpp"

#ifdef FAIL
struct MyPairing {
  static dsv3::Index first(dsv3::Index j, dsv3::Index dim);
};
#else
using MyPairing = dsv3::rope::Halves;
#endif

struct MyModel : dsv3::DeepSeekV3 {
  using RopePairing = MyPairing;
};
static_assert(dsv3::ModelPolicy<MyModel>);
