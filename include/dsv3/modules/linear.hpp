// Floor 4. A projection without bias: y = x W^T.
#pragma once

#include "dsv3/kernels/linear.hpp"
#include "dsv3/modules/parameters.hpp"
#include "dsv3/quant/compute.hpp"

namespace dsv3::inline DSV3_ISA {

/// W [out, in] in P::Storage, multiplied as P::Compute says.
template <class P>
class Linear {
 public:
  using View = typename P::Storage::View;

  Linear(Index out, Index in) : weight_{out, in} {}

  /// y [T, out] = x [T, in] W^T. y is overwritten and must not overlap x.
  void forward(Context& ctx, ConstMatrixView<float> x, MatrixView<float> y) const {
    auto scope = ctx.scratch();
    kernels::linear<typename P::Arch>(ctx, P::Compute::prepare(ctx, scope, x, weight_.view), weight_.view, y);
  }

  const View& weight() const { return weight_.view; }
  Index out_features() const { return weight_.rows; }
  Index in_features() const { return weight_.cols; }

  template <class Self, class Visit>
  static void for_each_tensor(Self& self, const std::string& prefix, Visit&& visit) {
    visit(prefix + "weight", self.weight_);
  }

 private:
  WeightMatrix<typename P::Storage> weight_;
};

}  // namespace dsv3::inline DSV3_ISA
