// Several tokens for one pass over the weights, drafted by the checkpoint's own MTP modules.   usage: 06_speculative_decoding DIR TEXT
#include <chrono>
#include <cstdio>

#include "dsv3/core/thread_pool.hpp"
#include "dsv3/generate/complete.hpp"
#include "dsv3/io/load.hpp"
#include "dsv3/io/tokenizer.hpp"

int main(int argc, char** argv) {
  if (argc != 3) return std::fprintf(stderr, "usage: %s DIR TEXT\n", argv[0]), 2;
  const std::string folder = argv[1];
  const auto tokenizer = dsv3::io::Tokenizer::open(folder);
  const auto model = dsv3::io::load<dsv3::DeepSeekV3>(folder);
  const auto bytes = [&](int id) { return tokenizer.token_bytes(id); };

  dsv3::ThreadPool threads;
  dsv3::Context ctx(threads);
  std::string plain;
  for (const dsv3::Index depth : {0, 1, 2, 3}) {  // this checkpoint has one module: beyond, it is used again
    dsv3::CachedText text{model.make_cache({.max_tokens = 512})};
    std::string written;
    const auto start = std::chrono::steady_clock::now();
    const auto finish = dsv3::complete(
        ctx, model, text, {.prompt = tokenizer.encode(argv[2]), .max_new_tokens = 120}, {.depth = depth},
        [&](const dsv3::Token& token) {
          written += token.text;
          return true;  // false stops
        },
        bytes);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (depth == 0) std::printf("%s%s\n\n", argv[2], (plain = written).c_str());
    std::printf("depth %td: %.0f%% of drafts accepted, %.2f tokens a pass, %.0f tokens/s, %s\n", depth,
                100 * finish.stats.acceptance_rate(), finish.stats.tokens_per_pass(),
                static_cast<double>(finish.stats.new_tokens) / seconds, written == plain ? "the same text" : "ANOTHER TEXT");
  }
}
