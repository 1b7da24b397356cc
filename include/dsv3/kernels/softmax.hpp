// Floor 3. Softmax: of a whole row, and online over blocks of a row that arrive one after the other.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "dsv3/simd/math.hpp"

namespace dsv3::inline DSV3_ISA::kernels {

/// The largest of n > 0 elements; NaN is ignored.
template <class Arch = simd::DefaultArch>
float row_max(const float* x, Index n) {
  using Floats = simd::Floats<Arch>;
  constexpr float lowest = -std::numeric_limits<float>::infinity();
  if (n < simd::width<Arch>) {
    float m = lowest;
    for (Index i = 0; i < n; ++i) m = x[i] > m ? x[i] : m;
    return m;
  }
  Floats largest(lowest);
  const auto take = [&](const Floats& v) { largest = xsimd::select(v > largest, v, largest); };
  for (Index i = 0; i + simd::width<Arch> < n; i += simd::width<Arch>) take(simd::load<Arch>(x + i));
  take(simd::load<Arch>(x + n - simd::width<Arch>));  // the tail, which overlaps the vector before it
  return simd::max<Arch>(largest);
}

/// p[i] = exp(x[i] - m) for i < n; returns their sum. p may be x.
template <class Arch = simd::DefaultArch>
float exp_and_sum(const float* x, Index n, float m, float* p) {
  using Floats = simd::Floats<Arch>;
  const Floats shift(m);
  Floats total(0.0f);
  Index i = 0;
  for (; i + simd::width<Arch> <= n; i += simd::width<Arch>) {
    const Floats e = xsimd::exp(simd::load<Arch>(x + i) - shift);
    e.store_unaligned(p + i);
    total += e;
  }
  if (i < n) {
    simd::store_partial<Arch>(p + i, xsimd::exp(simd::load_partial<Arch>(x + i, n - i) - shift), n - i);
    total += simd::load_partial<Arch>(p + i, n - i);
  }
  return simd::sum<Arch>(total);
}

/// y = softmax(x) over n > 0 elements. y may be x.
template <class Arch = simd::DefaultArch>
void softmax(const float* x, Index n, float* y) {
  const float total = exp_and_sum<Arch>(x, n, row_max<Arch>(x, n), y);
  for (Index i = 0; i < n; ++i) y[i] /= total;
}

/// The state of a softmax over scores seen so far: their maximum, and the sum of exp(score - maximum). The caller keeps the sum of values
/// weighted by exp(score - maximum).
struct OnlineSoftmax {
  float maximum = -std::numeric_limits<float>::infinity();
  float sum = 0;

  /// Adds n > 0 scores, and replaces them by weights exp(score - maximum). Returns the factor by which the caller's accumulator, and every
  /// weight given out before, must be multiplied. Scores of -infinity get weight 0.
  template <class Arch = simd::DefaultArch>
  float add(float* scores, Index n) {
    const float largest = std::max(maximum, row_max<Arch>(scores, n));
    const float rescale = maximum == largest ? 1.0f : std::exp(maximum - largest);
    const float shift = largest == -std::numeric_limits<float>::infinity() ? 0.0f : largest;  // no finite score yet: weights 0, not NaN
    sum = std::fma(sum, rescale, exp_and_sum<Arch>(scores, n, shift, scores));
    maximum = largest;
    return rescale;
  }
};

}  // namespace dsv3::inline DSV3_ISA::kernels
