// Floor 3. The first half of gated feed-forward networks: h = activation(x W_gate^T, x W_up^T), one or many in one parallel loop.
#pragma once

#include "dsv3/kernels/linear.hpp"
#include "dsv3/kernels/swiglu.hpp"

namespace dsv3::inline DSV3_ISA::kernels {

/// One network of a group: x and x_up [T, K], the input as prepared for gate and for up; gate and up [N, K]; h [T, N], overwritten.
template <WeightView W, class H = MatrixView<float>, GatedActivation A = SwiGlu>
struct GatedProduct {
  ConstMatrixView<float> x, x_up;
  W gate, up;
  H h;
  [[no_unique_address]] A activation{};
};

namespace detail {

/// A GatedProduct with its inputs arranged.
template <WeightView W, class A>
struct ReadyGatedProduct {
  Input x, x_up;
  W gate, up;
  MatrixView<float> h;
  [[no_unique_address]] A activation;
};

/// Columns [begin, begin + count) of h. `gated` [T, count]; `scratch` is that of multiply_weight_rows().
template <class Arch, WeightView W, class A>
void gated_panel(const ReadyGatedProduct<W, A>& p, Index begin, Index count, float* gated, float* scratch) {
  auto h = MatrixView<float>(p.h).columns(begin, count);
  MatrixView<float> up(gated, h.rows(), count);
  multiply_weight_rows<Arch>(p.x, p.gate, begin, count, h.data(), h.outerStride(), scratch);
  multiply_weight_rows<Arch>(p.x_up, p.up, begin, count, up.data(), count, scratch);
  for (Index t = 0; t < h.rows(); ++t) activate_row<Arch>(h.row_data(t), up.row_data(t), count, h.row_data(t), p.activation);
}

}  // namespace detail

/// h = activation(x gate^T, x_up up^T) for every network of the group (spec A15), in one parallel loop over the rows of all weights.
template <class Arch = simd::DefaultArch, WeightView W, GatedActivation A = SwiGlu>
void grouped_gated_linear(Context& ctx, std::type_identity_t<std::span<const GatedProduct<W, MatrixView<float>, A>>> group) {
  using Ready = detail::ReadyGatedProduct<W, A>;
  const auto size = [](const Ready& p, Index balanced_rows) { return detail::panel_rows<Arch>(p.h.rows(), p.gate, balanced_rows); };
  constexpr Index max_balanced_rows = Index{1} << 40;  // no share is larger: size() gives the largest panel
  auto scope = ctx.scratch();
  const auto ready = scope.array<Ready>(std::ssize(group));
  detail::Arrange<Arch> arrange(ctx, scope);
  Index gated = 0, floats = 0;
  for (std::size_t i = 0; i < group.size(); ++i) {
    const auto& p = group[i];
    detail::check_product("gated_linear: gate", p.x, p.h, weight_cols(p.gate), weight_rows(p.gate));
    detail::check_product("gated_linear: up", p.x_up, p.h, weight_cols(p.up), weight_rows(p.up));
    std::construct_at(&ready[i], Ready{arrange(p.x, p.gate), arrange(p.x_up, p.up), p.gate, p.up, p.h, p.activation});
    gated = std::max(gated, p.x.rows() * std::min(size(ready[i], max_balanced_rows), p.h.cols()));
    floats = std::max({floats, detail::linear_scratch<Arch>(p.x.rows(), p.gate), detail::linear_scratch<Arch>(p.x_up.rows(), p.up)});
  }
  auto up = scope.matrix<float>(ctx.workers(), gated), scratch = scope.matrix<float>(ctx.workers(), floats);
  detail::for_each_panel(
      ctx, std::span<const Ready>(ready), [](const Ready& p) { return p.h.rows() > 0 ? p.h.cols() : 0; },
      [](const Ready& p) { return 2 * p.x.x.size() * p.h.cols(); }, size,
      [&](const Ready& p, Index begin, Index count, int worker) {
        detail::gated_panel<Arch>(p, begin, count, up.row_data(worker), scratch.row_data(worker));
      });
}

}  // namespace dsv3::inline DSV3_ISA::kernels
