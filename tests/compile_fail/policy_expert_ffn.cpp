// expect: dsv3: P::ExpertFfn<P> must be constructible from ([const Config&,] hidden, inner) and have forward_group(ctx, jobs, rows)
#include "dsv3/model/policy.hpp"

#ifdef FAIL
template <class P>
class MyFfn {
 public:
  MyFfn(dsv3::Index hidden, dsv3::Index inner);
};
#else
template <class P>
class MyFfn {
 public:
  MyFfn(dsv3::Index hidden, dsv3::Index inner);
  static void forward_group(dsv3::Context& ctx, std::span<const dsv3::FfnJob<MyFfn> > jobs, const auto& rows);
  template <class Self, class Visit>
  static void for_each_tensor(Self& self, const std::string& prefix, Visit&& visit);
};
#endif

struct MyModel : dsv3::DeepSeekV3 {
  template <class P>
  using ExpertFfn = MyFfn<P>;
};
static_assert(dsv3::ModelPolicy<MyModel>);
