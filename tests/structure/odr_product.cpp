// Compiled twice, with different instruction sets and ODR_PRODUCT: products of the same matrices, as the bits of the results.
//
// The memory is the caller's, not Eigen's: Eigen's allocation functions carry no mark of the instruction set, and its matrices may not
// be allocated by code of one set and freed by code of another.
#include <bit>
#include <cstdint>
#include <vector>

#include "dsv3/kernels/linear.hpp"

std::vector<std::uint32_t> ODR_PRODUCT();

std::vector<std::uint32_t> ODR_PRODUCT() {
  using namespace dsv3;
  const Index T = 5, K = 333, N = 37;
  std::vector<float> x(T * K), w(N * K), y(T * N), z(T * K);
  std::uint32_t state = 1;
  const auto random = [&] {
    state = state * 1664525u + 1013904223u;
    return static_cast<float>(state >> 8) / 8388608.0f - 1.0f;
  };
  for (auto& value : x) value = random();
  for (auto& value : w) value = random();

  Context ctx;
  const F32::View weight{w.data(), N, K, K};
  kernels::linear(ctx, ConstMatrixView<float>(x.data(), T, K), weight, MatrixView<float>(y.data(), T, N));
  kernels::linear_transposed(ctx, ConstMatrixView<float>(y.data(), T, N), weight, MatrixView<float>(z.data(), T, K));

  std::vector<std::uint32_t> bits;
  for (const float value : y) bits.push_back(std::bit_cast<std::uint32_t>(value));
  for (const float value : z) bits.push_back(std::bit_cast<std::uint32_t>(value));
  return bits;
}
