// Floor 6. Fill-in-the-middle as a transform of documents (report, section 4.1; spec T37).
#pragma once

#include <span>
#include <vector>

#include "dsv3/train/shuffle.hpp"

namespace dsv3::inline DSV3_ISA::train {

/// The tokens <|fim_begin|>, <|fim_hole|> and <|fim_end|>, by id.
struct FimTokens {
  int begin, hole, end;
};

/// Returns a document as <|fim_begin|> prefix <|fim_hole|> suffix <|fim_end|> middle (PSM) with probability `rate`, else unchanged. (seed,
/// document) determine the choice and the cuts. Documents of fewer than 3 tokens stay unchanged. Apply it before packing and before the
/// end-of-text token is appended.
[[nodiscard]] inline std::vector<int> fill_in_the_middle(std::span<const int> ids, const FimTokens& tokens, double rate, std::uint64_t seed,
                                                         std::uint64_t document) {
  std::vector<int> out(ids.begin(), ids.end());
  std::uint64_t state = hash64(hash64(seed) ^ hash64(document));
  const auto uniform = [&] { return static_cast<double>((state = hash64(state)) >> 11) * 0x1p-53; };
  if (ids.size() < 3 || uniform() >= rate) return out;
  const auto cut = [&] { return static_cast<std::size_t>(uniform() * static_cast<double>(ids.size() + 1)); };
  auto first = cut(), second = cut();
  if (first > second) std::swap(first, second);
  const auto add = [&](std::size_t begin, std::size_t end) {
    out.insert(out.end(), ids.begin() + static_cast<Index>(begin), ids.begin() + static_cast<Index>(end));
  };
  out.clear();
  out.push_back(tokens.begin);
  add(0, first);
  out.push_back(tokens.hole);
  add(second, ids.size());
  out.push_back(tokens.end);
  add(first, second);
  return out;
}

}  // namespace dsv3::inline DSV3_ISA::train
