// Floor 6. Random numbers that are a function of (seed, token, purpose), without a state.
//
// So a sequence's draws do not depend on what else is computed or on how often a position is computed again.
#pragma once

#include <cstdint>

#include "dsv3/core/config.hpp"

namespace dsv3::inline DSV3_ISA::sampling {

/// What a draw is for; draws for different purposes are independent.
enum class Draw : std::uint64_t { choice, draft, acceptance };

/// The finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): a bijection whose every
/// output bit depends on every input bit.
inline std::uint64_t hash64(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// Uniform in [0, 1), 53 bits, for the `token`-th generated token of a sequence.
inline double uniform(std::uint64_t seed, Index token, Draw purpose) {
  constexpr std::uint64_t golden = 0x9e3779b97f4a7c15u;
  const std::uint64_t key = hash64(hash64(seed + golden) + golden * (static_cast<std::uint64_t>(purpose) + 1));
  return static_cast<double>(hash64(key + golden * (static_cast<std::uint64_t>(token) + 1)) >> 11) * 0x1p-53;
}

}  // namespace dsv3::inline DSV3_ISA::sampling
