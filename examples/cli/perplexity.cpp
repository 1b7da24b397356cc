// dsv3-perplexity: how well a checkpoint predicts a text.
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>

#include "cli.hpp"
#include "dsv3/dsv3.hpp"
#include "dsv3/io/tokenize_file.hpp"
#include "dsv3/train/evaluate.hpp"
#include "policy.hpp"
#include "text_model.hpp"
#include "weights.hpp"

namespace {

using dsv3::Index;

constexpr const char* usage =
    "usage: dsv3-perplexity DIR FILE [options]\n\n"
    "The mean cross-entropy of the next token over FILE, in nats, and its exponential. FILE is text, JSONL with a field \"text\", or\n"
    "a .bin of token ids as dsv3-train reads them.\n"
    "  --context N       tokens of a window (default 1024, or what the model was made for if that is less)\n"
    "  --stride N        tokens between the beginnings of two windows (default: the context less 1). A token counts once, in the\n"
    "                    first window that predicts it, so that with a stride below the context all but the first window's\n"
    "                    tokens see at least context - stride tokens before them\n"
    "  --limit N         the first N tokens of FILE only\n"
    "  --compute exact|bf16|fp8\n"
    "                    products in float32 (default), in bf16, or with activations rounded to fp8 where weights are fp8\n"
    "  --quantize fp8    rounds projections that are not fp8 to fp8, as published checkpoints have them, in memory\n"
    "  --quantize-head fp8\n"
    "                    the same of the output head, which they keep in bf16\n"
    "  --json            prints one line of JSON\n"
    "  --threads N       default: all processors\n"
    "  --help            prints this text\n"
    "Exit status: 0 done, 1 error, 2 wrong arguments.\n";

std::vector<int> read_ids(const std::string& folder, const std::filesystem::path& file, const dsv3::Config& config, Index limit) {
  std::vector<int> ids;
  if (file.extension() == ".bin") {
    const auto tokens = dsv3::io::TokenFile::open(file, config.vocab_size > 65536 ? 4 : 2);
    ids.resize(static_cast<std::size_t>(std::min(tokens.size(), limit)));
    tokens.read(0, ids, config.vocab_size);
    return ids;
  }
  const auto tokenizer = dsv3::io::Tokenizer::open(folder);
  ids = dsv3::io::begin_text(dsv3::io::read_begin(folder, config, tokenizer), dsv3::io::tokenize_file(file, tokenizer));
  if (std::ssize(ids) > limit) ids.resize(static_cast<std::size_t>(limit));
  for (const int id : ids)
    dsv3::require(id < config.vocab_size, folder, ": the tokenizer gives id ", id, ": expected ids below the vocabulary's size of ",
                  config.vocab_size);
  return ids;
}

/// Prints the result for the windows of `ids`.
template <class P>
void measure(const cli::Args& args, const cli::WeightOptions& weights, const std::vector<int>& ids, Index context, Index stride) {
  const auto executor = cli::make_executor(args.threads());
  dsv3::Context ctx(executor);
  const auto model = cli::load_model<P>(ctx, args[0], weights);
  const std::span<const int> all(ids);
  const Index n = std::ssize(ids);
  std::vector<std::uint8_t> counted;
  double sum = 0;
  Index targets = 0, windows = 0;
  const auto start = std::chrono::steady_clock::now();
  for (Index begin = 0, reached = 1; reached < n; begin += stride) {  // targets before `reached` have been counted
    const Index count = std::min(context, n - begin), fresh = begin + count - reached;
    counted.assign(static_cast<std::size_t>(count), 0);
    std::fill(counted.end() - fresh, counted.end(), std::uint8_t{1});
    dsv3::train::Sample window{all.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count))};
    window.trained = counted;
    const double loss = dsv3::train::evaluate(ctx, model, {&window, 1});
    sum += loss * static_cast<double>(fresh);
    targets += fresh, reached += fresh, ++windows;
    if (windows % 64 == 0)
      std::cerr << "\r" << targets << "/" << n - 1 << " tokens, perplexity " << std::exp(sum / static_cast<double>(targets)) << std::flush;
  }
  if (windows >= 64) std::cerr << "\n";
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const double loss = sum / static_cast<double>(targets);
  if (args.has("--json")) {
    const nlohmann::ordered_json line{{"checkpoint", args[0]},
                                      {"file", args[1]},
                                      {"loss", loss},
                                      {"perplexity", std::exp(loss)},
                                      {"tokens", targets},
                                      {"windows", windows},
                                      {"context", context},
                                      {"stride", stride},
                                      {"compute", args.value("--compute").value_or("exact")},
                                      {"seconds", seconds}};
    std::cout << line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
  } else {
    std::printf("loss %.6f, perplexity %.4f, over %td tokens in %td windows of %td (%.0f tokens/s)\n", loss, std::exp(loss), targets,
                windows, context, static_cast<double>(targets) / seconds);
  }
}

}  // namespace

int DSV3_MAIN(int argc, char** argv) {
  return cli::run("dsv3-perplexity", usage, [&] {
    const cli::Args args(argc, argv, 2, cli::with_weights({"--context", "--stride", "--limit", "--compute", "--threads"}), {"--json"});
    const cli::WeightOptions weights = cli::read_weight_options(args);
    const std::string compute = args.value("--compute").value_or("exact");
    if (compute != "exact" && compute != "bf16" && compute != "fp8")
      throw cli::UsageError("--compute: expected exact, bf16 or fp8, got '" + compute + "'");
    constexpr Index most = Index{1} << 24;
    const Index given_context = args.number<Index>("--context", 0, 2, most), given_stride = args.number<Index>("--stride", 0, 1, most),
                limit = args.number<Index>("--limit", Index{1} << 40, 2, Index{1} << 40);
    const dsv3::Config config = dsv3::io::read_config(args[0]);
    const Index context = given_context != 0 ? given_context : std::min<Index>(1024, config.max_position_embeddings);
    const Index stride = given_stride != 0 ? given_stride : context - 1;
    if (stride >= context) throw cli::UsageError("--stride: expected a number below the context of " + std::to_string(context));
    const auto ids = read_ids(args[0], args[1], config, limit);
    dsv3::require(ids.size() >= 2, args[1], ": expected at least 2 tokens, found ", ids.size());
    if (compute == "fp8")
      cli::with_fp8_policy(config, [&]<class P>(P) { measure<P>(args, weights, ids, context, stride); });
    else
      cli::with_policy("dsv3-perplexity", config, compute == "bf16" ? cli::Compute::bf16 : cli::Compute::exact,
                       [&]<class P>(P) { measure<P>(args, weights, ids, context, stride); });
  });
}
