// dsv3-bench-training: time of a training step against the processor's peak, and its memory against the least that a trainer needs.
#include <sys/resource.h>

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "../examples/cli/cli.hpp"
#include "ceilings.hpp"
#include "dsv3/model/count.hpp"
#include "dsv3/model/init.hpp"
#include "dsv3/model/presets.hpp"
#include "dsv3/train/fp8.hpp"
#include "dsv3/train/shuffle.hpp"
#include "dsv3/train/trainer.hpp"

namespace {

constexpr const char* usage =
    "usage: dsv3-bench-training [options]\n"
    "  --case small|moonlight   the embedded model's shape with its MTP module, 16 x 192 tokens (default), or the first two layers of "
    "Moonlight\n"
    "                           with a vocabulary of 8192, 1 x 1024 tokens (needs 13 GB)\n"
    "  --compute exact|bf16|fp8 (default exact)\n"
    "  --recompute everything|report|report-fp8|blocks   what the backward pass keeps (default everything)\n"
    "  --steps N                after the first (default 5); the median counts\n"
    "  --threads N              default: all processors\n"
    "  --json FILE              figures for bench/report.py\n";

using dsv3::Index;

dsv3::Config small() {
  dsv3::Config c;
  c.vocab_size = 1024, c.hidden_size = 128, c.intermediate_size = 384, c.moe_intermediate_size = 64, c.num_hidden_layers = 5,
  c.first_k_dense_replace = 1;
  c.num_nextn_predict_layers = 1, c.num_attention_heads = c.num_key_value_heads = 4, c.n_shared_experts = 1, c.n_routed_experts = 16;
  c.kv_lora_rank = 64, c.q_lora_rank = 64, c.qk_rope_head_dim = 16, c.v_head_dim = 32, c.qk_nope_head_dim = 32, c.n_group = 4,
  c.topk_group = 2;
  c.num_experts_per_tok = 4, c.max_position_embeddings = 1024, c.rope_scaling.reset(), c.fp8 = false;
  return c;
}

dsv3::Config moonlight() {
  dsv3::Config c = dsv3::presets::moonlight_16b_a3b();
  c.vocab_size = 8192, c.num_hidden_layers = 2, c.num_nextn_predict_layers = 0, c.fp8 = false, c.bos_token_id = 0, c.eos_token_id = {1};
  return c;
}

template <class P>
void run(const cli::Args& args) {
  const bool large = args.value("--case").value_or("small") == "moonlight";
  const dsv3::Config c = large ? moonlight() : small();
  const Index samples = large ? 1 : 16, length = large ? 1024 : 192, steps = args.number<Index>("--steps", 5, 1, 1000);
  const std::string recompute = args.value("--recompute").value_or("everything");
  const auto executor = cli::make_executor(args.threads());
  dsv3::Context ctx(executor);
  const auto middle = [&](double (*rate)(dsv3::Context&)) {
    std::vector<double> rates;
    for (int i = 0; i < 5; ++i) rates.push_back(rate(ctx));
    return bench::median(rates);
  };
  const double peak = middle(bench::fma_peak), dot_peak = middle(bench::bf16_dot_peak), tile_peak = middle(bench::amx_peak);

  dsv3::Model<P> model(c);
  dsv3::init_normal(model, 1, 0.02);
  dsv3::train::TrainerOptions options;
  options.keep = recompute == "report"       ? dsv3::train::keep::report
                 : recompute == "report-fp8" ? dsv3::train::keep::report_fp8
                 : recompute == "blocks"     ? dsv3::train::keep::blocks
                                             : dsv3::train::keep::everything;
  dsv3::train::Trainer<P> trainer(model, options);
  dsv3::Matrix<int> ids(samples, length);
  for (Index i = 0; i < ids.size(); ++i)
    ids.data()[i] = static_cast<int>(dsv3::train::hash64(static_cast<std::uint64_t>(i)) % static_cast<std::uint64_t>(c.vocab_size));
  std::vector<dsv3::train::Sample> batch;
  for (Index i = 0; i < samples; ++i) batch.push_back({{ids.row(i).data(), static_cast<std::size_t>(length)}});
  const dsv3::train::StepSettings settings{1e-4, {c.num_nextn_predict_layers > 0 ? 0.3 : 0.0, 0}, 0.001};

  // Fresh weights give every token about the same probability: the loss must be close to the vocabulary's logarithm.
  dsv3::train::StepReport report;
  std::vector<double> step_times, pass_times;
  for (Index s = 0; s <= steps; ++s) {
    const double pass = bench::seconds([&] { trainer.gradients_of(ctx, batch, settings.objective, report); });
    if (s == 0)
      dsv3::require(std::abs(report.losses.main - std::log(static_cast<double>(c.vocab_size))) < 0.5, "training: the first loss is ",
                    report.losses.main, ", expected about ", std::log(static_cast<double>(c.vocab_size)));
    const double step = bench::seconds([&] { report = trainer.step(ctx, batch, settings); });
    if (s > 0) step_times.push_back(step), pass_times.push_back(pass);
  }
  const double step = bench::median(step_times), pass = bench::median(pass_times);
  const auto counts = dsv3::count_parameters(model);
  double flop = 6.0 * static_cast<double>(counts.active) * static_cast<double>(ids.size());
  if (c.num_nextn_predict_layers > 0) {  // its block and the head once more
    const double dense = static_cast<double>(counts.mtp) -
                         3.0 * static_cast<double>(c.hidden_size * c.moe_intermediate_size * (c.n_routed_experts - c.num_experts_per_tok));
    flop += 6.0 * (dense + static_cast<double>(c.vocab_size * c.hidden_size)) * static_cast<double>(ids.size());
  }
  Index parameters = 0;
  for (const auto& p : trainer.parameters().list()) parameters += p.size();
  rusage usage_now{};
  getrusage(RUSAGE_SELF, &usage_now);
  const double rss = static_cast<double>(usage_now.ru_maxrss) * 1024, needed = 16.0 * static_cast<double>(parameters);
  const double kept = static_cast<double>(trainer.passes().tape().bytes());
  const std::string compute = args.value("--compute").value_or("exact");
  const bench::Peak ceiling = compute == "exact" || dot_peak == 0 ? bench::Peak{peak, "FMA"}
                              : tile_peak > 0                     ? bench::Peak{tile_peak, "AMX"}
                                                                  : bench::Peak{dot_peak, "bf16 dot"};
  std::printf("%s, %s, %s, %d threads: step %.3f s (forward, head and backward %.3f, clipping and AdamW %.3f), %.0f tokens/s\n",
              large ? "moonlight" : "small", compute == "exact" ? "float32" : compute.c_str(), recompute.c_str(), ctx.workers(), step, pass,
              step - pass, static_cast<double>(ids.size()) / step);
  std::printf("  %.1f GFLOP in products: %.0f GFLOP/s, %.0f%% of the %s peak of %.0f\n", flop * 1e-9, flop / pass * 1e-9,
              100 * flop / pass / ceiling.rate, ceiling.name, ceiling.rate * 1e-9);
  std::printf("  %.1f M parameters; weights, gradients, moments %.2f GB; kept for backward %.3f GB; largest resident set %.2f GB\n",
              static_cast<double>(parameters) * 1e-6, needed * 1e-9, kept * 1e-9, rss * 1e-9);
  if (const auto file = args.value("--json"))
    std::ofstream(*file) << nlohmann::json{
        {"case", large ? "moonlight" : "small"},
        {"compute", compute == "exact" ? "float32" : compute},
        {"recompute", recompute},
        {"threads", ctx.workers()},
        {"step", step},
        {"pass", pass},
        {"tokens_per_second", static_cast<double>(ids.size()) / step},
        {"gflops", flop / pass * 1e-9},
        {"peak_gflops", ceiling.rate * 1e-9},
        {"needed_gb", needed * 1e-9},
        {"kept_gb", kept * 1e-9},
        {"rss_gb", rss * 1e-9}}.dump();
}

}  // namespace

int main(int argc, char** argv) {
  return cli::run("dsv3-bench-training", usage, [&] {
    const cli::Args args(argc, argv, 0, {"--case", "--compute", "--recompute", "--steps", "--threads", "--json"}, {});
    const std::string compute = args.value("--compute").value_or("exact");
    if (compute == "exact")
      run<dsv3::train::Training<>>(args);
    else if (compute == "bf16")
      run<dsv3::train::FastTraining<>>(args);
    else if (compute == "fp8")
      run<dsv3::train::Fp8Training<>>(args);
    else
      throw cli::UsageError("--compute: expected exact, bf16 or fp8, got '" + compute + "'");
  });
}
