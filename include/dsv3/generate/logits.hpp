// Floor 6. Logit processors: the steps between a model's logits and the choice of a token.
//
// A processor changes the logits of one position, given the text before it. The library's processors are in penalties.hpp, token_mask.hpp
// and truncation.hpp; sampling.hpp sets their order and inserts yours.
#pragma once

#include <functional>
#include <limits>
#include <span>

#include "dsv3/core/config.hpp"

namespace dsv3::inline DSV3_ISA {

/// The text before the token that is to be chosen, as ids: first the prompt, then what was generated.
struct TextSoFar {
  std::span<const int> ids;
  std::size_t prompt_tokens = 0;

  std::span<const int> prompt() const { return ids.first(prompt_tokens); }
  std::span<const int> generated() const { return ids.subspan(prompt_tokens); }
};

/// The logit of a token that must not be chosen.
inline constexpr float excluded = -std::numeric_limits<float>::infinity();

/// processor(text, logits) changes logits [S] in place; every value stays finite or is `excluded`. It is called once per position, and its
/// result must depend only on its arguments: with speculation, texts may end in drafts, which may be taken back or passed again. It may
/// keep state only as a cache of what follows from the ids (such as a parser's state after each token), looked up by comparing ids.
template <class F>
concept LogitProcessor = std::invocable<F&, const TextSoFar&, std::span<float>>;

/// Any processor, chosen at run time. Each sequence has a copy of its own.
using AnyLogitProcessor = std::function<void(const TextSoFar& text, std::span<float> logits)>;

}  // namespace dsv3::inline DSV3_ISA
