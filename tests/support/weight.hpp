// A matrix in any storage, with the exact value of each of its elements.
#pragma once

#include <numeric>
#include <utility>

#include "dsv3/quant/any_storage.hpp"
#include "dsv3/quant/block_scale.hpp"
#include "support/oracle.hpp"

namespace test {

template <class S>
class Weight;

template <class C>
class Weight<Dense<C>> {
 public:
  explicit Weight(const Matrix<float>& w) : codes_(w.unaryExpr([](float x) { return C::encode(x); })) {}

  typename Dense<C>::View view() const { return {codes_.data(), rows(), cols(), cols()}; }
  Real operator()(Index i, Index k) const { return static_cast<double>(C::decode(codes_(i, k))); }
  Index rows() const { return codes_.rows(); }
  Index cols() const { return codes_.cols(); }

 private:
  Matrix<typename C::Code> codes_;
};

template <>
class Weight<Fp8Block<128, 128>> {
 public:
  explicit Weight(const Matrix<float>& w) : matrix_(quantize_fp8(dsv3::view(w))) {}

  Fp8Block<128, 128>::View view() const { return matrix_.view(); }
  float code(Index i, Index k) const { return codec::E4m3::decode(matrix_.codes(i, k)); }
  float scale(Index i, Index k) const { return matrix_.scales(i / 128, k / 128); }
  Real operator()(Index i, Index k) const { return static_cast<double>(code(i, k)) * static_cast<double>(scale(i, k)); }
  Index rows() const { return matrix_.codes.rows(); }
  Index cols() const { return matrix_.codes.cols(); }

 private:
  Fp8Matrix matrix_;
};

}  // namespace test
