#include "dsv3/simd/dispatch.hpp"

#include <doctest/doctest.h>

#include <limits>
#include <string>

namespace simd = dsv3::simd;
using simd::Level;

namespace {

constexpr simd::Processor everything() {
  constexpr auto all = std::numeric_limits<std::uint32_t>::max();
  return {all, all, all, all, all, all, all};
}

std::string error_of(std::optional<std::string_view> wanted) {
  try {
    (void)simd::level_named(wanted);
  } catch (const dsv3::Error& e) {
    return e.what();
  }
  return "";
}

int zero() { return 0; }
int one() { return 1; }
int two() { return 2; }

}  // namespace

TEST_CASE("this machine has what these tests were compiled for") {
  CHECK(simd::best_level() >= simd::built_level());
#if defined(__x86_64__)
  // The compiler's run-time library reads the same registers by code of its own.
  CHECK((simd::best_level() >= Level::avx2) == (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")));
  CHECK((simd::best_level() >= Level::avx512) == (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")));
#else
  CHECK(simd::best_level() == Level::baseline);
#endif
}

TEST_CASE("a level needs every extension of it and of those below") {
  static_assert(simd::level_of({}) == Level::baseline);
  static_assert(simd::level_of(everything()) == Level::amx);
  simd::Processor p = everything();
  p.leaf7_edx &= ~(1u << 24);  // no tiles
  CHECK(simd::level_of(p) == Level::avx512_bf16);
  p.leaf7_1_eax &= ~(1u << 5);  // no BF16
  CHECK(simd::level_of(p) == Level::avx512);
  p.leaf7_edx |= 1u << 24;
  CHECK(simd::level_of(p) == Level::avx512);
  p.leaf7_ebx &= ~(1u << 30);  // no AVX512BW
  CHECK(simd::level_of(p) == Level::avx2);
  p.leaf1_ecx &= ~(1u << 12);  // no FMA
  CHECK(simd::level_of(p) == Level::baseline);
}

TEST_CASE("registers that the operating system does not save are not used") {
  simd::Processor p = everything();
  p.xcr0 = 0xe7;  // neither tile configuration nor tile data
  CHECK(simd::level_of(p) == Level::avx512_bf16);
  p.xcr0 = 0x7;  // as a kernel with AVX-512 switched off
  CHECK(simd::level_of(p) == Level::avx2);
  p.xcr0 = 0x3;
  CHECK(simd::level_of(p) == Level::baseline);
}

TEST_CASE("a level is named by a user") {
  CHECK(simd::level_named(std::nullopt) == simd::best_level());
  CHECK(simd::level_named("baseline") == Level::baseline);
  CHECK(simd::level_named(simd::name(simd::best_level())) == simd::best_level());
  CHECK(error_of("sse9") == "instruction set: expected baseline, avx2, avx512, avx512_bf16 or amx, got 'sse9'");
  CHECK(error_of("") == "instruction set: expected baseline, avx2, avx512, avx512_bf16 or amx, got ''");
  if (simd::best_level() < Level::amx)
    CHECK(error_of("amx") ==
          "instruction set amx: expected at most " + std::string(simd::name(simd::best_level())) + ", which is what this machine has");
}

TEST_CASE("the highest level within the limit is chosen, in whatever order they stand") {
  const auto chosen = [](Level limit) {
    return simd::dispatch<int()>({{Level::avx512, two}, {Level::baseline, zero}, {Level::avx2, one}}, limit).run();
  };
  CHECK(chosen(Level::baseline) == 0);
  CHECK(chosen(Level::avx2) == 1);
  CHECK(chosen(Level::avx512) == 2);
  CHECK(chosen(Level::amx) == 2);
  CHECK(simd::dispatch<int()>({{Level::baseline, zero}}).level == Level::baseline);
  CHECK_THROWS_WITH_AS((void)simd::dispatch<int()>({{Level::avx2, one}}, Level::baseline),
                       "dispatch: expected a function of level baseline or lower, found none", dsv3::Error);
}
