// Floor 6. FP8 training as the report does it (section 3.3): all three products of a projection have 8-bit operands.
//
// Every choice of the recipe is a type of fp8::Recipe. A variant overrides some:
//   struct Wide : fp8::Recipe { using Gradient = quant::Tiles<codec::E5m2, quant::Shape::along>; };
#pragma once

#include "dsv3/quant/tiles.hpp"
#include "dsv3/train/accumulators.hpp"
#include "dsv3/train/compute.hpp"

namespace dsv3::inline DSV3_ISA::train {

namespace fp8 {

/// What the report does (spec T38-T44).
struct Recipe {
  using Activation = quant::Tiles<codec::E4m3, quant::Shape::along>;
  using Weight = quant::Tiles<codec::E4m3, quant::Shape::block>;
  using Gradient = quant::Tiles<codec::E4m3, quant::Shape::along>;  ///< of activations
  /// Input of the projection after attention: in the forward product, and as kept for the weight gradient.
  using Attended = quant::Tiles<codec::E4m3, quant::Shape::along, ScaleFormat::power_of_two>;
  using AttendedCache = quant::Tiles<codec::E5m6, quant::Shape::along, ScaleFormat::power_of_two>;
  /// true: weight gradients start from the activations as kept, already rounded in forward's tiles, and round them again in their own
  /// tiles. false: they round the original activations.
  static constexpr bool from_cache = true;
  using Accumulator = accumulator::Float32;
};

/// Block-wise gradients of activations. A model of 16B parameters diverged with them (appendix B.2).
struct BlockGradients : Recipe {
  using Gradient = quant::Tiles<codec::E4m3, quant::Shape::block>;
};
/// Gradients in e5m2, as in other FP8 recipes.
struct E5m2Gradients : Recipe {
  using Gradient = quant::Tiles<codec::E5m2, quant::Shape::along>;
};
/// One scale per matrix, from its current largest magnitude; gradients in e5m2.
struct PerTensor : Recipe {
  using Activation = quant::Tiles<codec::E4m3, quant::Shape::whole>;
  using Weight = Activation;
  using Gradient = quant::Tiles<codec::E5m2, quant::Shape::whole>;
  using Attended = Activation;
  using AttendedCache = Activation;
};

/// Whether both are views of the same elements.
inline bool same_view(ConstMatrixView<float> x, ConstMatrixView<float> y) {
  return x.data() == y.data() && x.rows() == y.rows() && x.cols() == y.cols();
}

/// multiply_rounded() of a group whose rounded operands are all in memory at once.
template <class Arch, class A, class B, class Accumulator>
void multiply_batch(Context& ctx, std::span<const MultiplyAdd> group) {
  using quant::RoundJob;
  auto scope = ctx.scratch();
  const auto n = std::ssize(group);
  const auto products = scope.template array<MultiplyAdd>(n);
  const auto a_jobs = scope.template array<RoundJob>(n), b_jobs = scope.template array<RoundJob>(n);
  std::size_t a_count = 0, b_count = 0;
  const auto round_once = [&](std::span<RoundJob> jobs, std::size_t& count, ConstMatrixView<float> x, bool along) -> const RoundJob& {
    if (count > 0 && same_view(jobs[count - 1].x, x) && jobs[count - 1].sum_along == along) return jobs[count - 1];
    const Index depth = along ? x.cols() : x.rows(), other = along ? x.rows() : x.cols();
    std::construct_at(&jobs[count++],
                      RoundJob{x, scope.template matrix<float>(x.rows(), x.cols()),
                               scope.template matrix<float>((depth + quant::tile_size - 1) / quant::tile_size, other), along});
    return jobs[count - 1];
  };
  for (std::size_t i = 0; i < group.size(); ++i) {
    const MultiplyAdd& p = group[i];
    const bool as_it_is = p.a.col == 1;
    const ConstMatrixView<float> left(p.a.data, as_it_is ? p.c.rows() : p.depth(), as_it_is ? p.depth() : p.c.rows(),
                                      as_it_is ? p.a.row : p.a.col);
    const RoundJob &a = round_once(a_jobs, a_count, left, as_it_is), &b = round_once(b_jobs, b_count, p.b, p.transpose_b);
    std::construct_at(&products[i], MultiplyAdd{as_it_is ? as_is(a.values) : transposed(a.values), b.values, p.c, p.overwrite,
                                                p.transpose_b, a.scales, b.scales, A::Format::min_exponent, B::Format::min_exponent});
  }
  quant::round_to_tiles<A, Arch>(ctx, std::span<const RoundJob>(a_jobs.first(a_count)));
  quant::round_to_tiles<B, Arch>(ctx, std::span<const RoundJob>(b_jobs.first(b_count)));
  Accumulator::template grouped<Arch>(ctx, products);
}

/// The products of a group: left operands are rounded to tiles A, right operands to tiles B, and Accumulator sums. An operand shared by
/// consecutive products is rounded once. Works on a few products at a time, so that rounded operands stay in the last-level cache and take
/// little memory.
template <class Arch, class A, class B, class Accumulator>
void multiply_rounded(Context& ctx, std::span<const MultiplyAdd> group) {
  constexpr Index max_elements = Index{8} << 20;  // elements of right operands
  while (!group.empty()) {
    std::size_t count = 0;
    for (Index size = 0; count < group.size() && (count == 0 || size + group[count].b.size() <= max_elements); ++count)
      size += group[count].b.size();
    multiply_batch<Arch, A, B, Accumulator>(ctx, group.first(count));
    group = group.subspan(count);
  }
}

}  // namespace fp8

/// Products by recipe R. Activation: tiles of the activations in forward products; Kept: tiles of the activations as kept for backward.
/// Embedding, head, eh_proj, router, norms and attention keep the precision of Bf16 (spec T39).
template <class R = fp8::Recipe, class Activation = typename R::Activation, class Kept = typename R::Activation>
struct Fp8 : compute::Bf16Activations {
  using Precise = Bf16;
  using AfterAttention = Fp8<R, typename R::Attended, typename R::AttendedCache>;

