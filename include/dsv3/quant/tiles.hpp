// Floor 2. Rounding a matrix to a small float format with one scale per tile, as FP8 training does. A tile is 128 terms of a sum (1x128 or
// 128x1, as the matrix lies), 128x128, or the whole matrix.
//
// The results are the values of the codes as floats, without their scales: products are summed in blocks of 128 before they are scaled.
// quant/block_scale.hpp packs codes for storage.
#pragma once

#include <span>

#include "dsv3/core/context.hpp"
#include "dsv3/quant/block_scale.hpp"
#include "dsv3/quant/e5m6.hpp"
#include "dsv3/quant/float8.hpp"

namespace dsv3::inline DSV3_ISA {

/// A small float format as rounded_to() needs it: its `largest` finite value, `mantissa_bits`, and `min_exponent`, the exponent of the
/// smallest normal number.
template <class C>
concept SmallFloat = Codec<C> && requires {
  { C::largest } -> std::convertible_to<float>;
  { C::mantissa_bits } -> std::convertible_to<int>;
  { C::min_exponent } -> std::convertible_to<int>;
};

namespace quant {

/// Terms of a sum that share a scale; also rows and columns of a block of weights.
inline constexpr Index tile_size = 128;

enum class Shape {
  along,   ///< 1x128: 128 adjacent elements of a row
  across,  ///< 128x1: 128 elements of a column; only as Transposed<> of `along`, for sums over rows
  block,   ///< 128x128
  whole    ///< the whole matrix
};

/// How one kind of operand is rounded (spec T38-T42). scale = max(amax, 1e-4) / largest, which F may round up to a power of two.
template <SmallFloat C, Shape S, ScaleFormat F = ScaleFormat::float32>
struct Tiles {
  using Format = C;
  static constexpr Shape shape = S;
  static constexpr ScaleFormat scales = F;
};

/// The same tiles of the transposed matrix.
template <class T>
using Transposed = Tiles<typename T::Format,
                         T::shape == Shape::along    ? Shape::across
                         : T::shape == Shape::across ? Shape::along
                                                     : T::shape,
                         T::scales>;

/// C::decode(C::encode(v)), bit for bit.
template <SmallFloat C, class Arch>
[[gnu::always_inline]] inline simd::Floats<Arch> rounded_to(const simd::Floats<Arch>& v) {
  using Floats = simd::Floats<Arch>;
  using Ints = simd::Ints<Arch>;
  constexpr int cut = 23 - C::mantissa_bits;
  constexpr float smallest_normal = std::bit_cast<float>(static_cast<std::uint32_t>(127 + C::min_exponent) << 23);
  // Floats of this size are spaced by the smallest subnormal of C: adding it rounds to a multiple of that.
  constexpr float aligner = std::bit_cast<float>(static_cast<std::uint32_t>(127 + C::min_exponent + cut) << 23);
  const Ints bits = simd::as_int<Arch>(v), magnitude_bits = bits & Ints(0x7fffffff);
  const Floats magnitude = simd::as_float<Arch>(magnitude_bits);
  const Ints even = (magnitude_bits >> cut) & Ints(1);
  const Floats normal = simd::as_float<Arch>((magnitude_bits + Ints((1 << (cut - 1)) - 1) + even) & Ints(static_cast<int>(~0u << cut)));
  const Floats subnormal = (magnitude + Floats(aligner)) - Floats(aligner);
  Floats value = xsimd::select(magnitude < Floats(smallest_normal), subnormal, normal);
  value = xsimd::select(magnitude >= Floats(C::largest), Floats(C::largest), value);
  value = xsimd::select(magnitude == magnitude, value, magnitude);
  return simd::as_float<Arch>(simd::as_int<Arch>(value) | (bits & Ints(static_cast<int>(0x80000000u))));
}

/// The scale of a tile whose largest magnitude is `amax`.
template <class T>
float scale_of(float amax) {
  return dsv3::detail::round_scale(std::max(amax, 1e-4f) / T::Format::largest, T::scales);
}

/// Rounds x [rows, cols] to `values` of codes [rows, cols], which may be x, and `scales`. Products sum either over the columns of x
/// (`sum_along`): scales are [ceil(cols / 128), rows], one for each block of 128 columns and each row. Or they sum over its rows: scales
/// are [ceil(rows / 128), cols]. If `scales` is empty, values are multiplied by their scales.
struct RoundJob {
  ConstMatrixView<float> x;
  MatrixView<float> values, scales;
  bool sum_along = true;
};

namespace detail {

/// Rounds the block of at most 128x128 elements from [i, j] on. T's shape is that of tiles as they lie in x; for Shape::whole, `whole` is
/// the largest magnitude of x.
template <class T, class Arch>
void round_block(const RoundJob& job, Index i, Index j, float whole) {
  using Floats = simd::Floats<Arch>;
  constexpr Index width = simd::width<Arch>;
  const Index rows = std::min(tile_size, job.x.rows() - i), cols = std::min(tile_size, job.x.cols() - j), full = cols / width * width;
  const auto at = [&](Index r) { return job.x.row_data(i + r) + j; };
  // The larger of |v| and `most`, which NaN leaves as it is: xsimd::max does so on some machines only.
  const auto larger = [](const Floats& v, const Floats& most) {
    const Floats magnitude = xsimd::abs(v);
    return xsimd::select(magnitude > most, magnitude, most);
  };
  alignas(64) std::array<float, tile_size> amax{};  // of rows, or of columns
  if constexpr (T::shape == Shape::whole) {
    amax.fill(whole);
  } else if constexpr (T::shape == Shape::across) {
    for (Index r = 0; r < rows; ++r) {
      Index k = 0;
      for (; k < full; k += width) {
        float* to = amax.data() + k;
        larger(simd::load<Arch>(at(r) + k), simd::load<Arch>(to)).store_unaligned(to);
      }
      for (; k < cols; ++k) amax[static_cast<std::size_t>(k)] = std::max(amax[static_cast<std::size_t>(k)], std::abs(at(r)[k]));
    }
  } else {
    for (Index r = 0; r < rows; ++r) {
      Floats most(0.0f);
      Index k = 0;
      for (; k < full; k += width) most = larger(simd::load<Arch>(at(r) + k), most);
      float largest = simd::max<Arch>(most);
      for (; k < cols; ++k) largest = std::max(largest, std::abs(at(r)[k]));
      amax[static_cast<std::size_t>(r)] = largest;
    }
    if constexpr (T::shape == Shape::block) amax.fill(*std::max_element(amax.begin(), amax.begin() + rows));
  }
  alignas(64) std::array<float, tile_size> scale;
  for (std::size_t k = 0; k < scale.size(); ++k) scale[k] = scale_of<T>(amax[k]);
  constexpr bool by_column = T::shape == Shape::across;
  const bool keep = job.scales.size() > 0;
  if (keep) {
    const Index block = (job.sum_along ? j : i) / tile_size, first = job.sum_along ? i : j, count = job.sum_along ? rows : cols;
    std::copy_n(scale.data(), count, job.scales.row_data(block) + first);
  }
  for (Index r = 0; r < rows; ++r) {
    float* to = job.values.row_data(i + r) + j;
    const Floats s(scale[static_cast<std::size_t>(r)]);
    Index k = 0;
    for (; k < full; k += width) {
      const Floats by = by_column ? simd::load<Arch>(scale.data() + k) : s;
      Floats v = rounded_to<typename T::Format, Arch>(simd::divide<Arch>(simd::load<Arch>(at(r) + k), by));
      if (!keep) v = v * by;
      v.store_unaligned(to + k);
    }
    for (; k < cols; ++k) {
      const float by = scale[static_cast<std::size_t>(by_column ? k : r)];
      const float v = T::Format::decode(T::Format::encode(at(r)[k] / by));
      to[k] = keep ? v : v * by;
    }
  }
}

}  // namespace detail

/// Rounds every job of the group in one parallel loop; Shape::whole takes another before it, for the largest magnitudes. T's shape is that
/// for sums over the columns of x; for sums over its rows it is transposed.
template <class T, class Arch>
void round_to_tiles(Context& ctx, std::span<const RoundJob> group) {
  static_assert(
      T::shape != Shape::across,
      "dsv3: tiles of Shape::across give each term of a sum a scale of its own, so that no sum can be scaled: use Shape::along, with "
      "sum_along = false for sums over rows");
  struct Task {
    std::size_t job;
    Index row;
  };
  const auto bands = [](const RoundJob& job) { return (job.x.rows() + tile_size - 1) / tile_size; };
  Index tasks = 0, work = 0;
  for (const RoundJob& job : group) tasks += bands(job), work += job.x.size() * 12;
  auto scope = ctx.scratch();
  const auto list = scope.template array<Task>(tasks);
  const auto whole = scope.template array<float>(tasks);
  for (std::size_t i = 0, n = 0; i < group.size(); ++i)
    for (Index b = 0; b < bands(group[i]); ++b) list[n++] = {i, b * tile_size};
  if constexpr (T::shape == Shape::whole) {
    ctx.parallel_for(tasks, work, [&](Index n, int) {
      const auto& [i, row] = list[static_cast<std::size_t>(n)];
      const auto x = group[i].x.slice(row, std::min(tile_size, group[i].x.rows() - row));
      whole[static_cast<std::size_t>(n)] = x.size() > 0 ? x.cwiseAbs().maxCoeff() : 0.0f;
    });
    for (std::size_t n = 1; n < whole.size(); ++n)  // every band of a job gets the largest magnitude of all
      if (list[n].job == list[n - 1].job) whole[n] = std::max(whole[n], whole[n - 1]);
    for (std::size_t n = whole.size(); n-- > 1;)
      if (list[n].job == list[n - 1].job) whole[n - 1] = whole[n];
  }
  ctx.parallel_for(tasks, work, [&](Index n, int) {
    const auto& [i, row] = list[static_cast<std::size_t>(n)];
    const RoundJob& job = group[i];
    const float largest = T::shape == Shape::whole ? whole[static_cast<std::size_t>(n)] : 0.0f;
    for (Index j = 0; j < job.x.cols(); j += tile_size)
      job.sum_along ? detail::round_block<T, Arch>(job, row, j, largest) : detail::round_block<Transposed<T>, Arch>(job, row, j, largest);
  });
}

}  // namespace quant
}  // namespace dsv3::inline DSV3_ISA
