// dsv3-bench: speed of a model of a published shape, compared with the machine's ceilings, measured in the same minute.
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "../examples/cli/cli.hpp"
#include "ceilings.hpp"
#include "random_model.hpp"

namespace {

using namespace dsv3;
using bench::median;
using bench::seconds;

constexpr const char* usage =
    "usage: dsv3-bench [options]\n\n"
    "Builds a model of a published shape with random weights in memory and measures it.\n"
    "  --preset NAME     moonlight-16b (default), v2-lite, deepseek-v3, or another name that dsv3-inspect knows\n"
    "  --layers N        only the first N layers (default: all of them)\n"
    "  --storage S       fp8 (default) or bf16: how projections are stored\n"
    "  --compute C       bf16 (default: prompts in bf16) or exact (everything in float32)\n"
    "  --prompt N        tokens of the prompt (default 512; 0: no prefill is measured)\n"
    "  --decode N        steps of decoding (default 64)\n"
    "  --depth N         tokens in the cache before decoding begins (default 0)\n"
    "  --batch B         sequences decoded together (default 1)\n"
    "  --rows R          tokens that a step adds to each sequence (default 1; 2 is a draft of one token)\n"
    "  --same-experts    the rows of a step are one token: what a draft costs that goes to the same experts\n"
    "  --compare         then decodes two rows, of one token and of two, and at depth 4096, as well\n"
    "  --threads N       default: all processors\n"
    "  --json FILE       writes the figures there as well\n"
    "  --help            prints this text\n"
    "Exit status: 0 done, 1 error or a wrong result, 2 wrong arguments.\n";

/// Time between the records of a pass, by what was computed, and the experts that each layer chose.
struct Stopwatch {
  std::map<std::string, double> spent;
  std::vector<std::set<int>> experts;
  std::chrono::steady_clock::time_point last = std::chrono::steady_clock::now();

  void lap(const std::string& what) {
    const auto now = std::chrono::steady_clock::now();
    spent[what] += std::chrono::duration<double>(now - last).count();
    last = now;
  }
  void record(point::Hidden, Index, ConstMatrixView<float>) { lap("embedding and residual"); }
  void record(point::AttentionOutput, Index, ConstMatrixView<float>) { lap("attention"); }
  void record(point::Gates, Index, ConstMatrixView<float>) { lap("router"); }
  void record(point::FfnOutput, Index, ConstMatrixView<float>) { lap("feed-forward"); }
  void record(point::Experts, Index, ConstMatrixView<int> chosen) { experts.emplace_back(chosen.data(), chosen.data() + chosen.size()); }
};

/// Outputs of attention and feed-forward in the first two layers for each token, and the experts that it is routed to there.
struct FirstLayers {
  std::map<std::string, std::vector<Vector<float>>> rows;
  std::array<std::vector<std::set<int>>, 2> experts;

  template <class Point>
  requires std::same_as<Point, point::AttentionOutput> || std::same_as<Point, point::FfnOutput>
  void record(Point, Index layer, ConstMatrixView<float> x) {
    for (Index t = 0; layer <= 1 && t < x.rows(); ++t) rows[std::to_string(layer) + "." + std::string(Point::name)].emplace_back(x.row(t));
  }
  void record(point::Experts, Index layer, ConstMatrixView<int> chosen) {
    for (Index t = 0; layer <= 1 && t < chosen.rows(); ++t)
      experts[static_cast<std::size_t>(layer)].emplace_back(chosen.row_data(t), chosen.row_data(t) + chosen.cols());
  }
};

/// Bytes of weights that a pass reads: all weights except the routed experts that no token chose and the embedding rows of other tokens.
template <class P>
struct WeightBytes {
  Index always = 0, expert = 0, embedding_row = 0;

