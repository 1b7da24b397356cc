// Floor 6. C += A B with A and B rounded to bf16, sums in float32, on processors with AMX or AVX512-BF16; elsewhere in float32.
//
// Every element of C is summed in an order that its depth alone decides, which differs between engines. So bits depend on the engine, but
// neither on threads, nor on how C is cut, nor on how operands lie in memory.
#pragma once

#include "dsv3/train/multiply_add_amx.hpp"
#include "dsv3/train/multiply_add_float32.hpp"
#include "dsv3/train/multiply_add_pairs.hpp"

namespace dsv3::inline DSV3_ISA::train {

/// Every product of the group with operands rounded to bf16, in one parallel loop. Codes of 8-bit floats are exact in bf16.
template <class Arch = simd::DefaultArch>
void grouped_multiply_add_bf16(Context& ctx, std::span<const MultiplyAdd> group) {
  if constexpr (!kernels::has_bf16_tiles<Arch>) {
    grouped_multiply_add<Arch>(ctx, group);
  } else {
#ifdef DSV3_HAS_BF16_TILES
#ifdef DSV3_HAS_AMX
    if (amx::available()) return detail::grouped_multiply_add_by<detail::TileEngine>(ctx, group);
#endif
    detail::grouped_multiply_add_by<detail::PairEngine>(ctx, group);
#endif
  }
}

}  // namespace dsv3::inline DSV3_ISA::train
