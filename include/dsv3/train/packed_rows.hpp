// Floor 6. Rows kept for backward in a small float format, with one scale per 1x128 tile (section 3.3.3).
#pragma once

#include "dsv3/quant/tiles.hpp"

namespace dsv3::inline DSV3_ISA::train {

/// Rows [rows, cols] as codes of T::Format with tiles `along`. A code of 8 bits takes one byte, two codes of 12 bits take three.
template <class T>
class PackedRows {
  static_assert(T::shape == quant::Shape::along);
  using C = typename T::Format;
  static constexpr bool twelve = std::is_same_v<C, codec::E5m6>;
  static_assert(twelve || sizeof(typename C::Code) == 1);

 public:
  void resize(Index rows, Index cols) {
    cols_ = cols;
    codes_.resize(rows, twelve ? (cols + 1) / 2 * 3 : cols);
    scales_.resize(rows, (cols + quant::tile_size - 1) / quant::tile_size);
  }
  /// Encodes v [count, cols] as rows [begin, begin + count).
  void store(Index begin, ConstMatrixView<float> v) {
    for (Index t = 0; t < v.rows(); ++t)
      for (Index b = 0; b < scales_.cols(); ++b) {
        const Index first = b * quant::tile_size, n = std::min(quant::tile_size, cols_ - first);
        const float* x = v.row_data(t) + first;
        float amax = 0;
        for (Index k = 0; k < n; ++k) amax = std::max(amax, std::abs(x[k]));
        const float scale = scales_(begin + t, b) = quant::scale_of<T>(amax);
        std::uint8_t* to = codes_.row(begin + t).data() + (twelve ? first / 2 * 3 : first);
        if constexpr (twelve) {
          for (Index k = 0; k < n; k += 2, to += 3) {
            const unsigned low = C::encode(x[k] / scale), high = k + 1 < n ? C::encode(x[k + 1] / scale) : 0u;
            to[0] = static_cast<std::uint8_t>(low), to[1] = static_cast<std::uint8_t>(low >> 8 | (high & 15) << 4);
            to[2] = static_cast<std::uint8_t>(high >> 4);
          }
        } else {
          for (Index k = 0; k < n; ++k) to[k] = C::encode(x[k] / scale);
        }
      }
  }
  /// All rows as floats.
  void load(Matrix<float>& to) const {
    to.resize(codes_.rows(), cols_);
    for (Index t = 0; t < to.rows(); ++t)
      for (Index k = 0; k < cols_; ++k) to(t, k) = C::decode(code(t, k)) * scales_(t, k / quant::tile_size);
  }
  Index bytes() const { return codes_.size() + 4 * scales_.size(); }

 private:
  typename C::Code code(Index t, Index k) const {
    if constexpr (twelve) {
      const std::uint8_t* from = codes_.row(t).data() + k / 2 * 3;
      return static_cast<typename C::Code>(k % 2 == 0 ? from[0] | (from[1] & 15) << 8 : from[1] >> 4 | from[2] << 4);
    } else {
      return codes_(t, k);
    }
  }

  Index cols_ = 0;
  Matrix<std::uint8_t> codes_;
  Matrix<float> scales_;
};

}  // namespace dsv3::inline DSV3_ISA::train