  explicit WeightBytes(const Model<P>& model) {
    Model<P>::for_each_tensor(model, [&]<class T>(const std::string& name, const T& parameter) {
      if constexpr (requires { parameter.view; }) {
        const Index bytes = bench::stored_bytes(parameter);
        if (name.find(".mlp.experts.0.") != name.npos) expert += bytes;
        if (name == "model.embed_tokens.weight") embedding_row = bytes / parameter.rows;
        if (name.find(".mlp.experts.") == name.npos && name != "model.embed_tokens.weight") always += bytes;
      } else {
        always += parameter.size() * 4;
      }
    });
    const Config& c = model.config();
    if (c.num_hidden_layers > c.first_k_dense_replace) expert /= c.num_hidden_layers - c.first_k_dense_replace;
  }
  Index of(const std::vector<std::set<int>>& experts, Index tokens) const {
    Index bytes = always + tokens * embedding_row;
    for (const auto& layer : experts) bytes += static_cast<Index>(layer.size()) * expert;
    return bytes;
  }
};

template <class P>
class Bench {
 public:
  Bench(const Config& config, bench::StorageKind storage, Context& ctx)
      : ctx_(ctx), model_(config), memory_(bench::fill_model(ctx, model_, storage)), bytes_(model_) {}

  /// Compares the first layers' outputs computed as a prompt (expanded, in bf16 if the policy says so) and token by token (absorbed, in
  /// float32): two paths through the library that share neither kernels nor order of sums.
  void check() {
    const Index tokens = 24;
    const auto ids = random_ids(tokens);
    auto whole = model_.make_cache({tokens}), stepwise = model_.make_cache({tokens});
    Matrix<float> h(tokens, model_.config().hidden_size);
    FirstLayers prompt, steps;
    add(whole, ids, h, prompt);
    for (Index t = 0; t < tokens; ++t) add(stepwise, std::span(ids).subspan(static_cast<std::size_t>(t), 1), h, steps);
    // Rounding activations changes a product by 2^-9 of its size, and a layer is a chain of products.
    const double bound = in_bf16<typename P::Compute>(tokens) ? 16 * 0x1p-9 : 1e-4;
    for (const char* what : {"0.attn", "0.mlp", "1.attn", "1.mlp"}) {
      double difference = 0, size = 0;
      for (std::size_t t = 0; t < prompt.rows[what].size(); ++t) {
        const auto layer = static_cast<std::size_t>(what[0] - '0');
        if (t < prompt.experts[layer].size() && prompt.experts[layer][t] != steps.experts[layer][t])
          continue;  // the scores of two experts nearly tie
        const auto &a = prompt.rows[what][t], &b = steps.rows[what][t];
        difference += (a - b).squaredNorm();
        size += b.squaredNorm();
      }
      if (prompt.rows[what].empty()) continue;
      std::printf("check: %s as a prompt and token by token differ by %.1e of their size (bound %.0e)\n", what,
                  std::sqrt(difference / size), bound);
      require(difference <= bound * bound * size, "wrong result in layer ", what);
    }
  }

