// A logit processor and a token mask of one's own, among those of the library.   usage: 08_custom_sampler DIR TEXT
#include <cstdio>

#include "dsv3/generate/complete.hpp"
#include "dsv3/io/load.hpp"
#include "dsv3/io/tokenizer.hpp"

/// "Don't repeat yourself": lowers the logit of a token by how long a passage before it it would repeat.
struct RepeatedPassages {
  float penalty = 1, base = 1.75f;
  std::size_t allowed = 2;  // tokens

  void operator()(const dsv3::TextSoFar& text, std::span<float> logits) const {
    const auto ids = text.ids;
    for (std::size_t end = 1; end < ids.size(); ++end) {  // ids[end] follows a passage that the text ends with, too?
      std::size_t length = 0;
      while (length < end && ids[end - 1 - length] == ids[ids.size() - 1 - length]) ++length;
      if (length >= allowed)
        logits[static_cast<std::size_t>(ids[end])] -=
            penalty * std::pow(base, static_cast<float>(std::min<std::size_t>(length - allowed, 20)));
    }
  }
};
static_assert(dsv3::LogitProcessor<RepeatedPassages>);

int main(int argc, char** argv) {
  if (argc != 3) return std::fprintf(stderr, "usage: %s DIR TEXT\n", argv[0]), 2;
  const std::string folder = argv[1];
  const auto tokenizer = dsv3::io::Tokenizer::open(folder);
  const auto model = dsv3::io::load<dsv3::DeepSeekV3>(folder);

  // A mask says which tokens may come: here, none with the letter e.
  const auto without_e = [&](const dsv3::TextSoFar&, std::span<std::uint8_t> allowed) {
    for (std::size_t id = 0; id < allowed.size(); ++id)
      allowed[id] = tokenizer.token_bytes(static_cast<int>(id)).find_first_of("eE") == std::string_view::npos;
  };

  dsv3::Context ctx;
  for (const bool own : {false, true}) {
    dsv3::CachedText cached{model.make_cache({.max_tokens = 256})};
    dsv3::Request request{.prompt = tokenizer.encode(argv[2]), .max_new_tokens = 40};
    if (own) request.processors = {RepeatedPassages{}, dsv3::sampling::Masked(without_e)};
    std::string text;
    const auto add = [&](const dsv3::Token& token) {
      text += token.text;
      return true;
    };
    dsv3::complete(ctx, model, cached, request, {.depth = 1}, add, [&](int id) { return tokenizer.token_bytes(id); });
    std::printf("%s:\n%s\n\n", own ? "repeats nothing, and has no e" : "as the model likes it", text.c_str());
  }
}
