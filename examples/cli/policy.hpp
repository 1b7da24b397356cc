// The policy bundle that a program computes with: the family of the checkpoint, and --compute.
#pragma once

#include <cstdio>

#include "cli.hpp"
#include "dsv3/io/load.hpp"
#include "dsv3/kernels/bf16_tile.hpp"

namespace cli::inline DSV3_ISA {

/// Products of bf16 that this program and this machine have; empty if they have none.
inline const char* bf16_units() {
  if constexpr (!dsv3::kernels::has_bf16_tiles<dsv3::simd::DefaultArch>) return "";
  return dsv3::amx::ready() ? "AMX" : "AVX512-BF16";
}

/// f(policy) with the bundle of the family that `config` belongs to, or with Fast of it, for the program of that name. `automatic` is bf16
/// where there are units for it, and says so on standard error.
template <class F>
void with_policy(const char* program, const dsv3::Config& config, Compute compute, F&& f) {
  const bool units = *bf16_units() != 0;
  if (compute == Compute::automatic && units)
    std::fprintf(stderr, "%s: computes in bf16 (%s); --compute exact computes in float32\n", program, bf16_units());
  const bool exact = compute == Compute::exact || (compute == Compute::automatic && !units);
  dsv3::io::with_policy(config, [&]<class P>(P policy) {
    if (exact)
      f(policy);
    else
      f(dsv3::Fast<P>{});
  });
}

}  // namespace cli::inline DSV3_ISA