  /// Seconds for a prompt, the breakdown of its last run, and the ceilings measured around it.
  nlohmann::json prefill(Index tokens) {
    auto cache = model_.make_cache({tokens});
    Matrix<float> h(tokens, model_.config().hidden_size), logits(1, model_.config().vocab_size);
    const auto ids = random_ids(tokens);
    std::vector<double> times, peaks, read;
    const char* arithmetic = "FMA";
    Stopwatch watch;
    for (int run = 0; run < 4; ++run) {
      cache.clear();
      watch = {};
      const bench::Peak peak = rounds_to_bf16<typename P::Compute> ? bench::bf16_peak(ctx_) : bench::Peak{bench::fma_peak(ctx_), "FMA"};
      peaks.push_back(peak.rate);
      arithmetic = peak.name;
      read.push_back(bench::read_rate(ctx_, sample(run)));
      times.push_back(seconds([&] {
        add(cache, ids, h, watch);
        model_.logits(ctx_, view(h).slice(tokens - 1, 1), view(logits));
      }));
      if (run == 0) times.clear();  // the first run allocates scratch memory
    }
    const double time = median(times), flop = prefill_flop(tokens);
    nlohmann::json r = {{"prefill_tokens", tokens},
                        {"prefill_seconds", time},
                        {"prefill_tokens_per_s", static_cast<double>(tokens) / time},
                        {"prefill_gflop_s", flop / time * 1e-9},
                        {"peak_gflop_s", median(peaks) * 1e-9},
                        {"peak", arithmetic},
                        {"fma_peak_gflop_s", bench::fma_peak(ctx_) * 1e-9},
                        {"prefill_bytes", bytes_.of(watch.experts, tokens)}};
    const double peak = median(peaks);
    const double memory_time = static_cast<double>(bytes_.of(watch.experts, tokens)) / median(read), compute_time = flop / peak;
    r["prefill_bound_by"] = memory_time > compute_time ? "memory" : arithmetic;
    r["prefill_fraction_of_bound"] = std::max(memory_time, compute_time) / time;
    std::printf("prefill of %td tokens: %.2f s, %.1f tokens/s, %.0f GFLOP/s = %.0f%% of %s peak (%.0f); bound by %s: %.0f%% of the bound\n",
                tokens, time, static_cast<double>(tokens) / time, flop / time * 1e-9, 100 * flop / time / peak, arithmetic, peak * 1e-9,
                r["prefill_bound_by"].get<std::string>().c_str(), 100 * r["prefill_fraction_of_bound"].get<double>());
    r["prefill_breakdown"] = breakdown(watch);
    return r;
  }

  /// Steps of decoding, with the read rate of the same memory measured between them.
  nlohmann::json decode(Index steps, Index depth, Index batch, Index rows, bool same_experts) {
    using Sequence = typename Model<P>::Sequence;
    std::vector<typename Model<P>::Cache> caches;
    for (Index b = 0; b < batch; ++b) {
      caches.push_back(model_.make_cache({depth + (steps + 2) * rows}));
      fill_cache(caches.back(), depth, static_cast<std::uint64_t>(b));
    }
    const Index tokens = batch * rows;
    Matrix<float> h(tokens, model_.config().hidden_size), logits(tokens, model_.config().vocab_size);
    std::vector<double> times, fractions, rates;
    double bytes = 0;
    Stopwatch total;
    for (Index step = -2; step < steps; ++step) {
      auto ids = random_ids(tokens);
      if (same_experts) std::fill(ids.begin(), ids.end(), ids.front());
      std::vector<Sequence> sequences;
      for (Index b = 0; b < batch; ++b)
        sequences.push_back({std::span<const int>(ids).subspan(static_cast<std::size_t>(b * rows), static_cast<std::size_t>(rows)),
                             &caches[static_cast<std::size_t>(b)]});
      Stopwatch watch;
      const double time = seconds([&] {
        model_.forward(ctx_, sequences, view(h), watch);
        watch.last = std::chrono::steady_clock::now();
        model_.logits(ctx_, view(h), view(logits));
        watch.lap("logits");
      });
      if (step < 0) continue;
      const double rate = bench::read_rate(ctx_, sample(step));
      const Config& c = model_.config();
      const double cache_bytes = static_cast<double>(batch * (depth + step * rows) * c.num_hidden_layers *
                                                     P::CacheFormat::row_bytes(c.kv_lora_rank, c.qk_rope_head_dim));
      const double step_bytes = static_cast<double>(bytes_.of(watch.experts, tokens)) + cache_bytes;
      times.push_back(time);
      rates.push_back(rate);
      fractions.push_back(step_bytes / time / rate);
      bytes += step_bytes / static_cast<double>(steps);
      for (const auto& [what, spent] : watch.spent) total.spent[what] += spent / static_cast<double>(steps);
    }
    const double time = median(times);
    nlohmann::json r = {{"decode_steps", steps},
                        {"decode_depth", depth},
                        {"decode_batch", batch},
                        {"decode_rows", rows},
                        {"decode_seconds_per_step", time},
                        {"decode_tokens_per_s", static_cast<double>(tokens) / time},
                        {"decode_bytes_per_step", bytes},
                        {"decode_bytes_per_token", bytes / static_cast<double>(tokens)},
                        {"read_ceiling_gb_s", median(rates) * 1e-9},
                        {"decode_gb_s", bytes / time * 1e-9},
                        {"decode_gflop_s", decode_flop(tokens, depth) / time * 1e-9},
                        {"decode_fraction_of_read", median(fractions)}};
    std::printf(
        "decode, depth %td, %td sequence%s, %td row%s: %.1f ms a step, %.2f tokens/s, %.2f GB a step, %.1f GB/s = %.0f%% of reading "
        "(%.1f)\n",
        depth, batch, batch == 1 ? "" : "s", rows, rows == 1 ? "" : "s", time * 1e3, static_cast<double>(tokens) / time, bytes * 1e-9,
        bytes / time * 1e-9, 100 * median(fractions), median(rates) * 1e-9);
    r["decode_breakdown"] = breakdown(total);
    return r;
  }

