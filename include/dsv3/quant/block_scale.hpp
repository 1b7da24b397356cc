// Floor 2. Block quantization of weights: choosing scales for 128x128 blocks and rounding to e4m3. quant/tiles.hpp rounds activations.
//
// A scale is the factor that a code is multiplied by. Scales are floats, or are rounded up to powers of two ("ue8m0").
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>

#include "dsv3/core/context.hpp"
#include "dsv3/core/matrix.hpp"
#include "dsv3/quant/storage.hpp"

namespace dsv3::inline DSV3_ISA {

enum class ScaleFormat { float32, power_of_two };

namespace detail {
inline float round_scale(float s, ScaleFormat format) {
  return format == ScaleFormat::power_of_two ? codec::E8m0::decode(codec::E8m0::encode(s)) : s;
}
}  // namespace detail

/// A weight matrix quantized to Fp8Block<128, 128>, owning its codes and scales.
struct [[nodiscard]] Fp8Matrix {
  Matrix<codec::E4m3::Code> codes;  ///< [rows, cols]
  Matrix<float> scales;             ///< [ceil(rows / 128), ceil(cols / 128)]

  Fp8Block<128, 128>::View view() const {
    return {codes.data(), codes.rows(), codes.cols(), codes.cols(), scales.data(), scales.cols(), 0};
  }
};

namespace detail {

inline constexpr Index quantized_block = 128;

/// Room for a matrix [rows, cols].
inline Fp8Matrix fp8_matrix(Index rows, Index cols) {
  const auto blocks = [](Index n) { return (n + quantized_block - 1) / quantized_block; };
  return {Matrix<codec::E4m3::Code>(rows, cols), Matrix<float>(blocks(rows), blocks(cols))};
}

/// Quantizes w, up to 128 rows that begin at row i * 128 of the matrix, into q.
inline void quantize_fp8_band(ConstMatrixView<float> w, Index i, ScaleFormat format, Fp8Matrix& q) {
  constexpr Index block = quantized_block;
  for (Index j = 0; j < q.scales.cols(); ++j) {
    const Index width = std::min(block, w.cols() - j * block);
    const auto tile = w.block(0, j * block, w.rows(), width);
    require(tile.allFinite(), "quantize_fp8: an element of rows [", i * block, ", ", i * block + w.rows(), "), columns [", j * block, ", ",
            j * block + width, ") is not finite");
    const float scale = round_scale(std::max(tile.cwiseAbs().maxCoeff(), 1e-12f) / codec::E4m3::largest, format);
    q.scales(i, j) = scale;
    q.codes.block(i * block, j * block, w.rows(), width) = tile.unaryExpr([scale](float x) { return codec::E4m3::encode(x / scale); });
  }
}

}  // namespace detail

/// Rounds w [rows, cols] to e4m3 with scale max(amax, 1e-12) / 448 per 128x128 block, which `format` may round up; edge blocks are cut, not
/// padded.
/// Throws: Error if an element is not finite.
inline Fp8Matrix quantize_fp8(ConstMatrixView<float> w, ScaleFormat format = ScaleFormat::float32) {
  constexpr Index block = detail::quantized_block;
  Fp8Matrix q = detail::fp8_matrix(w.rows(), w.cols());
  for (Index i = 0; i < q.scales.rows(); ++i)
    detail::quantize_fp8_band(w.slice(i * block, std::min(block, w.rows() - i * block)), i, format, q);
  return q;
}

/// The same of stored weights, without a copy of all of them in float32: by bands of 128 rows, which the workers share.
/// Throws: as above.
template <class Arch, class Stored>
Fp8Matrix quantize_stored_fp8(Context& ctx, const Stored& w, ScaleFormat format) {
  constexpr Index block = detail::quantized_block;
  Fp8Matrix q = detail::fp8_matrix(w.rows, w.cols);
  ctx.parallel_for(q.scales.rows(), w.rows * w.cols, [&](Index i, int) {
    Matrix<float> band(std::min(block, w.rows - i * block), w.cols);
    for (Index r = 0; r < band.rows(); ++r) decode_row<Arch>(w, i * block + r, band.row(r).data());
    detail::quantize_fp8_band(view(std::as_const(band)), i, format, q);
  });
  return q;
}

}  // namespace dsv3::inline DSV3_ISA
