// The options that say how tokens are chosen, for programs that write text.
#pragma once

#include <set>
#include <string_view>

#include "cli.hpp"
#include "dsv3/generate/sampling.hpp"

namespace cli::inline DSV3_ISA {

/// `others` and the options that read_sampling() reads.
inline std::set<std::string_view> with_sampling(std::set<std::string_view> others) {
  others.insert(
      {"--temperature", "--top-k", "--top-p", "--min-p", "--repetition-penalty", "--presence-penalty", "--frequency-penalty", "--seed"});
  return others;
}

/// `defaults` with what is given in their place.
inline dsv3::SamplingOptions read_sampling(const Args& args, dsv3::SamplingOptions defaults) {
  dsv3::SamplingOptions s = std::move(defaults);
  s.temperature = args.number("--temperature", s.temperature, 0.0, 1e6);
  s.top_k = args.number<dsv3::Index>("--top-k", s.top_k, 0, 1 << 24);
  s.top_p = args.number("--top-p", s.top_p, 0.0, 1.0);
  s.min_p = args.number("--min-p", s.min_p, 0.0, 1.0);
  s.repetition_penalty = args.number("--repetition-penalty", s.repetition_penalty, 1e-3, 1e3);
  s.presence_penalty = args.number("--presence-penalty", s.presence_penalty, -100.0, 100.0);
  s.frequency_penalty = args.number("--frequency-penalty", s.frequency_penalty, -100.0, 100.0);
  s.seed = args.number<std::uint64_t>("--seed", s.seed, 0, ~std::uint64_t{0});
  return s;
}

}  // namespace cli::inline DSV3_ISA
