// Ceilings: the machine's best rates, measured in the same process as the work that is compared with them.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <vector>

#include "dsv3/core/context.hpp"
#include "dsv3/simd/amx.hpp"
#include "dsv3/simd/batch.hpp"

namespace bench {

using dsv3::Index;

template <class F>
double seconds(F&& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

inline volatile float sink;  // results go here, so that nothing is optimized away

/// Bytes a second at which all threads together read `bytes`: pieces of 1 MiB, each in four streams with prefetch, the fastest way found.
inline double read_rate(dsv3::Context& ctx, std::span<const std::uint8_t> bytes) {
  using Arch = dsv3::simd::DefaultArch;
  constexpr Index piece = Index{1} << 20, step = dsv3::simd::width<Arch>, streams = 4, stream = piece / 4 / streams;
  const Index pieces = static_cast<Index>(bytes.size()) / piece;
  const double time = seconds([&] {
    ctx.parallel_for(pieces, [&](Index i, int) {
      dsv3::simd::Floats<Arch> sum[streams];
      for (auto& s : sum) s = dsv3::simd::Floats<Arch>(0.0f);
      const auto* p = reinterpret_cast<const float*>(bytes.data() + i * piece);
      for (Index k = 0; k < stream; k += step)
        dsv3::simd::unroll<streams>([&](auto j) __attribute__((always_inline)) {
          dsv3::simd::prefetch(p + j * stream + k, 512);
          sum[j] += dsv3::simd::load<Arch>(p + j * stream + k);
        });
      for (int j = 1; j < streams; ++j) sum[0] += sum[j];
      sink = dsv3::simd::sum<Arch>(sum[0]);
    });
  });
  return static_cast<double>(pieces * piece) / time;
}

/// Runs work(repetitions), with `flop` operations per repetition, on every worker at once. Returns the operations per second of all workers
/// together.
template <class Work>
double rate_of_all(dsv3::Context& ctx, double flop, Work&& work) {
  constexpr Index repetitions = 1 << 20;
  const double time = seconds([&] { ctx.parallel_for(ctx.workers(), [&](Index, int) { work(repetitions); }); });
  return flop * repetitions * ctx.workers() / time;
}

/// float32 multiply-adds in registers, FLOP/s.
inline double fma_peak(dsv3::Context& ctx) {
  using Arch = dsv3::simd::DefaultArch;
  using Floats = dsv3::simd::Floats<Arch>;
  constexpr int chains = 12;
  return rate_of_all(ctx, 2.0 * chains * dsv3::simd::width<Arch>, [](Index n) {
    Floats sum[chains];
    dsv3::simd::unroll<chains>([&](auto j) __attribute__((always_inline)) { sum[j] = Floats(static_cast<float>(j())); });
    const Floats a(0.999f), b(1e-3f);
    for (Index i = 0; i < n; ++i)
      dsv3::simd::unroll<chains>([&](auto j) __attribute__((always_inline)) { sum[j] = dsv3::simd::fma<Arch>(sum[j], a, b); });
    for (int j = 1; j < chains; ++j) sum[0] += sum[j];
    sink = dsv3::simd::sum<Arch>(sum[0]);
  });
}

/// bf16 dot products in vector registers, FLOP/s; 0 if the build has none.
inline double bf16_dot_peak([[maybe_unused]] dsv3::Context& ctx) {
#ifdef __AVX512BF16__
  constexpr int chains = 12;
  return rate_of_all(ctx, 2.0 * chains * 32, [](Index n) {
    __m512 sum[chains];
    const auto ones = reinterpret_cast<__m512bh>(_mm512_set1_epi16(0x3f80));
    dsv3::simd::unroll<chains>([&](auto j) __attribute__((always_inline)) {
      sum[j] = _mm512_set1_ps(static_cast<float>(j()));
    });  // the compiler would merge equal chains
    for (Index i = 0; i < n; ++i)
      dsv3::simd::unroll<chains>([&](auto j) __attribute__((always_inline)) { sum[j] = _mm512_dpbf16_ps(sum[j], ones, ones); });
    for (int j = 1; j < chains; ++j) sum[0] = _mm512_add_ps(sum[0], sum[j]);
    sink = _mm512_cvtss_f32(sum[0]);
  });
#else
  return 0;
#endif
}

/// AMX bf16 products of tiles in registers, FLOP/s; 0 if build or machine have none.
inline double amx_peak([[maybe_unused]] dsv3::Context& ctx) {
#ifdef DSV3_HAS_AMX
  if (!dsv3::amx::available()) return 0;
  return rate_of_all(ctx, 4.0 * 2 * 16 * 16 * 32 / 8, [](Index n) {  // an eighth of the repetitions
    const dsv3::amx::TileConfig tiles;
    for (Index i = 0; i < n / 8; ++i) {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  });
#else
  return 0;
#endif
}

/// A rate of arithmetic in FLOP/s, and the units that reach it.
struct Peak {
  double rate;
  const char* name;
};

/// The ceiling of bf16 products: the fastest arithmetic for them that build and machine have.
inline Peak bf16_peak(dsv3::Context& ctx) {
  if (const double amx = amx_peak(ctx); amx > 0) return {amx, "AMX"};
  const double dot = bf16_dot_peak(ctx), fma = fma_peak(ctx);
  return dot > fma ? Peak{dot, "bf16 dot"} : Peak{fma, "FMA"};
}

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace bench
