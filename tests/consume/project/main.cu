// A stranger's CUDA translation unit, which nvcc hands to the host's compiler: three tokens after "ROMEO:".   usage: main DIR
#include <cstdio>

#include "dsv3/dsv3.hpp"
#include "dsv3/generate/scheduler.hpp"
#include "dsv3/io/load.hpp"
#include "dsv3/io/save.hpp"
#include "dsv3/io/tokenizer.hpp"
#include "dsv3/train/trainer.hpp"

int main(int, char** argv) {
  const std::string folder = argv[1];
  const auto tokenizer = dsv3::io::Tokenizer::open(folder + "/tokenizer.json");
  const auto model = dsv3::io::load<dsv3::DeepSeekV3>(folder);
  auto cache = model.make_cache({.max_tokens = 16});
  dsv3::Context ctx;
  dsv3::generate(ctx, model, cache, tokenizer.encode("ROMEO:\n"), {.max_new_tokens = 3}, [&](int id) {
    std::printf("%s", std::string(tokenizer.token_bytes(id)).c_str());
    return true;
  });
  std::puts("");
}
