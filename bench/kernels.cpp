// dsv3-bench-kernels: single kernels, each checked against plain double-precision arithmetic, then timed in alternation with the ceilings
// of the machine: the read rate of memory as cold as the kernel's own, and multiply-adds in registers.
//
// Counters: median_us, GB/s of what a kernel must touch, GFLOP/s, the ceilings in the same units, and fraction: the least time by the
// binding ceiling (the label) over the time taken. All are medians over iterations.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <functional>

#include "../examples/cli/cli.hpp"
#include "ceilings.hpp"
#include "random_model.hpp"

namespace {

using namespace dsv3;
using Weights = Fp8Block<128, 128>::View;
using Bytes = std::span<const std::uint8_t>;

enum class Unit { fma, bf16 };

/// A kernel to time: iteration i first times the reading of memory(i), then runs run(i) `repetitions` times. Each run does `bytes` and
/// `flop` of work.
struct Work {
  double bytes, flop;
  Unit unit;
  std::function<void(Index)> run;
  std::function<Bytes(Index)> memory;
  const char* place = "memory";
  int repetitions = 1;
};

/// Bytes a second at which one thread reads `bytes` again and again.
double cached_rate(Bytes bytes, int repetitions) {
  constexpr Index step = simd::width<simd::DefaultArch>, streams = 8;
  const auto* p = reinterpret_cast<const float*>(bytes.data());
  const Index n = static_cast<Index>(bytes.size()) / 4 / (step * streams) * (step * streams);
  const double time = bench::seconds([&] {
    for (int r = 0; r < repetitions; ++r) {
      simd::Floats<simd::DefaultArch> sum[streams];
      for (auto& s : sum) s = simd::Floats<simd::DefaultArch>(0.0f);
      for (Index k = 0; k < n; k += step * streams)
        simd::unroll<streams>([&](auto j) __attribute__((always_inline)) { sum[j] += simd::load<simd::DefaultArch>(p + k + j * step); });
      for (Index j = 1; j < streams; ++j) sum[0] += sum[j];
      bench::sink = simd::sum<simd::DefaultArch>(sum[0]);
    }
  });
  return static_cast<double>(n * 4) * repetitions / time;
}

void measure(benchmark::State& state, Context& ctx, const Work& work) {
  for (Index i = -3; i < 0; ++i) work.run(i + 3);
  std::vector<double> times, reads, peaks, fractions;
  const char* name = "FMA";
  Index i = 3;
  for (auto _ : state) {
    const double read = work.repetitions > 1 ? cached_rate(work.memory(i), work.repetitions) : bench::read_rate(ctx, work.memory(i));
    const bench::Peak ceiling = work.unit == Unit::bf16 ? bench::bf16_peak(ctx) : bench::Peak{bench::fma_peak(ctx), "FMA"};
    const double peak = ceiling.rate;
    name = ceiling.name;
    const double time = bench::seconds([&] {
                          for (int r = 0; r < work.repetitions; ++r) work.run(i);
                        }) /
                        work.repetitions;
    const double memory_time = work.bytes / read, compute_time = work.flop / peak;
    times.push_back(time);
    reads.push_back(read);
    peaks.push_back(peak);
    fractions.push_back(std::max(memory_time, compute_time) / time);
    state.SetIterationTime(time);
    ++i;
  }
  const double time = bench::median(times);
  const bool memory_binds = work.bytes / bench::median(reads) * bench::median(peaks) >= work.flop;
  state.SetLabel(memory_binds ? work.place : name);
  state.counters["median_us"] = time * 1e6;
  state.counters["bytes"] = work.bytes;
  state.counters["flop"] = work.flop;
  state.counters["GB/s"] = work.bytes / time * 1e-9;
  state.counters["read_GB/s"] = bench::median(reads) * 1e-9;
  state.counters["GFLOP/s"] = work.flop / time * 1e-9;
  state.counters["peak_GFLOP/s"] = bench::median(peaks) * 1e-9;
  state.counters["fraction"] = bench::median(fractions);
}

void expect(double value, double expected, double bound, const char* what) {
  require(std::abs(value - expected) <= bound, what, ": ", value, " where ", expected, " is right, off by more than ", bound);
}

/// Numbers in (-1, 1), the same every time.
void fill_random(MatrixView<float> m, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  for (Index i = 0; i < m.rows(); ++i)
    for (Index k = 0; k < m.cols(); ++k) m(i, k) = static_cast<float>(random() >> 40) * 0x1p-23f - 1;
}
Matrix<float> random_matrix(Index rows, Index cols, std::uint64_t seed) {
  Matrix<float> m(rows, cols);
  fill_random(view(m), seed);
  return m;
}

/// FP8 matrices cut one after the other from 4 GiB of random codes, more than any cache holds.
class Pool {
 public:
  explicit Pool(Context& ctx) : memory_(size) {
    codes_ = memory_.take(size);
    bench::fill(ctx, codes_, static_cast<Index>(size), 1, [](std::uint64_t bits) { return bits & 0xf7f7f7f7f7f7f7f7u; });  // no NaN
    for (std::size_t i = 0; i < scales_.size(); ++i) scales_[i] = 1e-4f * static_cast<float>(1 + i % 7);
  }
  Weights matrix(Index i, Index rows, Index cols) const {
    return {piece(i, rows * cols).data(), rows, cols, cols, scales_.data(), (cols + 127) / 128, 0};
  }
  /// The i-th piece of `bytes` bytes, cyclically.
  Bytes piece(Index i, Index bytes) const {
    const Index places = static_cast<Index>(size) / bytes;
    return {codes_ + i % places * bytes, static_cast<std::size_t>(bytes)};
  }
  /// The piece half a pool away from the i-th: as many bytes, and as cold.
  Bytes opposite(Index i, Index bytes) const { return piece(i + static_cast<Index>(size) / bytes / 2, bytes); }
  float* floats() const { return reinterpret_cast<float*>(codes_); }

