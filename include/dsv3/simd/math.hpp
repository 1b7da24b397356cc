// Floor 1. Elementary functions on vectors: sigmoid, SiLU, and loops that apply a function to a row.
#pragma once

#include "dsv3/simd/batch.hpp"

namespace dsv3::inline DSV3_ISA::simd {

/// 1 / (1 + e^-x).
template <class Arch>
Floats<Arch> sigmoid(const Floats<Arch>& x) {
  return divide<Arch>(Floats<Arch>(1.0f), Floats<Arch>(1.0f) + xsimd::exp(-x));
}

/// x * sigmoid(x).
template <class Arch>
Floats<Arch> silu(const Floats<Arch>& x) {
  return divide<Arch>(x, Floats<Arch>(1.0f) + xsimd::exp(-x));
}

/// y[i] = f(x[i]...) for i < n: whole vectors, then one padded with zeros. y may be one of the inputs.
template <class Arch, class F, class... In>
void map(F&& f, Index n, float* y, const In*... x) {
  Index i = 0;
  for (; i + width<Arch> <= n; i += width<Arch>) f(load<Arch>(x + i)...).store_unaligned(y + i);
  if (i < n) store_partial<Arch>(y + i, f(load_partial<Arch>(x + i, n - i)...), n - i);
}

/// sum of f(x[i]) for i < n, in an order that depends on n alone.
template <class Arch, class F>
float map_sum(F&& f, Index n, const float* x) {
  Floats<Arch> total(0.0f);
  Index i = 0;
  for (; i + width<Arch> <= n; i += width<Arch>) total = f(load<Arch>(x + i), total);
  if (i < n) total = f(load_partial<Arch>(x + i, n - i), total);
  return sum<Arch>(total);
}

}  // namespace dsv3::inline DSV3_ISA::simd
