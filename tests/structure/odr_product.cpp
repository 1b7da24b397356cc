// Compiled twice, with different instruction sets and ODR_PRODUCT: products of the same matrices by the kernels and by Eigen expressions
// inside the library's own types, as the bits of the results.
#include <bit>
#include <cstdint>
#include <vector>

#include "dsv3/kernels/linear.hpp"
#include "dsv3/kernels/rms_norm.hpp"
#include "dsv3/kernels/softmax.hpp"

std::vector<std::uint32_t> ODR_PRODUCT();

std::vector<std::uint32_t> ODR_PRODUCT() {
  using namespace dsv3;
  const Index T = 5, K = 333, N = 37;
  Matrix<float> x(T, K), w(N, K), y(T, N), z(T, K);
  std::uint32_t state = 1;
  const auto random = [&] {
    state = state * 1664525u + 1013904223u;
    return static_cast<float>(state >> 8) / 8388608.0f - 1.0f;
  };
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random();
  for (Index i = 0; i < w.size(); ++i) w.data()[i] = random();

  Context ctx;
  const F32::View weight{w.data(), N, K, K};
  kernels::linear(ctx, view(x), weight, view(y));
  kernels::linear_transposed(ctx, view(std::as_const(y)), weight, view(z));

  std::vector<std::uint32_t> bits;
  for (Index i = 0; i < y.size(); ++i) bits.push_back(std::bit_cast<std::uint32_t>(y.data()[i]));
  for (Index i = 0; i < z.size(); ++i) bits.push_back(std::bit_cast<std::uint32_t>(z.data()[i]));
  return bits;
}
