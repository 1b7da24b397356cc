// dsv3-generate: continues text, or token ids, with a checkpoint.
#include <chrono>
#include <filesystem>
#include <iterator>

#include "cli.hpp"
#include "dsv3/dsv3.hpp"
#include "dsv3/generate/complete.hpp"
#include "dsv3/io/text_bounds.hpp"
#include "dsv3/io/tokenizer.hpp"
#include "dsv3/io/utf8_stream.hpp"
#include "loading.hpp"
#include "policy.hpp"
#include "sampling.hpp"
#include "weights.hpp"

namespace {

constexpr const char* usage =
    "usage: dsv3-generate DIR (--prompt TEXT | --file FILE | --ids 1,2,3) [options]\n\n"
    "Continues a text with the checkpoint in DIR (config.json, safetensors, and a tokenizer for text). The text, or the ids, are\n"
    "written as they come; figures follow on standard error.\n"
    "  -p, --prompt TEXT    text to continue; needs a tokenizer in DIR\n"
    "  -f, --file FILE      holds the text; - is standard input\n"
    "  --ids LIST           token ids to continue, instead of a text; ids are written\n"
    "  -n, --max-new N      most tokens to add (default 256)\n"
    "  --temperature T      0 takes the likeliest token (default), larger values vary\n"
    "  --top-p P, --top-k K, --min-p P, --repetition-penalty R, --presence-penalty X, --frequency-penalty X\n"
    "                       other limits on the choice (default: none)\n"
    "  --seed S             of the random choice (default 0)\n"
    "  --stop TEXT          ends the text before it; may be given several times\n"
    "  --drafts N           tokens that the MTP modules propose for each pass (default 0)\n"
    "  --json               writes nothing but a line of JSON at the end: text or ids, why it ended, figures\n"
    "  --compute C          exact (float32, the same bits however the prompt is cut), bf16, or auto (default: bf16 where\n"
    "                       program and processor have AMX or AVX512-BF16)\n"
    "  --quantize fp8       rounds projections that are not fp8 to fp8, as published checkpoints have them, in memory\n"
    "  --quantize-head fp8  the same of the output head, which they keep in bf16\n"
    "  --threads N          default: all processors\n"
    "  -h, --help, --version\n"
    "Exit status: 0 done, 1 error, 2 wrong arguments.\n";

using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point start, Clock::time_point end) { return std::chrono::duration<double>(end - start).count(); }

std::string read_prompt(const cli::Args& args) {
  if (const auto prompt = args.value("--prompt")) return *prompt;
  const std::string file = *args.value("--file");
  if (file == "-") return {std::istreambuf_iterator<char>(std::cin), {}};
  return dsv3::io::read_text_file(file, std::size_t{1} << 30);
}

const char* name(dsv3::FinishReason reason) {
  return reason == dsv3::FinishReason::stop_token || reason == dsv3::FinishReason::stop_string ? "stop" : "length";
}

template <class P>
void generate(const cli::Args& args) {
  const auto executor = cli::make_executor(args.threads());
  dsv3::Context ctx(executor);
  const bool json = args.has("--json");
  std::optional<dsv3::io::Tokenizer> tokenizer;
  std::string prompt;
  if (!args.has("--ids")) {
    prompt = read_prompt(args);
    tokenizer = dsv3::io::Tokenizer::open(args[0]);
  }
  cli::Loading loading(args[0]);
  const auto model = cli::load_model<P>(ctx, args[0], cli::read_weight_options(args), loading.options());
  dsv3::Request request{
      .prompt = tokenizer ? dsv3::io::begin_text(dsv3::io::read_begin(args[0], model.config(), *tokenizer), tokenizer->encode(prompt))
                          : cli::parse_ids(*args.value("--ids"), "--ids"),
      .max_new_tokens = args.number<dsv3::Index>("--max-new", 256, 0, 1 << 24),
      .sampling = cli::read_sampling(args, {}),
      .stop_strings = args.values("--stop")};
  const auto depth = args.number<dsv3::Index>("--drafts", 0, 0, 16);
  if (depth > 0 && model.mtp_modules() == 0) throw cli::UsageError("--drafts: this checkpoint has no MTP modules");
  if (!tokenizer && !request.stop_strings.empty()) throw cli::UsageError("--stop: expected a text to continue, got ids");

  dsv3::io::Utf8Stream characters;
  std::string text;
  std::vector<int> ids;
  const auto start = Clock::now();
  auto first = start;
  const auto print = [&](const std::string& more) {
    text += more;
    if (!json) std::cout << more << std::flush;
  };
  const auto take = [&](const dsv3::Token& token) {
    if (token.index == 0) first = Clock::now();
    ids.push_back(token.id);
    print(tokenizer ? characters.push(token.text) : std::to_string(token.id) + ' ');
    return true;
  };
  const auto bytes = [&](int id) {  // rows of the embedding that only pad it stand for no text
    return tokenizer && id < tokenizer->vocab_size() ? tokenizer->token_bytes(id) : std::string_view();
  };
  if (tokenizer && !json) std::cout << prompt << std::flush;
  const auto tokens = static_cast<dsv3::Index>(request.prompt.size());
  dsv3::CachedText cache{model.make_cache({tokens + std::max<dsv3::Index>(request.max_new_tokens, 1)})};
  const dsv3::Finish finish = dsv3::complete(ctx, model, cache, std::move(request), {.depth = depth}, take, bytes);
  dsv3::require(finish.reason != dsv3::FinishReason::error, finish.error);
  if (tokenizer) print(characters.push(finish.text) + characters.finish());

  const double prefill = seconds_between(start, ids.empty() ? Clock::now() : first),
               decode = ids.empty() ? 0 : seconds_between(first, Clock::now());
  if (json) {
    nlohmann::ordered_json line;
    tokenizer ? line["text"] = text : line["ids"] = ids;
    line["finish_reason"] = name(finish.reason);
    line["prompt_tokens"] = tokens;
    line["new_tokens"] = finish.stats.new_tokens;
    line["tokens_per_pass"] = finish.stats.tokens_per_pass();
    line["prefill_seconds"] = prefill;
    line["decode_seconds"] = decode;
    std::cout << line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
  std::cout << '\n' << std::flush;
  std::fprintf(stderr, "%td prompt tokens, %.1f tokens/s; %td new tokens, %.1f tokens/s (%d threads)\n", tokens,
               static_cast<double>(tokens) / prefill, finish.stats.new_tokens,
               finish.stats.new_tokens > 1 ? static_cast<double>(finish.stats.new_tokens - 1) / decode : 0.0, ctx.workers());
}

}  // namespace

int DSV3_MAIN(int argc, char** argv) {
  return cli::run("dsv3-generate", usage, [&] {
    const cli::Args args(
        argc, argv, 1,
        cli::with_weights(cli::with_sampling({"--prompt", "--file", "--ids", "--max-new", "--stop", "--drafts", "--compute", "--threads"})),
        {"--json"}, {{"-p", "--prompt"}, {"-f", "--file"}, {"-n", "--max-new"}});
    if (args.has("--prompt") + args.has("--file") + args.has("--ids") != 1)
      throw cli::UsageError("expected one of --prompt, --file and --ids");
    const auto compute = args.compute();
    cli::with_policy("dsv3-generate", dsv3::io::read_config(args[0]), compute, [&]<class P>(P) { generate<P>(args); });
  });
}
