// Floor 6. Accumulators for products of 8-bit codes: float32 with scales applied every 128 terms, or an emulation of Hopper's tensor cores.
//
// An accumulator has grouped<Arch>(ctx, group), which computes products of operands given as code values and scales (quant/tiles.hpp).
#pragma once

#include <bit>

#include "dsv3/quant/tiles.hpp"
#include "dsv3/train/multiply_add_bf16.hpp"

namespace dsv3::inline DSV3_ISA::train::accumulator {

/// Exact products, summed in float32 and scaled every 128 terms (section 3.3.2); on bf16 units if the processor has them.
struct Float32 {
  template <class Arch>
  static void grouped(Context& ctx, std::span<const MultiplyAdd> group) {
    grouped_multiply_add_bf16<Arch>(ctx, group);
  }
};

/// The integer type of an accumulator's significand; the accumulator's value is significand * 2^(exponent - Fraction).
template <int Fraction>
using Significand = std::conditional_t<Fraction <= 18, std::int32_t, std::int64_t>;

namespace detail {

inline constexpr int zero_exponent = -1000;  // exponent of zero: too small to become the common exponent
inline constexpr Index terms_at_once = 32;   // products that one instruction sums
inline constexpr Index lanes = 16;           // outputs computed side by side

/// A code of e4m3 or e5m2: value = significand * 2^(exponent - 3). Normal numbers have 8 <= |significand| < 16, subnormals less.
struct Operand {
  std::int32_t significand, exponent;
};
inline Operand operand(float code_value, int min_exponent) {
  if (code_value == 0) return {0, zero_exponent};
  int e;
  std::frexp(code_value, &e);
  e = std::max(e - 1, min_exponent);
  return {static_cast<std::int32_t>(std::ldexp(code_value, 3 - e)), e};
}

/// Accumulators of `lanes` outputs side by side.
template <int Fraction>
struct Registers {
  using Int = Significand<Fraction>;
  std::array<Int, lanes> significand{};
  std::array<std::int32_t, lanes> exponent;

  Registers() { exponent.fill(zero_exponent); }
  float value(std::size_t j) const {
    return significand[j] == 0 ? 0.0f : static_cast<float>(std::ldexp(static_cast<double>(significand[j]), exponent[j] - Fraction));
  }
};

template <class Int>
[[gnu::always_inline]] inline Int shifted_to_zero(Int x, std::int32_t by) {
  const Int size = x < 0 ? -x : x, shifted = size >> std::min<std::int32_t>(by, 8 * sizeof(Int) - 1);
  return x < 0 ? -shifted : shifted;
}

/// Adds `count` <= 32 products of a[k] and b[k][j] to the accumulators, as one instruction does (spec T47): truncates the terms and the
/// accumulator toward zero to `Fraction` bits below the largest exponent, sums them exactly, and truncates the sum again.
template <int Fraction>
void add_products(const Operand* a, const std::int32_t* significands, const std::int32_t* exponents, Index count,
                  Registers<Fraction>& sum) {
  using Int = Significand<Fraction>;
  std::array<std::int32_t, lanes> top = sum.exponent;
  for (Index k = 0; k < count; ++k)
    for (std::size_t j = 0; j < lanes; ++j) top[j] = std::max(top[j], a[k].exponent + exponents[k * lanes + static_cast<Index>(j)]);
  std::array<Int, lanes> total;
  for (std::size_t j = 0; j < lanes; ++j) total[j] = shifted_to_zero(sum.significand[j], top[j] - sum.exponent[j]);
  for (Index k = 0; k < count; ++k)
    for (std::size_t j = 0; j < lanes; ++j) {
      const Index at = k * lanes + static_cast<Index>(j);
      const Int product = static_cast<Int>(a[k].significand * significands[at]) * (Int{1} << (Fraction - 6));
      total[j] += shifted_to_zero(product, top[j] - a[k].exponent - exponents[at]);
    }
  for (std::size_t j = 0; j < lanes; ++j) {
    const auto size = static_cast<std::make_unsigned_t<Int>>(total[j] < 0 ? -total[j] : total[j]);
    const int drop = static_cast<int>(std::bit_width(size)) - 1 - Fraction;
    sum.significand[j] = drop > 0 ? shifted_to_zero(total[j], drop) : total[j] * (Int{1} << (total[j] == 0 ? 0 : -drop));
    sum.exponent[j] = total[j] == 0 ? zero_exponent : top[j] + drop;
  }
}

}  // namespace detail

/// Hopper's FP8 products, emulated bit for bit (spec T47): the accumulator has `Fraction` fraction bits; every `Promote` terms its value
/// times both scales is added to a float32 sum, and the accumulator restarts at 0. Promote = 0: only at the end, so the operands' scales
/// must be constant along the sum. For e4m3 and e5m2. Written for clarity, only as fast as experiments need. Throws: Error if scales differ
/// along a sum without promotion.
template <int Fraction = 13, Index Promote = quant::tile_size>
struct TensorCore {
  static_assert(Fraction >= 6 && Promote % detail::terms_at_once == 0 &&
                (Promote == 0 || quant::tile_size % Promote == 0 || Promote % quant::tile_size == 0));

