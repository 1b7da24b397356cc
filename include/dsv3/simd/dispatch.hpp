// Floor 1. Run-time dispatch over levels of x86-64: the level of this machine, the level that a translation unit was compiled for, and the
// choice among functions compiled for several levels.
//
// One program then runs anywhere and uses what the machine has. CMake's dsv3_dispatched() compiles a file once per level. The flags of each
// translation unit select the library's code, and each level has a namespace of its own (core/isa.hpp). Permission to use AMX is not a
// matter of levels: amx::available() asks for it where tiles are used. Processors other than x86-64 have the one level `baseline`.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string_view>

#include "dsv3/core/error.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
/// X(level) for each level that dsv3_dispatched() compiles, in ascending order: all levels, or, with DSV3_SOME_LEVELS, `baseline` and those
/// with a macro DSV3_LEVEL_<level>.
#ifndef DSV3_SOME_LEVELS
#define DSV3_LEVEL_avx2
#define DSV3_LEVEL_avx512
#define DSV3_LEVEL_avx512_bf16
#define DSV3_LEVEL_amx
#endif
#ifdef DSV3_LEVEL_avx2
#define DSV3_IF_AVX2(X) X(avx2)
#else
#define DSV3_IF_AVX2(X)
#endif
#ifdef DSV3_LEVEL_avx512
#define DSV3_IF_AVX512(X) X(avx512)
#else
#define DSV3_IF_AVX512(X)
#endif
#ifdef DSV3_LEVEL_avx512_bf16
#define DSV3_IF_AVX512_BF16(X) X(avx512_bf16)
#else
#define DSV3_IF_AVX512_BF16(X)
#endif
#ifdef DSV3_LEVEL_amx
#define DSV3_IF_AMX(X) X(amx)
#else
#define DSV3_IF_AMX(X)
#endif
#define DSV3_FOR_EACH_LEVEL(X) X(baseline) DSV3_IF_AVX2(X) DSV3_IF_AVX512(X) DSV3_IF_AVX512_BF16(X) DSV3_IF_AMX(X)
#else
#define DSV3_FOR_EACH_LEVEL(X) X(baseline)
#endif

