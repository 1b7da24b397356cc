// Floor 6. AdamW, and the norm that gradients are clipped to.
#pragma once

#include <cmath>
#include <concepts>
#include <vector>

#include "dsv3/quant/codec.hpp"
#include "dsv3/train/parameters.hpp"

namespace dsv3::inline DSV3_ISA::train {

/// Which parameters decay (spec T30): all, as PyTorch and torchtitan do; or matrices only, as Megatron and llm.c do.
enum class Decay { all, matrices_only };

/// The report's values (section 4.2), except eps, which it does not give.
struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1;
  Decay decay = Decay::all;
};

namespace detail {
/// Calls f(piece, parameter, begin, count) in parallel for numbered pieces of every learned parameter. Pieces do not depend on the number
/// of threads.
template <class F>
void for_each_piece(Context& ctx, const std::vector<Parameter>& list, Index operations, F&& f) {
  constexpr Index piece = 1 << 14;
  struct Piece {
    const Parameter* parameter;
    Index begin, count;
  };
  Index pieces = 0, work = 0;
  const auto cut = [&](auto&& emit) {
    for (const Parameter& p : list)
      if (p.kind != Kind::buffer)
        for (Index begin = 0; begin < p.size(); begin += piece) emit(Piece{&p, begin, std::min(piece, p.size() - begin)});
  };
  cut([&](const Piece& p) { ++pieces, work += p.count * operations; });
  auto scope = ctx.scratch();
  const auto all = scope.template array<Piece>(pieces);
  auto next = all.begin();
  cut([&](const Piece& p) { *next++ = p; });
  ctx.parallel_for(pieces, work, [&](Index i, int) {
    const Piece& p = all[static_cast<std::size_t>(i)];
    f(i, *p.parameter, p.begin, p.count);
  });
}
}  // namespace detail

/// The L2 norm of all gradients; a shared matrix counts once. Summed in a fixed order.
template <class P>
[[nodiscard]] double gradient_norm(Context& ctx, const Gradients<P>& gradients) {
  using Arch = typename P::Arch;
  using Floats = simd::Floats<Arch>;
  constexpr Index run = 1 << 12;  // elements summed in float32
  std::vector<double> sums(static_cast<std::size_t>(gradients.parameters().size() / run) + gradients.parameters().list().size());
  detail::for_each_piece(ctx, gradients.parameters().list(), 2, [&](Index i, const Parameter& p, Index begin, Index count) {
    const float* g = gradients.values().data() + p.offset + begin;
    double sum = 0;
    for (Index k = 0; k < count; k += run)
      sum += static_cast<double>(simd::map_sum<Arch>([](const Floats& v, const Floats& total) { return simd::fma<Arch>(v, v, total); },
                                                     std::min(run, count - k), g + k));
    sums[static_cast<std::size_t>(i)] = sum;
  });
  double total = 0;
  for (const double s : sums) total += s;
  return std::sqrt(total);
}

/// The factor that brings gradients of this norm to at most `limit` (spec T31).
[[nodiscard]] inline double clip_factor(double norm, double limit) { return std::min(1.0, limit / (norm + 1e-6)); }

/// Adam with decoupled weight decay, in PyTorch's order (spec T29): p *= 1 - lr wd; m, v; p -= lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 -
/// b2^t) + eps). Moments are stored in codec C, float32 or bf16. Bf16 moments are updated in float32, used in the step before rounding, and
/// rounded to nearest even when stored (spec T34).
template <class P, Codec C = codec::Float32>
class AdamW {
 public:
  using Moments = std::vector<typename C::Code>;

  AdamW(const Parameters<P>& parameters, const AdamWOptions& options)
      : options_(options), m_(static_cast<std::size_t>(parameters.size())), v_(m_.size()) {}

