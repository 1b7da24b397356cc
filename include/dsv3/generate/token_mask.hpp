// Floor 6. Token masks: constraints that say which tokens may come next, such as a grammar.
//
// Grammars are in grammar_mask.hpp.
#pragma once

#include <cstdint>
#include <vector>

#include "dsv3/generate/logits.hpp"

namespace dsv3::inline DSV3_ISA {

/// mask(text, allowed) sets allowed [S], all 1 before the call, to 0 for every token that must not follow the text. The rules about state
/// are those of LogitProcessor. A text that may end must have one of its stop tokens allowed; if nothing is allowed, the sequence
/// ends with an error.
template <class F>
concept TokenMask = std::invocable<F&, const TextSoFar&, std::span<std::uint8_t>>;

/// Any mask, chosen at run time.
using AnyTokenMask = std::function<void(const TextSoFar& text, std::span<std::uint8_t> allowed)>;

namespace sampling {

/// The logit processor that excludes what a mask does not allow.
template <TokenMask M = AnyTokenMask>
class Masked {
 public:
  explicit Masked(M mask) : mask_(std::move(mask)) {}

  void operator()(const TextSoFar& text, std::span<float> logits) {
    allowed_.assign(logits.size(), 1);
    mask_(text, allowed_);
    for (std::size_t i = 0; i < logits.size(); ++i)
      if (!allowed_[i]) logits[i] = excluded;
  }

 private:
  M mask_;
  std::vector<std::uint8_t> allowed_;
};

}  // namespace sampling
}  // namespace dsv3::inline DSV3_ISA