 private:
  template <class T>
  void add(typename Model<P>::Cache& cache, std::span<const int> ids, Matrix<float>& h, T& tape) {
    const typename Model<P>::Sequence sequence{ids, &cache};
    model_.forward(ctx_, {&sequence, 1}, view(h).slice(0, static_cast<Index>(ids.size())), tape);
  }

  std::vector<int> random_ids(Index n) {
    std::vector<int> ids(static_cast<std::size_t>(n));
    for (int& id : ids) id = static_cast<int>(random_() % static_cast<std::uint64_t>(model_.config().vocab_size));
    return ids;
  }

  void fill_cache(typename Model<P>::Cache& cache, Index depth, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    const Config& c = model_.config();
    std::vector<float> row(static_cast<std::size_t>(c.kv_lora_rank + c.qk_rope_head_dim));
    for (Index layer = 0; layer < c.num_hidden_layers; ++layer) {
      cache.layer(layer).open(0, depth);
      for (Index t = 0; t < depth; ++t) {
        for (float& value : row) value = static_cast<float>(random() >> 40) * 0x1p-23f - 1;
        cache.layer(layer).write(t, row.data(), row.data() + c.kv_lora_rank);
      }
    }
    cache.advance(depth);
  }

  /// A different quarter of a GiB of the weights for each i, cyclically.
  std::span<const std::uint8_t> sample(Index i) const {
    const auto all = memory_->used();
    const std::size_t size = std::min(all.size(), std::size_t{1} << 28), places = all.size() / size;
    return all.subspan(static_cast<std::size_t>(i) % places * size, size);
  }

  /// FLOP of a prefill: 2 per token and active weight, plus attention in expanded form.
  double prefill_flop(Index tokens) const {
    const Config& c = model_.config();
    const double t = static_cast<double>(tokens);
    const double head = static_cast<double>(c.vocab_size * c.hidden_size);  // of the last token only
    const double attention =
        static_cast<double>(c.num_hidden_layers * c.num_attention_heads * (c.qk_nope_head_dim + c.qk_rope_head_dim + c.v_head_dim));
    return 2 * t * (static_cast<double>(count_parameters(model_).active) - head) + 2 * head + t * t * attention;
  }

  /// FLOP of a decoding step, with attention in absorbed form.
  double decode_flop(Index tokens, Index depth) const {
    const Config& c = model_.config();
    const Index attention = c.num_hidden_layers * c.num_attention_heads * (2 * c.kv_lora_rank + c.qk_rope_head_dim);
    return 2 * static_cast<double>(tokens) * static_cast<double>(count_parameters(model_).active + depth * attention);
  }

