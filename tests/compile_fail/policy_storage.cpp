// expect: dsv3: P::Storage must have a View
#include "dsv3/model/policy.hpp"

#ifdef FAIL
struct MyStorage {};
#else
using MyStorage = dsv3::Bf16;
#endif

struct MyModel : dsv3::DeepSeekV3 {
  using Storage = MyStorage;
};
static_assert(dsv3::ModelPolicy<MyModel>);