  template <class Arch>
  static void grouped(Context& ctx, std::span<const MultiplyAdd> group) {
    for (const MultiplyAdd& p : group) multiply(ctx, p);
  }

 private:
  static void multiply(Context& ctx, const MultiplyAdd& p) {
    using namespace detail;
    const Index rows = p.c.rows(), depth = p.depth(), columns = p.columns(), blocks = (columns + lanes - 1) / lanes;
    if constexpr (Promote == 0 || Promote > quant::tile_size)
      for (const auto* s : {&p.a_scales, &p.b_scales})
        for (Index b = 1; b < s->rows(); ++b)
          require(
              (s->row(b).array() == s->row(0).array()).all(),
              "TensorCore: without promotion each 128 terms the scales must be the same along the whole sum: round to quant::Shape::whole");
    auto scope = ctx.scratch();
    auto significands = scope.template matrix<std::int32_t>(blocks, depth * lanes),
         exponents = scope.template matrix<std::int32_t>(blocks, depth * lanes);
    ctx.parallel_for(blocks, depth * columns * 16, [&](Index block, int) {
      for (Index k = 0; k < depth; ++k)
        for (Index j = 0; j < lanes; ++j) {
          const Index n = block * lanes + j;
          const Operand o = n < columns ? operand(p.transpose_b ? p.b(n, k) : p.b(k, n), p.b_min_exponent) : Operand{0, zero_exponent};
          significands(block, k * lanes + j) = o.significand, exponents(block, k * lanes + j) = o.exponent;
        }
    });
    const auto all_a = scope.template array<Operand>(ctx.workers() * depth);
    ctx.parallel_for(rows, rows * columns * depth * 8, [&](Index m, int worker) {
      Operand* a = all_a.data() + worker * depth;
      for (Index k = 0; k < depth; ++k) a[k] = operand(p.a.data[m * p.a.row + k * p.a.col], p.a_min_exponent);
      for (Index block = 0; block < blocks; ++block) {
        const Index count = std::min(lanes, columns - block * lanes);
        float* c = p.c.row_data(m) + block * lanes;
        std::array<float, lanes> sum{};
        Registers<Fraction> registers;
        for (Index k = 0; k < depth; k += terms_at_once) {
          const Index end = std::min(k + terms_at_once, depth);
          add_products<Fraction>(a + k, significands.row_data(block) + k * lanes, exponents.row_data(block) + k * lanes, end - k,
                                 registers);
          if (end == depth || (Promote > 0 && end % std::max<Index>(Promote, 1) == 0)) {
            for (Index j = 0; j < count; ++j) {
              const float scale =
                  p.scaled() ? p.a_scales(k / quant::tile_size, m) * p.b_scales(k / quant::tile_size, block * lanes + j) : 1.0f;
              float& s = sum[static_cast<std::size_t>(j)];
              s = std::fma(registers.value(static_cast<std::size_t>(j)), scale, s);
            }
            registers = {};
          }
        }
        for (Index j = 0; j < count; ++j) c[j] = p.overwrite ? sum[static_cast<std::size_t>(j)] : c[j] + sum[static_cast<std::size_t>(j)];
      }
    });
  }
};

}  // namespace dsv3::inline DSV3_ISA::train::accumulator
