// Floor 6. Backward of gated networks, alone or many at a time, and of a mixture of experts.
#pragma once

#include "dsv3/modules/moe.hpp"
#include "dsv3/train/linear_backward.hpp"
#include "dsv3/train/route_backward.hpp"

namespace dsv3::inline DSV3_ISA::train {

/// One network's part of a pass: y = g network(x), with one gate g per row (1 if `gates` is null).
template <class F>
struct FfnGradient {
  const F* ffn = nullptr;
  ConstMatrixView<float> x, gate, up;  ///< the network's input, and its two projections [rows, inner]
  ConstMatrixView<float> dy;           ///< gradient of y
  MatrixView<float> dx;                ///< overwritten
  const float* gates = nullptr;        ///< [rows]
  float* dgates = nullptr;             ///< [rows], overwritten
};

/// Backward of several gated networks in as few parallel loops as possible. h = activation(gate, up) is recomputed. With u = dy W_down, the
/// gradient of a row's gate g is u . h, so the network's output need not be kept (spec T14).
template <class P, class B>
void backward_group(const B& b, std::span<const FfnGradient<GatedFfn<P>>> jobs) {
  static_assert(TrainableActivation<typename P::Activation>,
                "dsv3: P::Activation does not train: it needs activation_backward(activation, gate, up, dh, dgate, dup) "
                "(train/row_gradients.hpp)");
  using Arch = typename P::Arch;
  using Floats = simd::Floats<Arch>;
  using View = typename P::Storage::View;
  Context& ctx = b.ctx;
  auto scope = ctx.scratch();
  const auto n = std::ssize(jobs);
  Index rows = 0, values = 0;
  for (const auto& job : jobs) rows += job.x.rows(), values += job.gate.size();
  struct Part {
    MatrixView<float> dgate, dup, h;
  };
  const auto parts = scope.template array<Part>(n);
  const auto owner = scope.template array<std::pair<int, int>>(rows);
  const auto down = scope.template array<InputGradient<View>>(n);
  for (std::size_t i = 0, row = 0; i < jobs.size(); ++i) {
    const auto& job = jobs[i];
    const auto take = [&] { return scope.template matrix<float>(job.x.rows(), job.gate.cols()); };
    std::construct_at(&parts[i], Part{take(), take(), take()});
    std::construct_at(&down[i], InputGradient<View>{job.dy, job.ffn->down_proj().weight(), parts[i].dgate});
    for (Index t = 0; t < job.x.rows(); ++t) owner[row++] = {static_cast<int>(i), static_cast<int>(t)};
  }
  input_gradients<P>(ctx, down);
  ctx.parallel_for(rows, values * 24, [&](Index row, int) {
    const auto [i, t] = owner[static_cast<std::size_t>(row)];
    const auto& job = jobs[static_cast<std::size_t>(i)];
    const Part& part = parts[static_cast<std::size_t>(i)];
    const Floats g(job.gates != nullptr ? job.gates[t] : 1.0f);
    const float *gate = job.gate.row_data(t), *up = job.up.row_data(t);
    float *dgate = part.dgate.row_data(t), *dup = part.dup.row_data(t), *h = part.h.row_data(t);
    const Index width = job.gate.cols();
    Floats total(0.0f);
    const auto step = [&](const Floats& a, const Floats& c, const Floats& u, auto&& store) {
      const Floats value = job.ffn->activation()(a, c);
      total = simd::fma<Arch>(u, value, total);
      Floats da, dc;
      activation_backward(job.ffn->activation(), a, c, Floats(u * g), da, dc);
      store(da, dc, Floats(value * g));
    };
    Index k = 0;
    for (; k + simd::width<Arch> <= width; k += simd::width<Arch>)
      step(simd::load<Arch>(gate + k), simd::load<Arch>(up + k), simd::load<Arch>(dgate + k),
           [&](const Floats& da, const Floats& dc, const Floats& v) {
             da.store_unaligned(dgate + k), dc.store_unaligned(dup + k), v.store_unaligned(h + k);
           });
    if (const Index rest = width - k; rest > 0)
      step(simd::load_partial<Arch>(gate + k, rest), simd::load_partial<Arch>(up + k, rest), simd::load_partial<Arch>(dgate + k, rest),
           [&](const Floats& da, const Floats& dc, const Floats& v) {
             simd::store_partial<Arch>(dgate + k, da, rest), simd::store_partial<Arch>(dup + k, dc, rest),
                 simd::store_partial<Arch>(h + k, v, rest);
           });
    if (job.dgates != nullptr) job.dgates[t] = simd::sum<Arch>(total);
  });
  const auto sums = scope.template array<WeightGradient>(3 * n);
  const auto through_gate = scope.template array<InputGradient<View>>(n), through_up = scope.template array<InputGradient<View>>(n);
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    const auto& [ffn, x, gate, up, dy, dx, gates, dgates] = jobs[i];
    const auto& [dgate, dup, h] = parts[i];
    std::construct_at(&sums[3 * i], WeightGradient{x, dgate, b.gradients.of(ffn->gate_proj().weight())});
    std::construct_at(&sums[3 * i + 1], WeightGradient{x, dup, b.gradients.of(ffn->up_proj().weight())});
    std::construct_at(&sums[3 * i + 2], WeightGradient{h, dy, b.gradients.of(ffn->down_proj().weight())});
    std::construct_at(&through_gate[i], InputGradient<View>{dgate, ffn->gate_proj().weight(), dx});
    std::construct_at(&through_up[i], InputGradient<View>{dup, ffn->up_proj().weight(), dx, true});
  }
  weight_gradients<P>(ctx, sums);
  input_gradients<P>(ctx, through_gate);
  input_gradients<P>(ctx, through_up);
}

