// dsv3-generate: continues text, or token ids, with a checkpoint.
#include <unistd.h>

#include <chrono>
#include <filesystem>

#include "cli.hpp"
#include "dsv3/dsv3.hpp"
#include "dsv3/io/utf8_stream.hpp"
#include "policy.hpp"
#include "text_model.hpp"

namespace {

constexpr const char* usage =
    "usage: dsv3-generate DIR (--prompt TEXT | --ids 1,2,3) [options]\n\n"
    "Continues a text with the checkpoint in DIR (config.json, safetensors, and tokenizer.json for text). The text, or the ids, are\n"
    "written as they come; figures follow on standard error.\n"
    "  --prompt TEXT      text to continue; needs DIR/tokenizer.json\n"
    "  --ids LIST         token ids to continue, instead of a text; ids are written\n"
    "  --max-new N        most tokens to add (default 256)\n"
    "  --temperature T    0 takes the likeliest token (default), larger values vary\n"
    "  --seed S           of the random choice (default 0)\n"
    "  --compute C        exact (float32, the same bits however the prompt is cut), bf16, or auto (default: bf16 where\n"
    "                     program and processor have AMX or AVX512-BF16)\n"
    "  --threads N        default: all processors\n"
    "  --help             prints this text\n"
    "Exit status: 0 done, 1 error, 2 wrong arguments.\n";

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// The prompt's ids: as given, or its text encoded, after the begin-of-text token if the tokenizer's files ask for one.
std::vector<int> prompt_ids(const cli::Args& args, const dsv3::Config& config, const std::optional<dsv3::io::Tokenizer>& tokenizer) {
  if (!tokenizer) return cli::parse_ids(*args.value("--ids"), "--ids");
  return dsv3::io::begin_text(dsv3::io::read_begin(args[0], config), tokenizer->encode(*args.value("--prompt")));
}

template <class P>
void generate(const cli::Args& args) {
  const auto executor = cli::make_executor(args.threads());
  dsv3::Context ctx(executor);
  const bool progress = isatty(STDERR_FILENO);
  const auto model = dsv3::io::load<P>(args[0], {.progress = [&](dsv3::Index bound, dsv3::Index total) {
                                         if (progress && (bound % 512 == 0 || bound == total))
                                           std::cerr << "\rloading " << bound << " of " << total << (bound == total ? " tensors\n" : "")
                                                     << std::flush;
                                       }});
  std::optional<dsv3::io::Tokenizer> tokenizer;
  if (args.has("--prompt")) tokenizer = dsv3::io::Tokenizer::open(std::filesystem::path(args[0]) / "tokenizer.json");
  const auto prompt = prompt_ids(args, model.config(), tokenizer);
  const auto max_new = args.number<dsv3::Index>("--max-new", 256, 0, 1 << 24);
  auto cache = model.make_cache({static_cast<dsv3::Index>(prompt.size()) + std::max<dsv3::Index>(max_new, 1)});

  dsv3::io::Utf8Stream text;
  const auto start = Clock::now();
  std::optional<Clock::time_point> first;
  const auto print = [&](int id) {
    if (!first) first = Clock::now();
    if (!tokenizer)
      std::cout << id << ' ';
    else if (id < tokenizer->vocab_size())  // rows of the embedding that only pad it stand for no text
      std::cout << text.push(tokenizer->token_bytes(id));
    std::cout << std::flush;
    return true;
  };
  if (tokenizer) std::cout << *args.value("--prompt") << std::flush;
  const auto result = dsv3::generate(
      ctx, model, cache, prompt, {.max_new_tokens = max_new}, print,
      dsv3::Temperature(args.number("--temperature", 0.0, 0.0, 1e6), args.number<std::uint64_t>("--seed", 0, 0, ~std::uint64_t{0})));
  if (tokenizer) std::cout << text.finish();
  std::cout << '\n' << std::flush;

  const double prefill = first ? std::chrono::duration<double>(*first - start).count() : seconds_since(start),
               decode = seconds_since(start) - prefill;
  std::fprintf(stderr, "%td prompt tokens, %.1f tokens/s; %td new tokens, %.1f tokens/s (%d threads)\n",
               static_cast<std::ptrdiff_t>(prompt.size()), static_cast<double>(prompt.size()) / prefill, result.new_tokens,
               result.new_tokens > 1 ? static_cast<double>(result.new_tokens - 1) / decode : 0.0, ctx.workers());
}

}  // namespace

int DSV3_MAIN(int argc, char** argv) {
  return cli::run("dsv3-generate", usage, argc, argv, [&] {
    const cli::Args args(argc, argv, 1, {"--prompt", "--ids", "--max-new", "--temperature", "--seed", "--compute", "--threads"}, {});
    if (args.has("--prompt") == args.has("--ids")) throw cli::UsageError("expected either --prompt or --ids");
    const auto compute = args.compute();
    cli::with_policy("dsv3-generate", dsv3::io::read_config(args[0]), compute, [&]<class P>(P) { generate<P>(args); });
  });
}