  /// y = x W^T.
  template <class Arch, WeightView W>
  static void multiply(Context& ctx, std::span<const kernels::Product<W>> group) {
    auto scope = ctx.scratch();
    fp8::multiply_rounded<Arch, Activation, typename R::Weight, typename R::Accumulator>(ctx, forward_products(scope, group));
  }
  /// dx = dy W.
  template <class Arch>
  static void input_gradients(Context& ctx, std::span<const MultiplyAdd> group) {
    fp8::multiply_rounded<Arch, typename R::Gradient, typename R::Weight, typename R::Accumulator>(ctx, group);
  }
  /// dW = dy^T x, both operands in tiles of 128 tokens by one channel.
  template <class Arch>
  static void weight_gradients(Context& ctx, std::span<const MultiplyAdd> group) {
    auto scope = ctx.scratch();
    std::span<const MultiplyAdd> from = group;
    if constexpr (R::from_cache) {
      const auto n = std::ssize(group);
      const auto jobs = scope.array<quant::RoundJob>(n);
      const auto again = scope.array<MultiplyAdd>(n);
      std::size_t count = 0;
      for (std::size_t i = 0; i < group.size(); ++i) {
        const auto& x = group[i].b;
        if (count == 0 || !fp8::same_view(jobs[count - 1].x, x))
          std::construct_at(&jobs[count++], quant::RoundJob{x, scope.matrix<float>(x.rows(), x.cols()), {}, true});
        std::construct_at(&again[i], MultiplyAdd{group[i].a, jobs[count - 1].values, group[i].c, group[i].overwrite});
      }
      quant::round_to_tiles<Kept, Arch>(ctx, std::span<const quant::RoundJob>(jobs.first(count)));
      from = again;
    }
    fp8::multiply_rounded<Arch, typename R::Gradient, Activation, typename R::Accumulator>(ctx, from);
  }
};

/// The bundle P for training in FP8 by recipe R.
template <class P = DeepSeekV3, class R = fp8::Recipe>
struct Fp8Training : P {
  using Compute = Fp8<R>;
};

}  // namespace dsv3::inline DSV3_ISA::train
