// Continues many prompts at once: they share every pass over the weights.   usage: 07_batch_of_prompts DIR TEXT...
#include <cstdio>

#include "dsv3/core/thread_pool.hpp"
#include "dsv3/generate/scheduler.hpp"
#include "dsv3/io/load.hpp"
#include "dsv3/io/tokenizer.hpp"

int main(int argc, char** argv) {
  if (argc < 3) return std::fprintf(stderr, "usage: %s DIR TEXT...\n", argv[0]), 2;
  const std::string folder = argv[1];
  const auto tokenizer = dsv3::io::Tokenizer::open(folder);
  const auto model = dsv3::io::load<dsv3::DeepSeekV3>(folder);

  dsv3::Scheduler scheduler(model, {.max_sequences = 8, .max_tokens = 256}, [&](int id) { return tokenizer.token_bytes(id); });
  std::vector<std::string> texts(argv + 2, argv + argc);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const dsv3::Request request{.prompt = tokenizer.encode(texts[i]), .max_new_tokens = 24, .sampling = {.temperature = 0.5, .seed = i}};
    const auto add = [&, i](const dsv3::Token& token) {
      texts[i] += token.text;
      return true;
    };
    if (!scheduler.submit(request, add)) std::fprintf(stderr, "no room in the queue for prompt %zu\n", i);
  }
  dsv3::ThreadPool threads;
  dsv3::Context ctx(threads);
  while (scheduler.step(ctx)) {
  }
  for (const auto& text : texts) std::printf("%s\n---\n", text.c_str());
  const auto stats = scheduler.stats();
  std::printf("%llu tokens in %llu passes\n", static_cast<unsigned long long>(stats.new_tokens),
              static_cast<unsigned long long>(stats.steps));
}
