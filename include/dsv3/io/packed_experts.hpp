// Floor 6. Packed experts: the layout in which transformers 5 saves all experts of a layer as two tensors of three dimensions.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "dsv3/io/safetensors.hpp"

namespace dsv3::inline DSV3_ISA::io {

namespace detail {

/// Rows [begin, begin + rows) of matrix `e` of a tensor [E, R, C].
inline Tensor matrix_of(const Tensor& packed, Index e, Index begin, Index rows, std::string name) {
  const auto row_bytes = packed.data.size() / static_cast<std::size_t>(packed.shape[0] * packed.shape[1]);
  const auto at = static_cast<std::size_t>(e * packed.shape[1] + begin) * row_bytes;
  Tensor out = packed;
  out.name = std::move(name);
  out.shape = {rows, packed.shape[2]};
  out.data = packed.data.subspan(at, static_cast<std::size_t>(rows) * row_bytes);
  return out;
}

}  // namespace detail

/// Replaces every "...mlp.experts.gate_up_proj" [E, 2 I, D] and "...mlp.experts.down_proj" [E, D, I], and their block scales, by the
/// matrices of the published layout, "...mlp.experts.0.gate_proj.weight" and so on, which are views of the same bytes. In gate_up_proj, the
/// rows of gate_proj come first.
inline void split_packed_experts(std::vector<Tensor>& tensors) {
  constexpr std::string_view scales = "_scale_inv";
  std::vector<Tensor> split;
  const auto is_packed = [&](const Tensor& t) {
    std::string_view name = t.name;
    const bool scaled = name.ends_with(scales);
    if (scaled) name.remove_suffix(scales.size());
    const bool pair = name.ends_with(".mlp.experts.gate_up_proj");
    if (!(pair || name.ends_with(".mlp.experts.down_proj")) || t.shape.size() != 3 || t.elements() == 0 || (pair && t.shape[1] % 2 != 0))
      return false;
    const std::string prefix(name.substr(0, name.rfind('.') + 1)), suffix = ".weight" + std::string(scaled ? scales : "");
    for (Index e = 0; e < t.shape[0]; ++e) {
      const std::string expert = prefix + std::to_string(e) + ".";
      if (!pair) {
        split.push_back(detail::matrix_of(t, e, 0, t.shape[1], expert + "down_proj" + suffix));
        continue;
      }
      split.push_back(detail::matrix_of(t, e, 0, t.shape[1] / 2, expert + "gate_proj" + suffix));
      split.push_back(detail::matrix_of(t, e, t.shape[1] / 2, t.shape[1] / 2, expert + "up_proj" + suffix));
    }
    return true;
  };
  std::erase_if(tensors, is_packed);
  tensors.insert(tensors.end(), split.begin(), split.end());
  std::ranges::sort(tensors, {}, &Tensor::name);
}

}  // namespace dsv3::inline DSV3_ISA::io
