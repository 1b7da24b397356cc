// Loads a checkpoint and continues a text, token by token.   usage: 01_load_and_generate DIR TEXT
#include <cstdio>

#include "dsv3/dsv3.hpp"
#include "dsv3/io/load.hpp"
#include "dsv3/io/tokenizer.hpp"

int main(int argc, char** argv) {
  if (argc != 3) return std::fprintf(stderr, "usage: %s DIR TEXT\n", argv[0]), 2;
  const std::string folder = argv[1];

  const auto tokenizer = dsv3::io::Tokenizer::open(folder);
  const auto model = dsv3::io::load<dsv3::DeepSeekV3>(folder);  // maps the files: nothing is converted or copied
  auto cache = model.make_cache({.max_tokens = 512});

  dsv3::ThreadPool threads;
  dsv3::Context ctx(threads);
  dsv3::generate(ctx, model, cache, tokenizer.encode(argv[2]), {.max_new_tokens = 40}, [&](int id) {
    const auto text = tokenizer.token_bytes(id);
    std::fwrite(text.data(), 1, text.size(), stdout);
    return true;  // false stops
  });
  std::puts("");
}
