// Floor 6. The order of training samples, as a function: sample number N of a run is found without replaying the earlier ones.
#pragma once

#include <bit>
#include <cstdint>

#include "dsv3/core/config.hpp"
#include "dsv3/core/error.hpp"

namespace dsv3::inline DSV3_ISA::train {

/// Hashes a 64-bit number (SplitMix64's finalizer).
constexpr std::uint64_t hash64(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// A permutation of [0, size) given by (seed, epoch): a Feistel network on the next power of four, repeated until the result is below
/// `size`.
class Shuffle {
 public:
  /// Throws: Error if `size` is below 1.
  Shuffle(Index size, std::uint64_t seed, std::uint64_t epoch)
      : size_(static_cast<std::uint64_t>(size)), key_(hash64(hash64(seed) ^ epoch)) {
    require(size >= 1, "Shuffle: expected at least one sample, got ", size);
    half_ = (static_cast<int>(std::bit_width(size_ - 1)) + 1) / 2;
  }

  Index operator()(Index i) const {
    auto x = static_cast<std::uint64_t>(i);
    do x = permuted(x);
    while (x >= size_);
    return static_cast<Index>(x);
  }

 private:
  std::uint64_t permuted(std::uint64_t x) const {
    if (half_ == 0) return x;
    const std::uint64_t mask = (std::uint64_t{1} << half_) - 1;
    std::uint64_t left = x >> half_, right = x & mask;
    for (std::uint64_t round = 0; round < 6; ++round) {
      const std::uint64_t next = left ^ (hash64(key_ ^ (round << 56) ^ right) & mask);
      left = right;
      right = next;
    }
    return left << half_ | right;
  }

  std::uint64_t size_, key_;
  int half_ = 0;  // bits of each half
};

}  // namespace dsv3::inline DSV3_ISA::train
