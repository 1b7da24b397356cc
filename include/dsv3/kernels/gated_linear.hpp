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

/// Columns [begin, begin + count) of h. `scratch` [T, count]; `decoded` is the `memory` of multiply_weight_rows().
template <class Arch, WeightView W, class A>
void gated_panel(const GatedProduct<W, MatrixView<float>, A>& p, Index begin, Index count, float* scratch, float* decoded) {
  auto h = MatrixView<float>(p.h).columns(begin, count);
  MatrixView<float> up(scratch, h.rows(), count);
  multiply_weight_rows<Arch>(p.x, p.gate, begin, count, h.data(), h.outerStride(), decoded);
  multiply_weight_rows<Arch>(p.x_up, p.up, begin, count, up.data(), count, decoded);
  for (Index t = 0; t < h.rows(); ++t) activate_row<Arch>(h.row_data(t), up.row_data(t), count, h.row_data(t), p.activation);
}

}  // namespace detail

/// h = activation(x gate^T, x_up up^T) for every network of the group (spec A15), in one parallel loop over the rows of all weights.
template <class Arch = simd::DefaultArch, WeightView W, GatedActivation A = SwiGlu>
void grouped_gated_linear(Context& ctx, std::type_identity_t<std::span<const GatedProduct<W, MatrixView<float>, A>>> group) {
  using P = GatedProduct<W, MatrixView<float>, A>;
  const auto size = [](const P& p, Index balanced_rows) { return detail::panel_rows(p.x, p.gate, balanced_rows); };
  constexpr Index max_balanced_rows = Index{1} << 40;  // no share is larger: size() gives the largest panel
  auto scope = ctx.scratch();
  const auto arranged = scope.array<P>(static_cast<Index>(group.size()));
  detail::Arrange<Arch> arrange(ctx, scope);
  Index scratch = 0, decoded = 0;
  for (std::size_t i = 0; i < group.size(); ++i) {
    const auto& p = group[i];
    detail::check_product("gated_linear: gate", p.x, p.h, weight_cols(p.gate), weight_rows(p.gate));
    detail::check_product("gated_linear: up", p.x_up, p.h, weight_cols(p.up), weight_rows(p.up));
    scratch = std::max(scratch, p.x.rows() * std::min(size(p, max_balanced_rows), p.h.cols()));
    decoded = std::max({decoded, detail::decoded_size(p.x, p.gate), detail::decoded_size(p.x_up, p.up)});
    std::construct_at(&arranged[i], P{arrange(p.x, p.gate), arrange(p.x_up, p.up), p.gate, p.up, p.h, p.activation});
  }
  auto up = scope.matrix<float>(ctx.workers(), scratch), memory = scope.matrix<float>(ctx.workers(), decoded);
  detail::for_each_panel(
      ctx, std::span<const P>(arranged), [](const P& p) { return p.x.rows() > 0 ? p.h.cols() : 0; },
      [](const P& p) { return 2 * p.x.size() * p.h.cols(); }, size,
      [&](const P& p, Index begin, Index count, int worker) {
        detail::gated_panel<Arch>(p, begin, count, up.row_data(worker), memory.row_data(worker));
      });
}

}  // namespace dsv3::inline DSV3_ISA::kernels
