// The policy bundle that a program computes with: the family of the checkpoint, and --compute.
#pragma once

#include <iostream>
#include <string_view>

#include "cli.hpp"
#include "dsv3/io/load.hpp"
#include "dsv3/kernels/bf16_tile.hpp"

namespace cli::inline DSV3_ISA {

/// Products of bf16 that this program and this machine have; empty if they have none.
inline std::string_view bf16_units() {
  if constexpr (!dsv3::kernels::has_bf16_tiles<dsv3::simd::DefaultArch>) return "";
  return dsv3::amx::available() ? "AMX" : "AVX512-BF16";
}

template <class P, dsv3::ScaleFormat Format>
struct WithFp8Activations : P {
  using Compute = dsv3::compute::Fp8Activations<Format>;
};

/// f(policy) with the family's bundle with activations rounded to fp8, by scales of the kind that the checkpoint was trained with.
template <class F>
void with_fp8_policy(const dsv3::Config& config, F&& f) {
  dsv3::io::with_policy(config, [&]<class P>(P) {
    if (config.fp8_power_of_two_scales)
      f(WithFp8Activations<P, dsv3::ScaleFormat::power_of_two>{});
    else
      f(WithFp8Activations<P, dsv3::ScaleFormat::float32>{});
  });
}

/// f(policy) with the bundle of the family that `config` belongs to, or with Fast of it, for the program of that name. `automatic` is bf16
/// where there are units for it, and says so on standard error.
template <class F>
void with_policy(const char* program, const dsv3::Config& config, Compute compute, F&& f) {
  const auto units = bf16_units();
  if (compute == Compute::automatic && !units.empty())
    std::cerr << program << ": computes in bf16 (" << units << "); --compute exact computes in float32\n";
  const bool exact = compute == Compute::exact || (compute == Compute::automatic && units.empty());
  dsv3::io::with_policy(config, [&]<class P>(P policy) {
    if (exact)
      f(policy);
    else
      f(dsv3::Fast<P>{});
  });
}

}  // namespace cli::inline DSV3_ISA