 private:
  static constexpr std::size_t size = std::size_t{1} << 32;
  bench::Memory memory_;
  std::uint8_t* codes_;
  std::vector<float> scales_ = std::vector<float>(64 * 64);
};

double stored_bytes(Index rows, Index cols) {
  return static_cast<double>(rows * cols) + 4.0 * static_cast<double>((rows + 127) / 128 * ((cols + 127) / 128));
}

/// Checks some elements of y = x W^T. Sums are formed in blocks of 128, so a term passes at most 128 + K / 128 additions, each with a
/// relative error of 2^-24. `input_error` is the relative error of rounding x.
void check_product(ConstMatrixView<float> x, const Weights& w, ConstMatrixView<float> y, double input_error, const char* what) {
  for (Index t = 0; t < x.rows(); t += std::max(Index{1}, x.rows() / 4))
    for (Index n = 0; n < w.rows; n += 97) {
      double sum = 0, size = 0;
      for (Index k = 0; k < w.cols; ++k) {
        const double term =
            static_cast<double>(x(t, k)) * static_cast<double>(codec::E4m3::decode(w.row(n)[k])) * static_cast<double>(w.scale(n, k));
        sum += term;
        size += std::abs(term);
      }
      expect(y(t, n), sum, size * (input_error + 0x1p-24 * static_cast<double>(128 + w.cols / 128)), what);
    }
}

void decode_product(benchmark::State& state, Context& ctx, const Pool& pool) {
  const Index rows = state.range(0), n = 8192, k = 8192;
  const Matrix<float> x = random_matrix(rows, k, 1);
  Matrix<float> y(rows, n);
  kernels::linear(ctx, view(x), pool.matrix(0, n, k), view(y));
  check_product(view(x), pool.matrix(0, n, k), view(y), 0, "decode product");
  measure(
      state, ctx,
      {stored_bytes(n, k), 2.0 * static_cast<double>(rows * n * k), Unit::fma,
       [&](Index i) { kernels::linear(ctx, view(x), pool.matrix(i, n, k), view(y)); }, [&](Index i) { return pool.opposite(i, n * k); }});
}

/// The feed-forward part of a Moonlight layer for rows that go to the same experts: six of 1408 and the shared one of 2816.
void expert_group(benchmark::State& state, Context& ctx, const Pool& pool) {
  constexpr Index inner = 1408, hidden = 2048, routed = 6, third = inner * hidden, expert = 3 * third;
  const Index rows = state.range(0), layer = (routed + 2) * expert;
  const Matrix<float> x = random_matrix(rows, hidden, 2);
  Matrix<float> h(rows, (routed + 2) * inner), y(rows * (routed + 1), hidden);
  const auto run = [&](Index i) {
    const auto* codes = pool.piece(i, layer).data();
    std::vector<kernels::GatedProduct<Weights>> first;
    std::vector<kernels::Product<Weights>> second;
    for (Index e = 0; e <= routed; ++e) {
      const Index width = e < routed ? inner : 2 * inner;
      const auto weights = [&](Index part, Index n, Index k) {
        Weights w = pool.matrix(0, n, k);
        w.data = codes + e * expert + part * width * hidden;
        return w;
      };
      const auto columns = view(h).columns(e * inner, width);
      first.push_back({view(x), view(x), weights(0, width, hidden), weights(1, width, hidden), columns});
      second.push_back({columns, weights(2, hidden, width), view(y).slice(e * rows, rows)});
    }
    kernels::grouped_gated_linear<simd::DefaultArch, Weights>(ctx, first);
    kernels::grouped_linear<simd::DefaultArch, Weights>(ctx, second);
    return std::pair(first, second);
  };
  const auto [first, second] = run(0);
  for (const auto& p : second) check_product(p.x, p.w, p.y, 0, "experts, second product");
  Matrix<float> gate(rows, inner), up(rows, inner);
  kernels::linear(ctx, view(x), first[1].gate, view(gate));
  kernels::linear(ctx, view(x), first[1].up, view(up));
  check_product(view(x), first[1].gate, view(gate), 0, "experts, gate");
  check_product(view(x), first[1].up, view(up), 0, "experts, up");
  for (Index n = 0; n < inner; ++n) {
    const double g = gate(0, n), u = up(0, n);
    expect(first[1].h(0, n), g / (1 + std::exp(-g)) * u, 1e-6 * std::abs(g * u), "experts, gated");  // a few roundings and simd::exp
  }
  const double bytes = (routed + 2) * (2 * stored_bytes(inner, hidden) + stored_bytes(hidden, inner));
  measure(state, ctx,
          {bytes, 2.0 * static_cast<double>(rows * layer), Unit::fma, [&](Index i) { run(i); },
           [&](Index i) { return pool.opposite(i, layer); }});
}

void prefill_product(benchmark::State& state, Context& ctx, const Pool& pool) {
  const Index rows = state.range(0), n = state.range(1), k = state.range(2);
  const Matrix<float> x = random_matrix(rows, k, 3);
  Matrix<float> y(rows, n);
  kernels::linear_bf16(ctx, view(x), pool.matrix(0, n, k), view(y));
  check_product(view(x), pool.matrix(0, n, k), view(y), 0x1p-9, "prefill product");
  measure(state, ctx,
          {stored_bytes(n, k), 2.0 * static_cast<double>(rows * n * k), Unit::bf16,
           [&](Index i) { kernels::linear_bf16(ctx, view(x), pool.matrix(i, n, k), view(y)); },
           [&](Index i) { return pool.opposite(i, n * k); }});
}

/// One new token over a latent cache of 4096: all heads of a layer, split among the workers as in modules/mla.hpp.
void absorbed_attention(benchmark::State& state, Context& ctx, const Pool& pool) {
  constexpr Index rank = 512, rope_dim = 64, width = rank + rope_dim, depth = 4096, layers = 64;
  const Index heads = state.range(0), tile = std::clamp(heads / ctx.workers() / 4 * 4, Index{4}, kernels::attention_tile),
              tiles = (heads + tile - 1) / tile;
  fill_random({pool.floats(), layers * depth, width}, 4);
  const Matrix<float> q = random_matrix(heads, width, 5);
  Matrix<float> out(heads, rank), scratch(ctx.workers(), kernels::attend_scratch(rank));
  const float scale = 0.1f;
  const auto layer = [&](Index i) { return ConstMatrixView<float>(pool.floats() + i % layers * depth * width, depth, width); };
  const auto run = [&](Index i) {
    const auto cache = layer(i);
    const kernels::KeysValues kv{cache.columns(0, rank), cache.columns(rank, rope_dim), cache.columns(0, rank)};
    ctx.parallel_for(tiles, [&](Index task, int worker) {
      const Index h = task * tile, count = std::min(tile, heads - h);
      const auto rows = ConstMatrixView<float>(view(q)).slice(h, count);
      kernels::attend({rows.columns(0, rank), rows.columns(rank, rope_dim), depth, 0}, kv, scale, view(out).slice(h, count),
                      scratch.row(worker).data());
    });
  };
  run(0);
  for (Index h = 0; h < heads; h += 7) {
    Eigen::VectorXd p = layer(0).cast<double>() * q.row(h).cast<double>().transpose() * static_cast<double>(scale);
    p = (p.array() - p.maxCoeff()).exp();
    const Eigen::RowVectorXd expected = p.transpose() / p.sum() * layer(0).leftCols(rank).cast<double>();
    // Scores of up to 10 are off by 1e-5 at most; values lie in (-1, 1).
    for (Index c = 0; c < rank; ++c) expect(out(h, c), expected[c], 5e-5, "absorbed attention");
  }
  const Index bytes = depth * width * 4;
  measure(state, ctx, {static_cast<double>(bytes), 2.0 * static_cast<double>(heads * depth * (width + rank)), Unit::fma, run, [&](Index i) {
                         return Bytes(reinterpret_cast<const std::uint8_t*>(layer(i + layers / 2).data()), static_cast<std::size_t>(bytes));
                       }});
}

/// The same in bf16 tiles over a cache in bf16, as Fast computes it.
void tiled_attention(benchmark::State& state, Context& ctx, const Pool& pool) {
  using Cache = LatentCache<cache_format::Bf16>;
  constexpr Index depth = 4096, layers = 64;
  Config c;
  c.kv_lora_rank = 512;
  c.qk_rope_head_dim = 64;
  const mla::Heads heads{state.range(0), 128, 64, 128, c.kv_lora_rank, 0.1f};
  const Index width = heads.rank + heads.rope;
  const auto rounded = [](const Matrix<float>& m) -> Matrix<float> {
    return m.unaryExpr([](float x) { return codec::BFloat16::decode(codec::BFloat16::encode(x)); });
  };
  const Matrix<float> keys = rounded(random_matrix(depth, width, 4)), latent_q = rounded(random_matrix(1, heads.count * heads.rank, 5)),
                      q = rounded(random_matrix(1, heads.count * heads.query(), 6));
  std::vector<Cache> caches(layers, Cache(c, depth));
  for (Cache& cache : caches) {
    cache.open(0, depth);
    for (Index t = 0; t < depth; ++t) cache.write(t, keys.row(t).data(), keys.row(t).data() + heads.rank);
  }
  Matrix<float> out(1, heads.count * heads.rank);
  const auto run = [&](Index i) {
    const Segment<Cache> segment{0, 1, depth - 1, &caches[static_cast<std::size_t>(i % layers)]};
    mla::attend_latents<true, simd::DefaultArch, Cache>(ctx, heads, {&segment, 1}, view(latent_q), view(q), view(out));
  };
  run(0);
  for (Index h = 0; h < heads.count; h += 7) {
    const Eigen::VectorXd query = latent_q.row(0).segment(h * heads.rank, heads.rank).cast<double>().transpose();
    const Eigen::VectorXd pe = q.row(0).segment(h * heads.query() + heads.nope, heads.rope).cast<double>().transpose();
    Eigen::VectorXd p = (keys.leftCols(heads.rank).cast<double>() * query + keys.rightCols(heads.rope).cast<double>() * pe) *
                        static_cast<double>(heads.scale);
    p = (p.array() - p.maxCoeff()).exp();
    const Eigen::RowVectorXd expected = p.transpose() / p.sum() * keys.leftCols(heads.rank).cast<double>();
    // Softmax weights, which sum to 1, are rounded to 8 bits; values lie in (-1, 1).
    for (Index i = 0; i < heads.rank; ++i) expect(out(0, h * heads.rank + i), expected[i], 0x1p-8 + 5e-5, "tiled attention");
  }
  const Index bytes = depth * width * 2;
  measure(state, ctx,
          {static_cast<double>(bytes), 2.0 * static_cast<double>(heads.count * depth * (width + heads.rank)), Unit::bf16, run,
           [&](Index i) { return pool.opposite(i, bytes); }});
}

/// Kernels on `rows` rows of activations, which lie in cache. FLOP of exponentials and comparisons are rough counts.
template <class F>
void on_rows(benchmark::State& state, Context& ctx, ConstMatrixView<float> x, double bytes_per_row, double flop_per_row, F&& run) {
  const bool single = state.range(0) == 1;
  const auto rows = static_cast<double>(state.range(0));
  const auto touched = single ? std::min(static_cast<Index>(bytes_per_row), x.size() * 4) : x.size() * 4;
  measure(state, ctx,
          {rows * bytes_per_row, rows * flop_per_row, Unit::fma, [&](Index) { run(); },
           [&](Index) { return Bytes(reinterpret_cast<const std::uint8_t*>(x.data()), static_cast<std::size_t>(touched)); }, "cache",
           single ? 1000 : 1});
}

constexpr Index warm_rows = 512;  // rows of 2048 floats, on which the read rate of the cache is measured

void rms_norm(benchmark::State& state, Context& ctx, const Pool&) {
  const Index rows = state.range(0), width = 2048;
  const Matrix<float> x = random_matrix(warm_rows, width, 6);
  const Vector<float> w = random_matrix(1, width, 7);
  Matrix<float> y(rows, width);
  const auto run = [&] { kernels::rms_norm(ctx, view(x).slice(0, rows), w, 1e-6f, view(y)); };
  run();
  const double inverse = 1 / std::sqrt(x.row(0).cast<double>().squaredNorm() / width + 1e-6);
  for (Index i = 0; i < width; ++i) expect(y(0, i), static_cast<double>(x(0, i)) * inverse * static_cast<double>(w[i]), 1e-5, "rms_norm");
  on_rows(state, ctx, view(x), 8.0 * width, 4.0 * width, run);
}

void rotate(benchmark::State& state, Context& ctx, const Pool&) {
  constexpr Index heads = 17, dim = 64;  // 16 of the query, one of the key
  const Index rows = state.range(0);
  const auto config = presets::find("moonlight-16b-a3b").value();
  const rope::Rotation<rope::Neighbours, rope::Unscaled> rotation({dim, config.rope_theta, {}});
  const Matrix<float> x = random_matrix(warm_rows, heads * dim, 8);
  Matrix<float> y(rows, heads * dim), angles(ctx.workers(), dim);
  const auto run = [&] {
    ctx.parallel_for(rows, y.size() * 4, [&](Index t, int worker) {
      float* cos_sin = angles.row(worker).data();
      rotation.angles(t, cos_sin);
      for (Index h = 0; h < heads; ++h) rotation.apply(x.row(t).data() + h * dim, cos_sin, y.row(t).data() + h * dim);
    });
  };
  run();
  const Index t = rows - 1;
  for (Index j = 0; j < dim / 2; ++j) {
    const double angle = static_cast<double>(t) * std::pow(config.rope_theta, -2.0 * static_cast<double>(j) / dim);
    const double a = x(t, 2 * j), b = x(t, 2 * j + 1);
    // The angle is a float32 product: off by 2^-23 of itself.
    expect(y(t, 2 * j), a * std::cos(angle) - b * std::sin(angle), 1e-6 + 0x1p-22 * angle, "rope");
  }
  on_rows(state, ctx, view(x), 8.0 * heads * dim, 3.0 * heads * dim, run);
}

/// range(1) experts, of which top_k are chosen: Moonlight's 6 of 64 or DeepSeek-V3's 8 of 256 in 8 groups.
void route(benchmark::State& state, Context& ctx, const Pool&) {
  const Index rows = state.range(0), experts = state.range(1);
  const bool large = experts == 256;
  const router::Config config{experts, large ? 8 : 6, large ? 8 : 1, large ? 4 : 1, true, 2.5};
  const Matrix<float> logits = random_matrix(warm_rows, experts, 9), warm = random_matrix(warm_rows, 2048, 9);
  const Vector<float> bias = random_matrix(1, experts, 10);
  std::vector<router::Choice> chosen(static_cast<std::size_t>(rows));
  const auto run = [&] {
    ctx.parallel_for(rows, rows * experts * 16, [&](Index t, int) {
      chosen[static_cast<std::size_t>(t)] = router::SigmoidTopK{}.route(config, {logits.row(t).data(), static_cast<std::size_t>(experts)},
                                                                        {bias.data(), static_cast<std::size_t>(experts)});
    });
  };
  run();
  double sum = 0;
  for (Index k = 0; k < config.top_k; ++k)
    sum += 1 / (1 + std::exp(-static_cast<double>(logits(0, chosen[0].experts[static_cast<std::size_t>(k)]))));
  for (Index k = 0; k < config.top_k; ++k) {
    const auto i = static_cast<std::size_t>(k);
    expect(chosen[0].weights[i], 2.5 / (1 + std::exp(-static_cast<double>(logits(0, chosen[0].experts[i])))) / sum, 1e-5, "router");
    if (!large)  // no expert outside the choice has a better score
      for (int e = 0; e < experts; ++e) {
        const auto score = [&](int n) { return 1 / (1 + std::exp(-static_cast<double>(logits(0, n)))) + static_cast<double>(bias[n]); };
        const auto begin = chosen[0].experts.begin(), end = begin + config.top_k;
        require(std::find(begin, end, e) != end || score(e) <= score(chosen[0].experts[i]) + 1e-6, "router: expert ", e,
                " is better than one chosen");
      }
  }
  on_rows(state, ctx, view(warm), 4.0 * static_cast<double>(2 * experts), 10.0 * static_cast<double>(experts), run);
}

void swiglu(benchmark::State& state, Context& ctx, const Pool&) {
  const Index rows = state.range(0), width = 1408;
  const Matrix<float> gate = random_matrix(warm_rows, width, 11), up = random_matrix(warm_rows, width, 12);
  Matrix<float> y(rows, width);
  const auto run = [&] { kernels::activate(ctx, view(gate).slice(0, rows), view(up).slice(0, rows), view(y)); };
  run();
  for (Index i = 0; i < width; ++i) {
    const double g = gate(0, i), u = up(0, i);
    expect(y(0, i), g / (1 + std::exp(-g)) * u, 1e-6, "swiglu");
  }
  on_rows(state, ctx, view(gate), 12.0 * width, 20.0 * width, run);
}

void combine(benchmark::State& state, Context& ctx, const Pool&) {
  const Index rows = state.range(0), width = 2048, top = 6;
  const Matrix<float> sorted = random_matrix(warm_rows * top, width, 13), weights = random_matrix(rows, top, 14);
  Matrix<int> place(rows, top);
  for (Index t = 0; t < rows; ++t)
    for (Index k = 0; k < top; ++k) place(t, k) = static_cast<int>((t * top + k) * 5 % (rows * top));
  Matrix<float> y = Matrix<float>::Zero(rows, width);
  const auto run = [&] { kernels::combine_rows(ctx, view(sorted).slice(0, rows * top), view(place), view(weights), view(y)); };
  run();
  for (Index i = 0; i < width; ++i) {
    double sum = 0;
    for (Index k = 0; k < top; ++k) sum += static_cast<double>(weights(0, k)) * static_cast<double>(sorted(place(0, k), i));
    expect(y(0, i), sum, 1e-5, "combine");
  }
  on_rows(state, ctx, view(sorted), 4.0 * static_cast<double>(width) * (top + 2), 2.0 * static_cast<double>(width * top), run);
}

}  // namespace

