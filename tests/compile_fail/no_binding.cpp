// expect: dsv3: this storage cannot be loaded or saved: specialise dsv3::io::Binding for it
#include "dsv3/io/load.hpp"

struct Mine : dsv3::F32 {
  struct View : dsv3::F32::View {
    using Storage = Mine;
    View slice(dsv3::Index begin, dsv3::Index count) const;
  };
};
struct MyModel : dsv3::DeepSeekV3 {
#ifdef FAIL
  using Storage = Mine;
#endif
};

int main() { (void)dsv3::io::load<MyModel>("folder"); }
