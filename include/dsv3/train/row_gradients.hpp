// Floor 6. Backward of row-wise operations: RMSNorm, gated activations, the rotation, gathering by expert.
#pragma once

#include "dsv3/kernels/rms_norm.hpp"
#include "dsv3/kernels/rope.hpp"
#include "dsv3/kernels/swiglu.hpp"

namespace dsv3::inline DSV3_ISA::train {

/// Backward of y = x r w with r = (mean(x^2) + eps)^(-1/2) (spec T17): dx = r (w dy - x r^2 mean(w dy x)), overwritten; dw [n] += sum over
/// rows of dy x r, in order of rows. x, dy, dx [T, n]; dx may be dy, but not x.
template <class Arch = simd::DefaultArch>
void rms_norm_backward(Context& ctx, ConstMatrixView<float> x, const Vector<float>& w, float eps, ConstMatrixView<float> dy,
                       MatrixView<float> dx, float* dw) {
  using Floats = simd::Floats<Arch>;
  constexpr Index width = simd::width<Arch>;
  const Index n = x.cols();
  auto scope = ctx.scratch();
  const auto inverse = scope.array<float>(x.rows());
  ctx.parallel_for(x.rows(), x.size() * 2, [&](Index t, int) {
    const float squares =
        simd::map_sum<Arch>([](const Floats& v, const Floats& sum) { return simd::fma<Arch>(v, v, sum); }, n, x.row_data(t));
    inverse[static_cast<std::size_t>(t)] = 1.0f / std::sqrt(squares / static_cast<float>(n) + eps);
  });
  // dw first, because dx may overwrite dy.
  ctx.parallel_for((n + 4 * width - 1) / (4 * width), x.size() * 2, [&](Index chunk, int) {
    for (Index c = chunk * 4 * width; c < std::min((chunk + 1) * 4 * width, n); c += width) {
      const Index count = std::min(width, n - c);
      const auto load = [&](const float* p) { return count == width ? simd::load<Arch>(p) : simd::load_partial<Arch>(p, count); };
      Floats sum = load(dw + c);
      for (Index t = 0; t < x.rows(); ++t)
        sum = simd::fma<Arch>(load(dy.row_data(t) + c) * Floats(inverse[static_cast<std::size_t>(t)]), load(x.row_data(t) + c), sum);
      simd::store_partial<Arch>(dw + c, sum, count);
    }
  });
  ctx.parallel_for(x.rows(), x.size() * 4, [&](Index t, int) {
    const float *xt = x.row_data(t), *dyt = dy.row_data(t);
    const float r = inverse[static_cast<std::size_t>(t)];
    Floats total(0.0f);
    Index i = 0;
    for (; i + width <= n; i += width)
      total = simd::fma<Arch>(simd::load<Arch>(dyt + i) * simd::load<Arch>(w.data() + i), simd::load<Arch>(xt + i), total);
    if (i < n)
      total = simd::fma<Arch>(simd::load_partial<Arch>(dyt + i, n - i) * simd::load_partial<Arch>(w.data() + i, n - i),
                              simd::load_partial<Arch>(xt + i, n - i), total);
    const Floats inv(r), back(-r * r * r * simd::sum<Arch>(total) / static_cast<float>(n));
    simd::map<Arch>([&](const Floats& g, const Floats& weight, const Floats& v) { return simd::fma<Arch>(v, back, g * weight * inv); }, n,
                    dx.row_data(t), dyt, w.data(), xt);
  });
}

/// dh/dgate and dh/dup of h = silu(gate) up, times dh (spec T18).
template <class V>
void activation_backward(const kernels::SwiGlu&, const V& gate, const V& up, const V& dh, V& dgate, V& dup) {
  const V one(1.0f), sigmoid = one / (one + xsimd::exp(-gate));
  dup = dh * gate * sigmoid;
  dgate = dh * up * sigmoid * (one + gate * (one - sigmoid));
}

/// An activation with a backward: activation_backward(activation, gate, up, dh, dgate, dup) on vectors of floats.
template <class A>
concept TrainableActivation = requires(const A& a, simd::Floats<simd::DefaultArch>& v) {
  activation_backward(a, v, v, v, v, v);
};

/// Backward of the rotation: rotates the rows of dx back, in place. A row has `heads` vectors of rotation.dim() floats at a stride of
/// `head_stride` floats. Row i is at position `first + i`.
template <class Rotation>
void rotate_back(Context& ctx, const Rotation& rotation, Index first, MatrixView<float> dx, Index heads, Index head_stride) {
  auto scope = ctx.scratch();
  auto angles = scope.template matrix<float>(ctx.workers(), rotation.dim());
  ctx.parallel_for(dx.rows(), dx.rows() * heads * rotation.dim() * 4, [&](Index i, int worker) {
    float* cos_sin = angles.row_data(worker);
    rotation.angles(first + i, cos_sin);
    for (Index j = 1; j < rotation.dim(); j += 2) cos_sin[j] = -cos_sin[j];
    for (Index h = 0; h < heads; ++h) rotation.apply(dx.row_data(i) + h * head_stride, cos_sin, dx.row_data(i) + h * head_stride);
  });
}

/// Backward of gather_rows: dx.row(t) += sum over k of dsorted.row(place(t, k)), in the order of k.
template <class Arch = simd::DefaultArch>
void gather_backward(Context& ctx, ConstMatrixView<float> dsorted, ConstMatrixView<int> place, MatrixView<float> dx) {
  using Floats = simd::Floats<Arch>;
  ctx.parallel_for(place.rows(), dsorted.size(), [&](Index t, int) {
    for (Index k = 0; k < place.cols(); ++k)
      simd::map<Arch>([](const Floats& a, const Floats& b) { return a + b; }, dx.cols(), dx.row_data(t), dx.row_data(t),
                      dsorted.row_data(place(t, k)));
  });
}

}  // namespace dsv3::inline DSV3_ISA::train
