// Quantizes a checkpoint's projections to fp8 with 128x128 block scales and saves it.   usage: 05_quantize_checkpoint DIR OUT
//
// What is written has the published DeepSeek-V3 layout: Hugging Face and the engines read it.
#include <cstdio>

#include "dsv3/dsv3.hpp"
#include "dsv3/io/load.hpp"
#include "dsv3/io/save.hpp"

int main(int argc, char** argv) try {
  if (argc != 3) return std::fprintf(stderr, "usage: %s DIR OUT\n", argv[0]), 2;
  dsv3::io::with_policy(dsv3::io::read_config(argv[1]), [&]<class P>(P) {
    dsv3::ThreadPool threads;
    dsv3::Context ctx(threads);
    auto model = dsv3::io::load<P>(argv[1]);
    dsv3::quantize_fp8(ctx, model);
    dsv3::io::save(model, argv[2]);
    std::printf("%s: %td parameters, projections as fp8\n", argv[2], count_parameters(model).total);
  });
} catch (const dsv3::Error& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
