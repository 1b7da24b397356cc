// Floor 6. Rows kept for backward in a small float format, with one scale per 1x128 tile (section 3.3.3).
#pragma once

#include <cstring>

#include "dsv3/quant/tiles.hpp"

namespace dsv3::inline DSV3_ISA::train {

/// Rows [rows, cols] as codes of T::Format with tiles `along`. Codes of a PackedCodec lie as it says, all others side by side.
template <class T>
class PackedRows {
  static_assert(T::shape == quant::Shape::along);
  using C = typename T::Format;
  using Code = typename C::Code;

 public:
  void resize(Index rows, Index cols) {
    cols_ = cols;
    codes_.resize(rows, bytes_of(cols));
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
        std::array<Code, quant::tile_size> codes;
        for (Index k = 0; k < n; ++k) codes[static_cast<std::size_t>(k)] = C::encode(x[k] / scale);
        std::uint8_t* to = codes_.row(begin + t).data() + bytes_of(first);
        if constexpr (PackedCodec<C>)
          C::pack(codes.data(), n, to);
        else
          std::memcpy(to, codes.data(), static_cast<std::size_t>(bytes_of(n)));
      }
  }
  /// All rows as floats.
  void load(Matrix<float>& to) const {
    to.resize(codes_.rows(), cols_);
    for (Index t = 0; t < to.rows(); ++t)
      for (Index b = 0; b < scales_.cols(); ++b) {
        const Index first = b * quant::tile_size, n = std::min(quant::tile_size, cols_ - first);
        std::array<Code, quant::tile_size> codes;
        const std::uint8_t* from = codes_.row(t).data() + bytes_of(first);
        if constexpr (PackedCodec<C>)
          C::unpack(from, n, codes.data());
        else
          std::memcpy(codes.data(), from, static_cast<std::size_t>(bytes_of(n)));
        for (Index k = 0; k < n; ++k) to(t, first + k) = C::decode(codes[static_cast<std::size_t>(k)]) * scales_(t, b);
      }
  }
  Index bytes() const { return codes_.size() + 4 * scales_.size(); }

 private:
  static constexpr Index bytes_of(Index n) {
    if constexpr (PackedCodec<C>)
      return C::packed_bytes(n);
    else
      return n * static_cast<Index>(sizeof(Code));
  }

  Index cols_ = 0;
  Matrix<std::uint8_t> codes_;
  Matrix<float> scales_;
};

}  // namespace dsv3::inline DSV3_ISA::train
