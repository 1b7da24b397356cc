// Floor 4. Gated feed-forward networks, alone or many at a time.
#pragma once

#include <memory>
#include <span>

#include "dsv3/kernels/swiglu.hpp"
#include "dsv3/modules/linear.hpp"

namespace dsv3::inline DSV3_ISA {

/// y [T, D] = ffn(x [T, D]), y overwritten.
template <class F>
struct FfnJob {
  const F* ffn = nullptr;
  ConstMatrixView<float> x;
  MatrixView<float> y;
};

/// A network of hidden width `inner` over D channels, constructible from (D, inner). forward_group runs several, each on rows of its own,
/// in as few parallel loops as it can.
template <class F>
concept ExpertFfn = std::constructible_from<F, Index, Index> && HasTensors<F> && requires(Context& ctx, std::span<const FfnJob<F>> jobs) {
  F::forward_group(ctx, jobs);
};

/// W_down (silu(W_gate x) * W_up x) (spec A15).
template <class P>
class GatedFfn {
 public:
  GatedFfn(Index hidden, Index inner) : gate_proj_(inner, hidden), up_proj_(inner, hidden), down_proj_(hidden, inner) {}

  /// x [T, D] -> y [T, D], overwritten; y must not overlap x.
  void forward(Context& ctx, ConstMatrixView<float> x, MatrixView<float> y) const {
    const FfnJob<GatedFfn> job{this, x, y};
    forward_group(ctx, {&job, 1});
  }

  static void forward_group(Context& ctx, std::span<const FfnJob<GatedFfn>> jobs) {
    auto scope = ctx.scratch();
    const auto n = jobs.size();
    const auto products = scope.array<Product>(static_cast<Index>(2 * n));
    for (std::size_t i = 0; i < n; ++i) {
      const auto& [ffn, x, y] = jobs[i];
      const auto& w = ffn->gate_proj_.weight();
      const auto& up = ffn->up_proj_.weight();
      const auto input = P::Compute::prepare(ctx, scope, x, w);
      const Index inner = ffn->gate_proj_.out_features();
      std::construct_at(&products[2 * i], Product{input, w, scope.matrix<float>(x.rows(), inner)});
      std::construct_at(&products[2 * i + 1], Product{is_fp8(w) == is_fp8(up) ? input : P::Compute::prepare(ctx, scope, x, up), up,
                                                      scope.matrix<float>(x.rows(), inner)});
    }
    kernels::grouped_linear<typename P::Arch, View>(ctx, products);
    for (std::size_t i = 0; i < n; ++i) {
      const auto& [ffn, x, y] = jobs[i];
      auto h = products[2 * i].y;
      kernels::swiglu<typename P::Arch>(ctx, h, products[2 * i + 1].y, h);
      const auto& w = ffn->down_proj_.weight();
      std::construct_at(&products[i], Product{P::Compute::prepare(ctx, scope, h, w), w, y});
    }
    kernels::grouped_linear<typename P::Arch, View>(ctx, products.first(n));
  }

  template <class Self, class Visit>
  static void for_each_tensor(Self& self, const std::string& prefix, Visit&& visit) {
    Linear<P>::for_each_tensor(self.gate_proj_, prefix + "gate_proj.", visit);
    Linear<P>::for_each_tensor(self.up_proj_, prefix + "up_proj.", visit);
    Linear<P>::for_each_tensor(self.down_proj_, prefix + "down_proj.", visit);
  }

 private:
  using View = typename P::Storage::View;
  using Product = kernels::Product<View>;

  Linear<P> gate_proj_, up_proj_, down_proj_;
};

}  // namespace dsv3::inline DSV3_ISA
