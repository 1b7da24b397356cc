// Floor 4. Gated feed-forward networks, alone or many at a time.
#pragma once

#include <array>
#include <memory>
#include <span>

#include "dsv3/kernels/gated_ffn_bf16.hpp"
#include "dsv3/kernels/swiglu.hpp"
#include "dsv3/modules/linear.hpp"

namespace dsv3::inline DSV3_ISA {

/// y [T, D] = ffn(x [T, D]), y overwritten: x holds the rows of the pass that this network works on.
template <class F>
struct FfnJob {
  const F* ffn = nullptr;
  ConstMatrixView<float> x;
  MatrixView<float> y;
  Index expert = -1;        ///< number of a routed expert; -1 for dense and shared networks
  Index expected_rows = 0;  ///< rows that a network of its kind gets on average in this pass; 0: all rows of the pass
};

/// A network of hidden width `inner` over D channels, made from (config, D, inner) or (D, inner). forward_group(ctx, jobs, rows) runs
/// several, each on some of the rows of a pass, in as few parallel loops as it can.
template <class F, class Config = dsv3::Config>
concept ExpertFfn = (std::constructible_from<F, const Config&, Index, Index> ||
                     std::constructible_from<F, Index, Index>)&&HasTensors<F>&& requires(Context& ctx, std::span<const FfnJob<F>> jobs,
                                                                                         const Rows<>& rows) {
  F::forward_group(ctx, jobs, rows);
};

template <class F, class Config>
F make_ffn(const Config& c, Index hidden, Index inner) {
  if constexpr (std::constructible_from<F, const Config&, Index, Index>)
    return F(c, hidden, inner);
  else
    return F(hidden, inner);
}

/// W_down activation(W_gate x, W_up x), with silu(gate) * up as the default P::Activation (spec A15). P::Activation is made from the
/// configuration if it can be.
template <class P>
class GatedFfn {
 public:
  using Config = typename P::Config;
  using Activation = typename P::Activation;

  GatedFfn(const Config& c, Index hidden, Index inner) : GatedFfn(make_activation(c), hidden, inner) {}
  GatedFfn(Index hidden, Index inner) requires std::default_initializable<Activation> : GatedFfn(Activation{}, hidden, inner) {}

  /// x [T, D] -> y [T, D], overwritten; y must not overlap x.
  template <class Cache, Tape T>
  void forward(Context& ctx, ConstMatrixView<float> x, const Rows<Cache, T>& rows, MatrixView<float> y) const {
    const FfnJob<GatedFfn> job{this, x, y};
    forward_group(ctx, {&job, 1}, rows);
  }

  template <class Cache, Tape T>
  static void forward_group(Context& ctx, std::span<const FfnJob<GatedFfn>> jobs, const Rows<Cache, T>& rows) {
    const auto expected_rows = [&](std::size_t i) { return jobs[i].expected_rows > 0 ? jobs[i].expected_rows : rows.rows; };
    const auto dots = [&](std::size_t i) { return regime_of<P>(rows.rows, expected_rows(i)).dots; };
    for (std::size_t begin = 0, end = 0; begin < jobs.size(); begin = end) {  // runs of jobs in one regime
      while (end < jobs.size() && dots(end) == dots(begin)) ++end;
      const auto run = jobs.subspan(begin, end - begin);
      if constexpr (records<T, point::FfnGate>)
        forward_recorded(ctx, run, rows, expected_rows(begin));
      else
        forward_fused(ctx, run, rows, expected_rows(begin));
    }
  }

  template <class Self, class Visit>
  static void for_each_tensor(Self& self, const std::string& prefix, Visit&& visit) {
    Linear<P>::for_each_tensor(self.gate_proj_, prefix + "gate_proj.", visit);
    Linear<P>::for_each_tensor(self.up_proj_, prefix + "up_proj.", visit);
    Linear<P>::for_each_tensor(self.down_proj_, prefix + "down_proj.", visit);
  }

  const Activation& activation() const { return activation_; }
  const Linear<P>& gate_proj() const { return gate_proj_; }
  const Linear<P>& up_proj() const { return up_proj_; }
  const Linear<P>& down_proj() const { return down_proj_; }

 private:
  using View = typename P::Storage::View;

  GatedFfn(const Activation& activation, Index hidden, Index inner)
      : activation_(activation), gate_proj_(inner, hidden), up_proj_(inner, hidden), down_proj_(hidden, inner) {}
  static Activation make_activation([[maybe_unused]] const Config& c) {
    if constexpr (std::constructible_from<Activation, const Config&>)
      return Activation(c);
    else
      return Activation{};
  }

