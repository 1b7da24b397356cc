// Products of a few rows with FP8 weights that stream from memory: what a decoding step is made of.   usage: fp8_product [THREADS]
//
// Each figure stands beside the rate at which the same threads read the same memory, measured right before it.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "dsv3/core/openmp.hpp"
#include "dsv3/kernels/linear.hpp"

namespace {

using namespace dsv3;
using Arch = simd::DefaultArch;
using Weight = Fp8Block<128, 128>::View;

constexpr Index rows = 8192, cols = 8192, matrices = 32, block = 128;  // 2 GiB of codes: far more than any cache

template <class F>
double seconds(F&& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Sums all bytes as floats, as fast as they come.
double read_seconds(Context& ctx, const std::vector<std::uint8_t>& bytes, std::vector<double>& sums) {
  constexpr Index chunk = 1 << 20;
  return seconds([&] {
    ctx.parallel_for(static_cast<Index>(bytes.size()) / chunk, [&](Index i, int worker) {
      simd::Floats<Arch> sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      const auto* p = reinterpret_cast<const float*>(bytes.data() + i * chunk);
      for (Index k = 0; k < chunk / 4; k += 4 * simd::width<Arch>)
        simd::unroll<4>([&](auto j) { sum[j] += simd::load<Arch>(p + k + j * simd::width<Arch>); });
      sums[static_cast<std::size_t>(worker)] += static_cast<double>(simd::sum<Arch>(sum[0] + sum[1] + sum[2] + sum[3]));
    });
  });
}

/// The product against a plain loop in double, within the rounding of `cols` float products.
void check(const Weight& w, const Matrix<float>& x, const Matrix<float>& y) {
  for (Index t = 0; t < x.rows(); ++t)
    for (Index n = 0; n < rows; n += 997) {
      double sum = 0, size = 0;
      for (Index k = 0; k < cols; ++k) {
        const double p = static_cast<double>(x(t, k)) * static_cast<double>(element(w, n, k));
        sum += p;
        size += std::abs(p);
      }
      require(std::abs(sum - static_cast<double>(y(t, n))) <= static_cast<double>(cols) * 0x1p-24 * size, "wrong product at row ", t,
              ", column ", n, ": expected ", sum, ", got ", y(t, n));
    }
}

}  // namespace

int main(int argc, char** argv) try {
  OpenMP executor = argc > 1 ? OpenMP(std::atoi(argv[1])) : OpenMP();
  Context ctx(executor, 0);
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(rows * cols * matrices));
  std::mt19937_64 random(1);
  for (std::size_t i = 0; i < codes.size(); i += 8) {
    const std::uint64_t eight = random() & 0xf7f7f7f7f7f7f7f7u;  // no NaN; one in sixteen is subnormal
    std::memcpy(&codes[i], &eight, 8);
  }
  const Matrix<float> scales = Matrix<float>::Constant(rows / block, cols / block, 0.01f);
  const auto weight = [&](Index i) { return Weight{codes.data() + i * rows * cols, rows, cols, cols, scales.data(), scales.cols(), 0}; };

  std::printf("%d threads, vectors of %td floats, %td matrices of %td x %td e4m3\n", ctx.workers(), simd::width<Arch>, matrices, rows,
              cols);
  std::printf("%5s %10s %14s %14s %10s\n", "rows", "GB/s", "read GB/s", "of reading", "GFLOP/s");
  std::vector<double> sums(static_cast<std::size_t>(ctx.workers()));
  for (const Index t : {1, 2, 4, 8, 16}) {
    const Matrix<float> x = Matrix<float>::Random(t, cols);
    Matrix<float> y(t, rows);
    kernels::linear<Arch>(ctx, view(x), weight(0), view(y));
    check(weight(0), x, y);
    std::vector<std::array<double, 3>> runs;  // fraction of reading, product, reading
    for (int i = 0; i < 5; ++i) {
      const double read = read_seconds(ctx, codes, sums);
      const double product = seconds([&] {
        for (Index m = 0; m < matrices; ++m) kernels::linear<Arch>(ctx, view(x), weight(m), view(y));
      });
      runs.push_back({read / product, product, read});
    }
    std::sort(runs.begin(), runs.end());
    const auto [fraction, product, read] = runs[runs.size() / 2];
    const double bytes = static_cast<double>(codes.size());
    std::printf("%5td %10.1f %14.1f %13.0f%% %10.0f\n", t, bytes / product * 1e-9, bytes / read * 1e-9, 100 * fraction,
                2 * bytes * static_cast<double>(t) / product * 1e-9);
  }
  return sums[0] == 0.5 ? 3 : 0;  // keeps the reading from being optimized away
} catch (const std::exception& e) {
  std::fprintf(stderr, "fp8_product: %s\n", e.what());
  return 1;
}
