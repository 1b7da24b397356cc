// Floor 3. Activations of gated feed-forward networks, and their application to rows.
#pragma once

#include <concepts>

#include "dsv3/core/context.hpp"
#include "dsv3/core/error.hpp"
#include "dsv3/simd/math.hpp"

namespace dsv3::inline DSV3_ISA::kernels {

/// silu(gate) * up, for vectors of any width (spec A15).
struct SwiGlu {
  template <class V>
  V operator()(const V& gate, const V& up) const {
    return simd::silu(gate) * up;
  }
};

/// How a gated network combines its two projections: activation(gate, up) on vectors of floats, element by element. A small object that is
/// copied into products; it may hold settings.
template <class A>
concept GatedActivation = std::semiregular<A> && requires(const A& a, const simd::Floats<simd::DefaultArch>& v) {
  { a(v, v) } -> std::same_as<simd::Floats<simd::DefaultArch>>;
};

/// y = activation(gate, up) for n elements. y may be gate or up.
template <class Arch = simd::DefaultArch, GatedActivation A = SwiGlu>
void activate_row(const float* gate, const float* up, Index n, float* y, const A& activation = {}) {
  using Floats = simd::Floats<Arch>;
  simd::map<Arch>([&](const Floats& g, const Floats& u) { return activation(g, u); }, n, y, gate, up);
}

/// y = activation(gate, up) over [T, I]; y may be gate or up.
/// Throws: Error if the shapes differ.
template <class Arch = simd::DefaultArch, GatedActivation A = SwiGlu>
void activate(Context& ctx, ConstMatrixView<float> gate, ConstMatrixView<float> up, MatrixView<float> y, const A& activation = {}) {
  if (gate.rows() != up.rows() || gate.cols() != up.cols() || y.rows() != up.rows() || y.cols() != up.cols())
    fail("activate: expected gate, up and result of one shape, got ", shape_string({gate.rows(), gate.cols()}), ", ",
         shape_string({up.rows(), up.cols()}), " and ", shape_string({y.rows(), y.cols()}));
  ctx.parallel_for(y.rows(), y.size() * 16,
                   [&](Index t, int) { activate_row<Arch>(gate.row_data(t), up.row_data(t), y.cols(), y.row_data(t), activation); });
}

}  // namespace dsv3::inline DSV3_ISA::kernels