int main(int argc, char** argv) {
  return cli::run("dsv3-bench-kernels", "see --help\n", [&] {
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) throw cli::UsageError("wrong arguments");
    auto executor = cli::make_executor({});
    Context ctx(executor);
    const Pool pool(ctx);
    std::fprintf(stderr, "%d threads, vectors of %td floats%s\n", ctx.workers(), simd::width<simd::DefaultArch>,
                 amx::available() ? ", AMX" : "");
    const auto add = [&](const char* name, void (*f)(benchmark::State&, Context&, const Pool&), Index iterations) {
      return benchmark::RegisterBenchmark(name, [&, f](benchmark::State& state) { f(state, ctx, pool); })
          ->UseManualTime()
          ->Iterations(iterations)
          ->Unit(benchmark::kMicrosecond);
    };
    auto* products = add("decode_product_8192x8192", decode_product, 61);
    for (const Index rows : {1, 2, 3, 4, 8, 16}) products->Arg(rows);
    add("experts_1408x2048", expert_group, 61)->Arg(1)->Arg(2)->Arg(4);
    add("prefill_product", prefill_product, 61)->Args({512, 2048, 2048})->Args({512, 1408, 2048})->Args({64, 1408, 2048});
    add("rms_norm_2048", rms_norm, 31)->Arg(1)->Arg(512);
    add("rope_17x64", rotate, 31)->Arg(1)->Arg(512);
    add("router", route, 31)->Args({1, 64})->Args({512, 64})->Args({1, 256})->Args({512, 256});
    add("swiglu_1408", swiglu, 31)->Arg(1)->Arg(512);
    add("combine_6x2048", combine, 31)->Arg(1)->Arg(512);
    add("tiled_attention_4096", tiled_attention, 61)->Arg(16)->Arg(128);
    add("absorbed_attention_4096", absorbed_attention, 61)->Arg(16)->Arg(128);  // last: overwrites the codes
    benchmark::RunSpecifiedBenchmarks();
  });
}