  static nlohmann::json breakdown(const Stopwatch& watch) {
    double all = 0;
    for (const auto& [what, spent] : watch.spent) all += spent;
    nlohmann::json r;
    for (const auto& [what, spent] : watch.spent) {
      std::printf("  %-24s %9.3f ms %5.1f%%\n", what.c_str(), spent * 1e3, 100 * spent / all);
      r[what] = spent;
    }
    return r;
  }

  Context& ctx_;
  Model<P> model_;
  std::shared_ptr<const bench::Memory> memory_;
  WeightBytes<P> bytes_;
  std::mt19937_64 random_{1};
};

template <class P>
nlohmann::json measure(const Config& config, const cli::Args& args, Context& ctx) {
  const auto storage = args.value("--storage").value_or("fp8");
  if (storage != "fp8" && storage != "bf16") throw cli::UsageError("--storage: expected fp8 or bf16, got '" + storage + "'");
  Bench<P> bench(config, storage == "fp8" ? bench::StorageKind::fp8 : bench::StorageKind::bf16, ctx);
  bench.check();
  nlohmann::json result;
  constexpr Index many = 1 << 20;
  if (const Index prompt = args.number<Index>("--prompt", 512, 0, many); prompt > 0) result.update(bench.prefill(prompt));
  result.update(bench.decode(args.number<Index>("--decode", 64, 1, many), args.number<Index>("--depth", 0, 0, many),
                             args.number<Index>("--batch", 1, 1, 4096), args.number<Index>("--rows", 1, 1, 16),
                             args.has("--same-experts")));
  if (args.has("--compare")) {
    constexpr Index steps = 24;
    result["compare"] = {{"rows2_same", bench.decode(steps, 0, 1, 2, true)},
                         {"rows2", bench.decode(steps, 0, 1, 2, false)},
                         {"depth", bench.decode(steps, 4096, 1, 1, false)}};
  }
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  return cli::run("dsv3-bench", usage, [&] {
    const cli::Args args(
        argc, argv, 0,
        {"--preset", "--layers", "--storage", "--compute", "--prompt", "--decode", "--depth", "--batch", "--rows", "--threads", "--json"},
        {"--same-experts", "--compare"});
    auto name = args.value("--preset").value_or("moonlight-16b");
    auto config = presets::find(name == "moonlight-16b" ? "moonlight-16b-a3b" : name);
    if (!config) throw cli::UsageError("--preset: there is none named '" + name + "'");
    config->num_hidden_layers = args.number<Index>("--layers", config->num_hidden_layers, 1, config->num_hidden_layers);
    config->first_k_dense_replace = std::min(config->first_k_dense_replace, config->num_hidden_layers - 1);
    config->num_nextn_predict_layers = 0;
    auto executor = cli::make_executor(args.threads());
    Context ctx(executor);
    std::printf("%s, %td layers, %d threads, vectors of %td floats%s\n", name.c_str(), config->num_hidden_layers, ctx.workers(),
                simd::width<simd::DefaultArch>, amx::available() ? ", AMX" : "");

    const auto compute = args.value("--compute").value_or("bf16");
    nlohmann::json result;
    const bool softmax = config->scoring_func == router::Score::softmax;
    if (compute == "bf16")
      result = softmax ? measure<Fast<DeepSeekV2>>(*config, args, ctx) : measure<Fast<DeepSeekV3>>(*config, args, ctx);
    else if (compute == "exact")
      result = softmax ? measure<DeepSeekV2>(*config, args, ctx) : measure<DeepSeekV3>(*config, args, ctx);
    else
      throw cli::UsageError("--compute: expected bf16 or exact, got '" + compute + "'");
    result["preset"] = name;
    result["layers"] = config->num_hidden_layers;
    result["threads"] = ctx.workers();
    result["storage"] = args.value("--storage").value_or("fp8");
    result["compute"] = compute;
    if (const auto file = args.value("--json")) {
      std::ofstream out(*file);
      require(!!(out << result.dump(2) << "\n").flush(), *file, ": cannot write");
    }
  });
}