  /// One step with gradients times `factor`. Buffers, such as the router's bias, stay as they are.
  void step(Context& ctx, Parameters<P>& parameters, const Gradients<P>& gradients, double learning_rate, double factor = 1) {
    using Arch = typename P::Arch;
    using Floats = simd::Floats<Arch>;
    constexpr Index width = simd::width<Arch>;
    static_assert(Parameters<P>::padding % width == 0);
    ++steps_;
    const double t = static_cast<double>(steps_);
    const auto number = [](double x) { return Floats(static_cast<float>(x)); };
    const Floats first = number(1 - options_.beta1), second = number(1 - options_.beta2), keep = number(options_.beta2),
                 size = number(-learning_rate / (1 - std::pow(options_.beta1, t))),
                 root = number(std::sqrt(1 - std::pow(options_.beta2, t))), eps = number(options_.eps), scale = number(factor),
                 one = number(1), decayed = number(1 - learning_rate * options_.weight_decay);
    detail::for_each_piece(ctx, parameters.list(), 16, [&](Index, const Parameter& p, Index begin, Index count) {
      const Index at = p.offset + begin;
      float* w = parameters.values().data() + at;
      const float* g = gradients.values().data() + at;
      auto *m = m_.data() + at, *v = v_.data() + at;
      const Floats shrink = options_.decay == Decay::all || p.kind == Kind::matrix ? decayed : one;
      // Whole vectors: what pads a parameter is zero in all arenas, and stays so.
      for (Index i = 0; i < count; i += width) {
        alignas(64) std::array<float, static_cast<std::size_t>(width)> next_m, next_v;
        for (Index k = 0; k < width; ++k) {
          next_m[static_cast<std::size_t>(k)] = C::decode(m[i + k]);
          next_v[static_cast<std::size_t>(k)] = C::decode(v[i + k]);
        }
        const Floats gradient = simd::load<Arch>(g + i) * scale, m0 = simd::load<Arch>(next_m.data()), v0 = simd::load<Arch>(next_v.data());
        const Floats m1 = simd::fma<Arch>(gradient - m0, first, m0), v1 = simd::fma<Arch>(gradient * gradient, second, v0 * keep);
        const Floats step = simd::divide<Arch>(m1, simd::divide<Arch>(simd::sqrt<Arch>(v1), root) + eps);
        simd::fma<Arch>(step, size, simd::load<Arch>(w + i) * shrink).store_unaligned(w + i);
        m1.store_unaligned(next_m.data());
        v1.store_unaligned(next_v.data());
        for (Index k = 0; k < width; ++k) {
          m[i + k] = C::encode(next_m[static_cast<std::size_t>(k)]);
          v[i + k] = C::encode(next_v[static_cast<std::size_t>(k)]);
        }
      }
    });
    parameters.refresh();
  }

  /// The moments, and how many steps they have seen: the optimizer's state.
  Index steps() const { return steps_; }
  const Moments& m() const { return m_; }
  const Moments& v() const { return v_; }
  void restore(Index steps, Moments m, Moments v) {
    require(m.size() == m_.size() && v.size() == v_.size(), "AdamW: expected moments of ", m_.size(), " elements, got ", m.size(), " and ",
            v.size());
    steps_ = steps;
    m_ = std::move(m);
    v_ = std::move(v);
  }

 private:
  AdamWOptions options_;
  Index steps_ = 0;
  Moments m_, v_;
};

/// average += (1 - decay) (weights - average): the exponential moving average of the parameters (spec T35).
template <class P>
void update_average(Context& ctx, const Parameters<P>& parameters, double decay, Arena& average) {
  using Floats = simd::Floats<typename P::Arch>;
  const Floats rate(static_cast<float>(1 - decay));
  detail::for_each_piece(ctx, parameters.list(), 2, [&](Index, const Parameter& p, Index begin, Index count) {
    float* a = average.data() + p.offset + begin;
    simd::map<typename P::Arch>([&](const Floats& w, const Floats& old) { return simd::fma<typename P::Arch>(w - old, rate, old); }, count,
                                a, parameters.values().data() + p.offset + begin, a);
  });
}

}  // namespace dsv3::inline DSV3_ISA::train
