// Floor 4. Projections without bias: y = x W^T.
#pragma once

#include <memory>

#include "dsv3/kernels/linear_bf16.hpp"
#include "dsv3/kernels/linear_dots.hpp"
#include "dsv3/modules/parameters.hpp"
#include "dsv3/modules/rows.hpp"
#include "dsv3/quant/compute.hpp"

namespace dsv3::inline DSV3_ISA {

/// The regime, on this machine, of a pass of `rows` rows whose products have `expected_rows` rows each on average.
template <class P>
Regime regime_of(Index rows, Index expected_rows) {
  Regime regime = dsv3::regime<typename P::Compute>(rows, expected_rows);
  regime.dots = regime.dots && kernels::uses_dots<typename P::Arch>();
  return regime;
}

/// Products of prepared activations in one regime.
template <class P>
void multiply(Context& ctx, Regime regime, std::span<const kernels::Product<typename P::Storage::View>> group) {
  auto scope = ctx.scratch();
  if (regime.dots) group = kernels::multiply_in_dots<typename P::Arch>(ctx, scope, group);
  if (group.empty()) return;
  regime.bf16 ? kernels::grouped_linear_bf16<typename P::Arch>(ctx, group) : kernels::grouped_linear<typename P::Arch>(ctx, group);
}

/// Products of prepared activations, with `expected_rows` rows each on average: by P::Compute::multiply if there is one, else in the regime
/// of the pass.
template <class P>
void multiply(Context& ctx, const Pass& pass, Index expected_rows, std::span<const kernels::Product<typename P::Storage::View>> group) {
  if constexpr (requires { P::Compute::template multiply<typename P::Arch>(ctx, group); })
    P::Compute::template multiply<typename P::Arch>(ctx, group);
  else
    multiply<P>(ctx, regime_of<P>(pass.rows, expected_rows), group);
}

namespace detail {
template <class P, class C>
struct WithCompute : P {
  using Compute = C;
};
template <class P>
struct PreciseOf {
  using Type = P;
};
template <class P>
requires requires { typename P::Compute::Precise; }
struct PreciseOf<P> {
  using Type = WithCompute<P, typename P::Compute::Precise>;
};
template <class P>
struct AfterAttentionOf {
  using Type = P;
};
template <class P>
requires requires { typename P::Compute::AfterAttention; }
struct AfterAttentionOf<P> {
  using Type = WithCompute<P, typename P::Compute::AfterAttention>;
};
}  // namespace detail

/// P with the arithmetic of the output head and of eh_proj: P::Compute::Precise, if there is one (spec T39).
template <class P>
using Precise = typename detail::PreciseOf<P>::Type;
/// P with the arithmetic of the projection after attention: P::Compute::AfterAttention, if there is one (spec T42).
template <class P>
using AfterAttention = typename detail::AfterAttentionOf<P>::Type;

/// W [out, in] in P::Storage, multiplied by P::Compute.
template <class P>
class Linear {
 public:
  using View = typename P::Storage::View;

  Linear(Index out, Index in) : weight_{out, in} {}

  /// y [T, out] = x [T, in] W^T, where x holds some or all rows of `pass`. y is overwritten and must not overlap x.
  /// Throws: Error if the weights are not bound to memory.
  void forward(Context& ctx, ConstMatrixView<float> x, const Pass& pass, MatrixView<float> y) const {
    const Job job{this, y};
    forward_group(ctx, x, pass, {&job, 1});
  }

  /// A projection of a group, and its y [T, out].
  struct Job {
    const Linear* linear;
    MatrixView<float> y;
  };
  /// The same for several projections of one x, in one parallel loop.
  static void forward_group(Context& ctx, ConstMatrixView<float> x, const Pass& pass, std::span<const Job> jobs) {
    auto scope = ctx.scratch();
    const auto products = scope.array<kernels::Product<View>>(static_cast<Index>(jobs.size()));
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      const View& w = jobs[i].linear->weight();
      const bool prepared = i > 0 && is_fp8(w) == is_fp8(products[i - 1].w);
      std::construct_at(&products[i],
                        kernels::Product<View>{prepared ? products[i - 1].x : P::Compute::prepare(ctx, scope, x, w), w, jobs[i].y});
    }
    multiply<P>(ctx, pass, pass.rows, products);
  }

  /// The stored weights. Throws: Error if they are not bound to memory.
  const View& weight() const { return weight_.bound("Linear"); }
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
