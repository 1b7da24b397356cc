// Floor 3. Variants of attention: which keys a row sees, how scores are transformed, and sinks.
//
// A variant is an object with any of these functions. One that it lacks costs nothing: attention compiles to the same instructions.
//   Index first_key(Index limit) const    the first of the keys before `limit` that a row sees: a window, a chunk
//   V transform(const V& score) const     applied to scaled scores, a vector of floats: a soft cap
//   float sink(Index head) const          a logit that joins the head's softmax and has no value
// The source decides which keys there are: kernels/chosen_keys.hpp selects some keys of another source.
#pragma once

#include <algorithm>
#include <concepts>

#include "dsv3/simd/batch.hpp"

namespace dsv3::inline DSV3_ISA::attention {

/// Every row sees all keys up to its own.
struct Full {};

template <class V>
inline constexpr bool has_first_key = requires(const V& variant, Index limit) {
  { variant.first_key(limit) } -> std::same_as<Index>;
};
template <class V>
inline constexpr bool has_transform = requires(const V& variant, const simd::Floats<simd::DefaultArch>& score) {
  { variant.transform(score) } -> std::same_as<simd::Floats<simd::DefaultArch>>;
};
template <class V>
inline constexpr bool has_sink = requires(const V& variant, Index head) {
  { variant.sink(head) } -> std::same_as<float>;
};

/// Anything movable. If it has first_key() or sink(), they must have the types above.
template <class V>
concept Variant = std::movable<V> &&(has_first_key<V> || !requires { &V::first_key; }) && (has_sink<V> || !requires { &V::sink; });

/// The first key that a row sees of keys [0, limit). Clamped, so that every row sees key limit - 1.
template <Variant V>
Index first_key([[maybe_unused]] const V& variant, [[maybe_unused]] Index limit) {
  if constexpr (has_first_key<V>)
    return std::clamp(variant.first_key(limit), Index{0}, limit - 1);
  else
    return 0;
}

}  // namespace dsv3::inline DSV3_ISA::attention
