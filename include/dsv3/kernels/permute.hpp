// Floor 3. Sorting rows into expert segments and bringing their results back.
#pragma once

#include <algorithm>
#include <span>
#include <utility>

#include "dsv3/core/context.hpp"
#include "dsv3/core/error.hpp"
#include "dsv3/core/matrix.hpp"
#include "dsv3/simd/math.hpp"

namespace dsv3::inline DSV3_ISA::kernels {

/// Sorts T * K choices by expert, stably. experts [T, K], each in [0, E). offsets [E + 1]: the choices of expert e get places [offsets[e],
/// offsets[e + 1]). place [T, K]: the place of each choice. Throws: Error if an expert is out of range.
inline void sort_by_expert(ConstMatrixView<int> experts, std::span<Index> offsets, MatrixView<int> place) {
  std::fill(offsets.begin(), offsets.end(), Index{0});
  const auto at = [&](Index t, Index k) { return static_cast<std::size_t>(experts(t, k)); };
  for (Index t = 0; t < experts.rows(); ++t)
    for (Index k = 0; k < experts.cols(); ++k) {
      require(experts(t, k) >= 0 && at(t, k) < offsets.size() - 1, "sort_by_expert: expected experts below ", offsets.size() - 1, ", got ",
              experts(t, k));
      ++offsets[at(t, k)];
    }
  Index before = 0;
  for (Index& o : offsets) before += std::exchange(o, before);
  for (Index t = 0; t < experts.rows(); ++t)
    for (Index k = 0; k < experts.cols(); ++k) place(t, k) = static_cast<int>(offsets[at(t, k)]++);
  // Each offset has moved to the end of its segment, where the next one begins.
  for (std::size_t e = offsets.size() - 1; e > 0; --e) offsets[e] = offsets[e - 1];
  offsets[0] = 0;
}

/// sorted.row(place(t, k)) = x.row(t): x [T, D], sorted [T * K, D].
inline void gather_rows(Context& ctx, ConstMatrixView<float> x, ConstMatrixView<int> place, MatrixView<float> sorted) {
  ctx.parallel_for(place.rows(), sorted.size(), [&](Index t, int) {
    for (Index k = 0; k < place.cols(); ++k) std::copy_n(x.row_data(t), x.cols(), sorted.row_data(place(t, k)));
  });
}

/// y.row(t) += sum over k of weights(t, k) * sorted.row(place(t, k)), in the order of k: sorted [T * K, D], y [T, D].
template <class Arch = simd::DefaultArch>
void combine_rows(Context& ctx, ConstMatrixView<float> sorted, ConstMatrixView<int> place, ConstMatrixView<float> weights,
                  MatrixView<float> y) {
  using Floats = simd::Floats<Arch>;
  ctx.parallel_for(place.rows(), sorted.size(), [&](Index t, int) {
    for (Index k = 0; k < place.cols(); ++k) {
      const Floats gate(weights(t, k));
      simd::map<Arch>([&](const Floats& row, const Floats& sum) { return simd::fma<Arch>(row, gate, sum); }, y.cols(), y.row_data(t),
                      sorted.row_data(place(t, k)), y.row_data(t));
    }
  });
}

}  // namespace dsv3::inline DSV3_ISA::kernels
