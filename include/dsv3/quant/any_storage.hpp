// Floor 2. AnyStorage: each tensor stays in memory as its checkpoint stores it, in a storage that is chosen at run time.
#pragma once

#include <utility>
#include <variant>

#include "dsv3/quant/storage.hpp"

namespace dsv3::inline DSV3_ISA {

/// One of several storages, chosen for each tensor at run time.
template <class... S>
struct OneOf {
  using View = std::variant<typename S::View...>;
};

/// Every storage of the published checkpoints.
using AnyStorage = OneOf<F32, Bf16, F16, Fp8Block<128, 128>>;

namespace detail {
template <class W>
inline constexpr bool is_weight_view = ElementView<W>;
template <class... W>
inline constexpr bool is_weight_view<std::variant<W...>> = (ElementView<W> && ...);
}  // namespace detail

/// A view of a stored weight matrix: an ElementView, or a variant of several.
template <class W>
concept WeightView = detail::is_weight_view<W>;

/// What a policy bundle may name as its Storage.
template <class S>
concept Storage = WeightView<typename S::View>;

/// Calls f(view) with the ElementView that `w` is or holds.
template <WeightView W, class F>
[[gnu::always_inline]] inline decltype(auto) visit_weight(const W& w, F&& f) {
  if constexpr (ElementView<W>)
    return std::forward<F>(f)(w);
  else
    return std::visit(std::forward<F>(f), w);
}

template <WeightView W>
Index weight_rows(const W& w) {
  return visit_weight(w, [](const auto& v) { return v.rows; });
}
template <WeightView W>
Index weight_cols(const W& w) {
  return visit_weight(w, [](const auto& v) { return v.cols; });
}

/// Rows [begin, begin + count) of w.
template <WeightView W>
W slice_rows(const W& w, Index begin, Index count) {
  return visit_weight(w, [&](const auto& v) { return W(v.slice(begin, count)); });
}

/// Whether w holds e4m3 codes with scales: the report multiplies such weights by fp8 activations.
template <WeightView W>
bool is_fp8(const W& w) {
  return visit_weight(w,
                      []<class V>(const V&) { return V::Storage::scaled && std::is_same_v<codec_of<typename V::Storage>, codec::E4m3>; });
}

}  // namespace dsv3::inline DSV3_ISA
