// Floor 6. Compute policies for training: how a model in training forms its products.
#pragma once

#include "dsv3/model/policy.hpp"
#include "dsv3/train/linear_backward.hpp"
#include "dsv3/train/multiply_add_bf16.hpp"

namespace dsv3::inline DSV3_ISA::train {

/// Forward products y = x W^T, with float32 weights, as MultiplyAdd jobs.
template <WeightView W>
std::span<const MultiplyAdd> forward_products(Workspace::Scope& scope, std::span<const kernels::Product<W>> group) {
  const auto products = scope.template array<MultiplyAdd>(std::ssize(group));
  for (std::size_t i = 0; i < group.size(); ++i)
    std::construct_at(&products[i], MultiplyAdd{as_is(group[i].x), master(group[i].w), group[i].y, true, true});
  return products;
}

/// Float32 products of many rows: each element is summed over k in order (train/multiply_add.hpp). Faster for many rows than
/// compute::Exact, whose bits equal those of decoding. Here too a row's result depends on that row alone.
struct Float32 : compute::Exact {
  template <class Arch, WeightView W>
  static void multiply(Context& ctx, std::span<const kernels::Product<W>> group) {
    auto scope = ctx.scratch();
    grouped_multiply_add<Arch>(ctx, forward_products(scope, group));
  }
};

/// Forward and backward products with operands rounded to bf16; sums and master weights are float32 (train/multiply_add_bf16.hpp). Forward
/// latent attention runs in bf16 tiles. Router, norms and the backward of attention stay in float32. A row's result depends on that row
/// alone; a weight's gradient depends on how a batch is cut into micro-batches, because rows are summed in pairs.
struct Bf16 : compute::Bf16Activations {
  template <class Arch, WeightView W>
  static void multiply(Context& ctx, std::span<const kernels::Product<W>> group) {
    auto scope = ctx.scratch();
    grouped_multiply_add_bf16<Arch>(ctx, forward_products(scope, group));
  }
  template <class Arch>
  static void multiply_add(Context& ctx, std::span<const MultiplyAdd> group) {
    grouped_multiply_add_bf16<Arch>(ctx, group);
  }
};

/// The bundle P for training in float32: the same parts and weights, products by Float32.
template <class P = DeepSeekV3>
struct Training : P {
  using Compute = Float32;
};

/// The same in bf16.
template <class P = DeepSeekV3>
struct FastTraining : P {
  using Compute = Bf16;
};

}  // namespace dsv3::inline DSV3_ISA::train