namespace dsv3::inline DSV3_ISA::simd {

/// Instruction sets, each including those before it: the architecture's baseline; x86-64-v3 (AVX2, FMA, F16C); x86-64-v4 (AVX-512 F, BW,
/// CD, DQ, VL); x86-64-v4 with IFMA, VBMI, VBMI2, VNNI and BF16; the same with AMX's bf16 tiles.
enum class Level { baseline, avx2, avx512, avx512_bf16, amx };

inline constexpr std::array<std::string_view, 5> level_names{"baseline", "avx2", "avx512", "avx512_bf16", "amx"};

constexpr std::string_view name(Level level) { return level_names[static_cast<std::size_t>(level)]; }

/// The highest level that the flags of this translation unit allow.
constexpr Level built_level() {
  Level level = Level::baseline;
#if defined(__x86_64__) && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && defined(__BMI2__) && defined(__LZCNT__)
  level = Level::avx2;
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512CD__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
  level = Level::avx512;
#if defined(__AVX512IFMA__) && defined(__AVX512VBMI__) && defined(__AVX512VBMI2__) && defined(__AVX512VNNI__) && defined(__AVX512BF16__)
  level = Level::avx512_bf16;
#if defined(__AMX_TILE__) && defined(__AMX_BF16__)
  level = Level::amx;
#endif
#endif
#endif
#endif
  return level;
}

/// What an x86 processor reports: the CPUID registers that list extensions (leaf, subleaf), and XCR0, the register sets that the operating
/// system saves. Instructions on registers that are not saved fault.
struct Processor {
  std::uint32_t leaf1_ecx = 0, leaf7_ebx = 0, leaf7_ecx = 0, leaf7_edx = 0, leaf7_1_eax = 0, extended1_ecx = 0;
  std::uint64_t xcr0 = 0;
};

/// The highest level for which `p` has all extensions and saves all registers. Bits: Intel's Software Developer's Manual, volume 2A, CPUID;
/// volume 1, 13.3.
constexpr Level level_of(const Processor& p) {
  const auto all = [](std::uint64_t word, std::initializer_list<int> bits) {
    for (const int bit : bits)
      if ((word >> bit & 1) == 0) return false;
    return true;
  };
  // SSE3, SSSE3, FMA, CMPXCHG16B, SSE4.1, SSE4.2, MOVBE, POPCNT, OSXSAVE, AVX, F16C; BMI1, AVX2, BMI2; LAHF, LZCNT; SSE and AVX state
  const bool v3 = all(p.leaf1_ecx, {0, 9, 12, 13, 19, 20, 22, 23, 27, 28, 29}) && all(p.leaf7_ebx, {3, 5, 8}) &&
                  all(p.extended1_ecx, {0, 5}) && all(p.xcr0, {1, 2});
  if (!v3) return Level::baseline;
  // F, DQ, CD, BW, VL; masks, upper halves of zmm0-15, zmm16-31
  if (!all(p.leaf7_ebx, {16, 17, 28, 30, 31}) || !all(p.xcr0, {5, 6, 7})) return Level::avx2;
  // IFMA; VBMI, VBMI2, VNNI; BF16
  if (!all(p.leaf7_ebx, {21}) || !all(p.leaf7_ecx, {1, 6, 11}) || !all(p.leaf7_1_eax, {5})) return Level::avx512;
  // BF16 and tiles; tile configuration, tile data
  return all(p.leaf7_edx, {22, 24}) && all(p.xcr0, {17, 18}) ? Level::amx : Level::avx512_bf16;
}

/// This machine's processor; all zero on other architectures than x86-64.
inline Processor this_processor() {
  Processor p;
#if defined(__x86_64__)
  std::uint32_t a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d)) p.leaf1_ecx = c;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
    p.leaf7_ebx = b, p.leaf7_ecx = c, p.leaf7_edx = d;
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) p.leaf7_1_eax = a;
  }
  if (__get_cpuid(0x80000001, &a, &b, &c, &d)) p.extended1_ecx = c;
  if (p.leaf1_ecx >> 27 & 1) {  // OSXSAVE: XGETBV may be used
    asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    p.xcr0 = std::uint64_t{d} << 32 | a;
  }
#endif
  return p;
}

/// The highest level that this machine and its operating system support.
inline Level best_level() { return level_of(this_processor()); }

/// The level that a user names in an option or an environment variable; best_level() without a name.
/// Throws: Error if the name is not in level_names, or is that of a level above best_level().
[[nodiscard]] inline Level level_named(std::optional<std::string_view> wanted) {
  const Level best = best_level();
  if (!wanted) return best;
  for (std::size_t i = 0; i < level_names.size(); ++i)
    if (level_names[i] == *wanted) {
      require(i <= static_cast<std::size_t>(best), "instruction set ", *wanted, ": expected at most ", name(best),
              ", which is what this machine has");
      return static_cast<Level>(i);
    }
  fail("instruction set: expected baseline, avx2, avx512, avx512_bf16 or amx, got '", *wanted, "'");
}

/// A function compiled for a level.
template <class F>
struct Variant {
  Level level;
  F* run;
};

/// The variant of the highest level up to `limit`, which must not exceed best_level(). Variants may be given in any order.
/// Throws: Error if there is none.
template <class F>
[[nodiscard]] Variant<F> dispatch(std::initializer_list<Variant<F>> variants, Level limit = best_level()) {
  const Variant<F>* chosen = nullptr;
  for (const auto& v : variants)
    if (v.level <= limit && (chosen == nullptr || v.level > chosen->level)) chosen = &v;
  require(chosen != nullptr, "dispatch: expected a function of level ", name(limit), " or lower, found none");
  return *chosen;
}

}  // namespace dsv3::inline DSV3_ISA::simd