/// Backward of a dense network; gate and up come from the layer's record.
template <class P, class B>
void backward(const B& b, const GatedFfn<P>& ffn, ConstMatrixView<float> x, ConstMatrixView<float> dy, MatrixView<float> dx) {
  const FfnGradient<GatedFfn<P>> job{&ffn, x, view(b.kept.gate), view(b.kept.up), dy, dx};
  backward_group<P>(b, {&job, 1});
}

/// Backward of route, run and combine, and of the balance loss (spec T8, T13).
template <class P, class B>
void backward(const B& b, const Moe<P>& moe, ConstMatrixView<float> x, ConstMatrixView<float> dy, MatrixView<float> dx) {
  using Expert = typename Moe<P>::Expert;
  using Arch = typename P::Arch;
  const router::Config& config = moe.router_config();
  const LayerRecord& kept = b.kept;
  Context& ctx = b.ctx;
  auto scope = ctx.scratch();
  const Index choices = kept.experts.size();
  const auto offsets = scope.template array<Index>(config.experts + 1);
  auto places = scope.template matrix<int>(x.rows(), config.top_k);
  auto sorted_x = scope.template matrix<float>(choices, x.cols()), sorted_dy = scope.template matrix<float>(choices, x.cols()),
       sorted_dx = scope.template matrix<float>(choices, x.cols());
  const auto gates = scope.template array<float>(choices), dgates = scope.template array<float>(choices);
  kernels::sort_by_expert(view(kept.experts), offsets, places);
  kernels::gather_rows(ctx, x, places, sorted_x);
  kernels::gather_rows(ctx, dy, places, sorted_dy);
  for (Index t = 0; t < x.rows(); ++t)
    for (Index k = 0; k < config.top_k; ++k) gates[static_cast<std::size_t>(places(t, k))] = kept.gates(t, k);

  const auto jobs = scope.template array<FfnGradient<Expert>>(config.experts + 1);
  std::size_t used = 0;
  const ConstMatrixView<float> expert_gate = view(kept.expert_gate), expert_up = view(kept.expert_up);
  for (std::size_t e = 0; e < moe.experts().size(); ++e)
    if (const Index begin = offsets[e], count = offsets[e + 1] - begin; count > 0)
      std::construct_at(&jobs[used++],
                        FfnGradient<Expert>{&moe.experts()[e], sorted_x.slice(begin, count), expert_gate.slice(begin, count),
                                            expert_up.slice(begin, count), sorted_dy.slice(begin, count), sorted_dx.slice(begin, count),
                                            &gates[static_cast<std::size_t>(begin)], &dgates[static_cast<std::size_t>(begin)]});
  if (moe.shared())
    std::construct_at(&jobs[used++], FfnGradient<Expert>{&*moe.shared(), x, view(kept.gate), view(kept.up), dy, dx});
  else
    dx.setZero();
  backward_group<P>(b, std::span<const FfnGradient<Expert>>(jobs.first(used)));
  gather_backward<Arch>(ctx, sorted_dx, places, dx);

  auto dlogits = scope.template matrix<float>(x.rows(), config.experts);
  const auto most = router::max_choices;
  ctx.parallel_for(x.rows(), dlogits.size() * 16, [&](Index t, int) {
    std::array<float, most> d;
    for (Index k = 0; k < config.top_k; ++k) d[static_cast<std::size_t>(k)] = dgates[static_cast<std::size_t>(places(t, k))];
    const auto experts = static_cast<std::size_t>(config.experts), chosen = static_cast<std::size_t>(config.top_k);
    const std::span<float> row(dlogits.row_data(t), experts);
    std::fill(row.begin(), row.end(), 0.0f);
    route_backward(moe.router(), config, std::span<const float>(kept.router_logits.row(t).data(), experts),
                   std::span<const int>(kept.experts.row(t).data(), chosen), std::span<const float>(d.data(), chosen), row);
  });
  if constexpr (!BalancedRouter<typename P::Router>)
    require(b.balance == nullptr,
            "train: P::Router has no balance_backward(router, config, logits, weight, dlogits): balance_weight must be 0");
  else if (b.balance != nullptr) {
    b.balance->loss = 0;
    for (const auto& [begin, count] : b.balance->rows)
      b.balance->loss += balance_backward(moe.router(), config, ConstMatrixView<float>(view(kept.router_logits)).slice(begin, count),
                                          b.balance->weight, dlogits.slice(begin, count));
  }
  record(b.rows, point::RouterLogits{}, dlogits);
  const std::array products{MultiplyAdd{as_is(dlogits), master(moe.gate()), dx},  // in float32 whatever the policy (spec T15)
                            MultiplyAdd{transposed(dlogits), x, b.gradients.of(moe.gate())}};
  grouped_multiply_add<Arch>(ctx, products);
}

}  // namespace dsv3::inline DSV3_ISA::train
