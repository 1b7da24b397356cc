// dsv3-numerics: experiments on the arithmetic of FP8 training, on balancing and on context extension (docs/laboratory.md).
#include "context.hpp"
#include "learning.hpp"
#include "products.hpp"

namespace {

constexpr const char* usage =
    "usage: dsv3-numerics EXPERIMENT|all [options]\n\n"
    "Runs an experiment and writes NAME.txt, NAME.json and, for most, NAME.svg. docs/laboratory.md tells what they show.\n"
    "  accumulation   error of FP8 products against K, by accumulator: float32, 14 bits, promoted every 32 to 256 terms\n"
    "  scaling        1x128 and 128x128 scales against one for the tensor, e4m3 against e5m2, powers of two, with outliers\n"
    "  cache          what is lost by keeping activations in e4m3, e5m2 or E5M6 for the weight gradient\n"
    "  amax           a scale from now against one from the past 16 steps\n"
    "  moments        second moments of AdamW in bf16, rounded to nearest and stochastically\n"
    "  curves         loss of one model trained in float32, bf16 and variants of FP8\n"
    "  balance        loads of experts and loss: by the bias, by the sequence-wise loss, by neither\n"
    "  context        needles in texts 16 times as long as those trained on, with YaRN\n"
    "  --out DIR      (default laboratory)\n"
    "  --brief        small sizes that show only that it works, for tests\n"
    "  --seeds N      of curves and balance (default 3)\n"
    "  --threads N    default: all processors\n"
    "  --help         prints this text\n";

}  // namespace

int DSV3_MAIN(int argc, char** argv) {
  return cli::run("dsv3-numerics", usage, [&] {
    const cli::Args args(argc, argv, 1, {"--out", "--seeds", "--threads"}, {"--brief"});
    using laboratory::Setting;
    constexpr std::pair<const char*, void (*)(const Setting&)> experiments[] = {{"accumulation", laboratory::accumulation},
                                                                                {"scaling", laboratory::scaling},
                                                                                {"cache", laboratory::cache},
                                                                                {"amax", laboratory::amax},
                                                                                {"moments", laboratory::moments},
                                                                                {"curves", laboratory::curves},
                                                                                {"balance", laboratory::balance},
                                                                                {"context", laboratory::context}};
    const auto executor = cli::make_executor(args.threads());
    dsv3::Context ctx(executor);
    const auto seeds = args.number<dsv3::Index>("--seeds", args.has("--brief") ? 1 : 3, 1, 100);
    bool known = false;
    for (const auto& [name, run] : experiments) {
      if (args[0] != name && args[0] != "all") continue;
      known = true;
      const laboratory::Results results(args.value("--out").value_or("laboratory"), name);
      run({ctx, results, args.has("--brief"), seeds});
    }
    if (!known) throw cli::UsageError("expected an experiment or all, got '" + args[0] + "'");
  });
}