  // Fused: h = activation(gate, up) is computed tile by tile, together with gate and up, so the whole gate and up matrices are never
  // stored.
  static void forward_fused(Context& ctx, std::span<const FfnJob<GatedFfn>> jobs, const Pass& pass, Index expected_rows) {
    auto scope = ctx.scratch();
    const auto n = static_cast<Index>(jobs.size());
    const Regime how = regime_of<P>(pass.rows, expected_rows);
    if constexpr (!needs_prepare<typename P::Compute>)
      if (how.bf16 && !how.dots) {
        using Network = kernels::GatedNetwork<View, Activation>;
        const auto networks = scope.array<Network>(n);
        for (std::size_t i = 0; i < jobs.size(); ++i) {
          const GatedFfn& ffn = *jobs[i].ffn;
          std::construct_at(&networks[i], Network{jobs[i].x, ffn.gate_proj_.weight(), ffn.up_proj_.weight(), ffn.down_proj_.weight(),
                                                  jobs[i].y, ffn.activation_});
        }
        return kernels::grouped_gated_ffn_bf16<typename P::Arch, View, Activation>(ctx, networks);
      }
    using Gated = kernels::GatedProduct<View, MatrixView<float>, Activation>;
    const auto inner = scope.array<Gated>(n);
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      const GatedFfn& ffn = *jobs[i].ffn;
      const auto& x = jobs[i].x;
      const View &gate = ffn.gate_proj_.weight(), &up = ffn.up_proj_.weight();
      const auto input = P::Compute::prepare(ctx, scope, x, gate);
      std::construct_at(&inner[i], Gated{input, is_fp8(gate) == is_fp8(up) ? input : P::Compute::prepare(ctx, scope, x, up), gate, up,
                                         scope.matrix<float>(x.rows(), ffn.gate_proj_.out_features()), ffn.activation_});
    }
    std::span<const Gated> rest = inner;
    if (how.dots) rest = kernels::multiply_in_dots<typename P::Arch>(ctx, scope, rest);
    if (!rest.empty())
      how.bf16 ? kernels::grouped_gated_linear_bf16<typename P::Arch, View, Activation>(ctx, rest)
               : kernels::grouped_gated_linear<typename P::Arch, View, Activation>(ctx, rest);
    const auto outer = scope.array<kernels::Product<View>>(n);
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      const View& down = jobs[i].ffn->down_proj_.weight();
      std::construct_at(&outer[i], kernels::Product<View>{P::Compute::prepare(ctx, scope, inner[i].h, down), down, jobs[i].y});
    }
    multiply<P>(ctx, pass, expected_rows, outer);
  }

  // Unfused, for a tape that records gate and up: both matrices are stored whole.
  template <class Cache, Tape T>
  static void forward_recorded(Context& ctx, std::span<const FfnJob<GatedFfn>> jobs, const Rows<Cache, T>& rows, Index expected_rows) {
    using Product = kernels::Product<View>;
    auto scope = ctx.scratch();
    const auto n = static_cast<Index>(jobs.size());
    const auto inner = scope.array<Product>(2 * n), outer = scope.array<Product>(n);
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      const GatedFfn& ffn = *jobs[i].ffn;
      const auto& x = jobs[i].x;
      const View &gate = ffn.gate_proj_.weight(), &up = ffn.up_proj_.weight();
      const auto input = P::Compute::prepare(ctx, scope, x, gate);
      const Index width = ffn.gate_proj_.out_features();
      std::construct_at(&inner[2 * i], Product{input, gate, scope.matrix<float>(x.rows(), width)});
      std::construct_at(&inner[2 * i + 1], Product{is_fp8(gate) == is_fp8(up) ? input : P::Compute::prepare(ctx, scope, x, up), up,
                                                   scope.matrix<float>(x.rows(), width)});
    }
    multiply<P>(ctx, rows, expected_rows, inner);
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      const auto& gate = inner[2 * i].y;
      const auto& up = inner[2 * i + 1].y;
      record(rows, point::FfnGate{jobs[i].expert}, gate);
      record(rows, point::FfnUp{jobs[i].expert}, up);
      kernels::activate<typename P::Arch>(ctx, gate, up, gate, jobs[i].ffn->activation_);
      const View& down = jobs[i].ffn->down_proj_.weight();
      std::construct_at(&outer[i], Product{P::Compute::prepare(ctx, scope, gate, down), down, jobs[i].y});
    }
    multiply<P>(ctx, rows, expected_rows, outer);
  }
  [[no_unique_address]] Activation activation_;
  Linear<P> gate_proj_, up_proj_, down_proj_;
};

}  // namespace dsv3::inline DSV3_ISA
