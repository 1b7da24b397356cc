// Floor 2. Block quantization: choosing scales and rounding to e4m3, for weights (128x128 blocks) and activations (1x128).
//
// A scale is the factor that a code is multiplied by. Scales are floats, or are rounded up to powers of two ("ue8m0").
#pragma once

#include <algorithm>
#include <cmath>

#include "dsv3/core/matrix.hpp"
#include "dsv3/quant/storage.hpp"

namespace dsv3::inline DSV3_ISA {

enum class ScaleFormat { float32, power_of_two };

namespace detail {
inline float round_scale(float s, ScaleFormat format) {
  return format == ScaleFormat::power_of_two ? codec::E8m0::decode(codec::E8m0::encode(s)) : s;
}
}  // namespace detail

/// Activations (spec C2): rounds x [cols] in groups of 128 with scale max(amax, 1e-4) / 448, which `format` may round up. y [cols] receives
/// code * scale, the value that the code stands for. y may be x. NaN stays NaN.
inline void round_activations(const float* x, Index cols, float* y, ScaleFormat format = ScaleFormat::float32) {
  for (Index k0 = 0; k0 < cols; k0 += 128) {
    const Index end = std::min(k0 + 128, cols);
    float amax = 1e-4f;
    for (Index k = k0; k < end; ++k) amax = std::max(amax, std::abs(x[k]));
    const float scale = detail::round_scale(amax / codec::E4m3::largest, format);
    for (Index k = k0; k < end; ++k) y[k] = codec::E4m3::decode(codec::E4m3::encode(x[k] / scale)) * scale;
  }
}

/// A weight matrix quantized to Fp8Block<128, 128>, owning its codes and scales.
struct Fp8Matrix {
  Matrix<codec::E4m3::Code> codes;  ///< [rows, cols]
  Matrix<float> scales;             ///< [ceil(rows / 128), ceil(cols / 128)]

  Fp8Block<128, 128>::View view() const {
    return {codes.data(), codes.rows(), codes.cols(), codes.cols(), scales.data(), scales.cols(), 0};
  }
};

/// Rounds w [rows, cols] to e4m3 with scale max(amax, 1e-12) / 448 per 128x128 block, which `format` may round up; edge blocks are cut, not
/// padded.
/// Throws: Error if an element is not finite.
inline Fp8Matrix quantize_fp8(ConstMatrixView<float> w, ScaleFormat format = ScaleFormat::float32) {
  constexpr Index block = 128;
  Fp8Matrix q{Matrix<codec::E4m3::Code>(w.rows(), w.cols()), Matrix<float>((w.rows() + block - 1) / block, (w.cols() + block - 1) / block)};
  for (Index i = 0; i < q.scales.rows(); ++i)
    for (Index j = 0; j < q.scales.cols(); ++j) {
      const Index height = std::min(block, w.rows() - i * block), width = std::min(block, w.cols() - j * block);
      const auto tile = w.block(i * block, j * block, height, width);
      require(tile.allFinite(), "quantize_fp8: an element of rows [", i * block, ", ", i * block + height, "), columns [", j * block, ", ",
              j * block + width, ") is not finite");
      const float scale = detail::round_scale(std::max(tile.cwiseAbs().maxCoeff(), 1e-12f) / codec::E4m3::largest, format);
      q.scales(i, j) = scale;
      q.codes.block(i * block, j * block, height, width) = tile.unaryExpr([scale](float x) { return codec::E4m3::encode(x / scale); });
    }
  return q;
}

}  // namespace dsv3::inline DSV3_ISA
