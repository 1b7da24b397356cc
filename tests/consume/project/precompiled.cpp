// A stranger's program that links the compiled library: three tokens after "ROMEO:".   usage: precompiled DIR
#include <cstdio>

#include "dsv3/precompiled.hpp"

int main(int, char** argv) {
  const std::string folder = argv[1];
  const auto tokenizer = dsv3::io::Tokenizer::open(folder);
  const auto model = dsv3::io::load(folder);
  auto cache = model.make_cache({.max_tokens = 16});
  dsv3::Context ctx;
  dsv3::generate(ctx, model, cache, tokenizer.encode("ROMEO:\n"), {.max_new_tokens = 3}, [&](int id) {
    std::printf("%s", std::string(tokenizer.token_bytes(id)).c_str());
    return true;
  });
  std::puts("");
}
