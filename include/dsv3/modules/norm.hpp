// Floor 4. Normalisation layers.
#pragma once

#include "dsv3/kernels/rms_norm.hpp"
#include "dsv3/modules/parameters.hpp"

namespace dsv3::inline DSV3_ISA {

/// Constructible from (channels, eps); forward(ctx, x, y) normalises rows, y may be x.
template <class N>
concept Norm = std::constructible_from<N, Index, double> && HasTensors<N> &&
    requires(const N& n, Context& ctx, ConstMatrixView<float> x, MatrixView<float> y) {
  n.forward(ctx, x, y);
};

/// x / sqrt(mean(x^2) + eps) * w (spec A2).
template <class P>
class RmsNorm {
 public:
  RmsNorm(Index channels, double eps) : weight_{channels}, eps_(static_cast<float>(eps)) {}

  void forward(Context& ctx, ConstMatrixView<float> x, MatrixView<float> y) const {
    kernels::rms_norm<typename P::Arch>(ctx, x, weight(), eps_, y);
  }

  const Vector<float>& weight() const { return weight_.bound("RmsNorm"); }
  float eps() const { return eps_; }

  template <class Self, class Visit>
  static void for_each_tensor(Self& self, const std::string& prefix, Visit&& visit) {
    visit(prefix + "weight", self.weight_);
  }

 private:
  WeightVector weight_;
  float eps_;
};

}  // namespace dsv3::inline DSV3_ISA
