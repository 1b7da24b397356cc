// Floor 0. DSV3_ISA: the name of the inline namespace that everything in dsv3 lives in.
//
// Two translation units built with different instruction-set flags define different functions under the same C++ name, and the linker would
// silently keep one of each pair. The inline namespace gives them different symbols: user code still writes dsv3::X, and mixing objects
// across flag sets is a link error rather than an illegal instruction. The name lists every extension by which xsimd or this library
// selects code.
#pragma once

#if (defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ == 1)) && !defined(DSV3_ALLOW_FAST_MATH)
#error \
    "dsv3: with -ffast-math or -ffinite-math-only the compiler drops the checks for NaN and changes the order of sums, on which results and their safety depend: compile without it (or, for numbers that nobody promises, define DSV3_ALLOW_FAST_MATH)"
#endif

#if defined(__AVX512BW__) && defined(__AVX512DQ__)
#define DSV3_ISA_BASE isa_avx512
#elif defined(__AVX512F__)
#define DSV3_ISA_BASE isa_avx512f
#elif defined(__AVX2__)
#define DSV3_ISA_BASE isa_avx2
#elif defined(__AVX__)
#define DSV3_ISA_BASE isa_avx
#elif defined(__SSE4_2__)
#define DSV3_ISA_BASE isa_sse4_2
#elif defined(__SSE4_1__)
#define DSV3_ISA_BASE isa_sse4_1
#elif defined(__SSSE3__)
#define DSV3_ISA_BASE isa_ssse3
#elif defined(__SSE3__)
#define DSV3_ISA_BASE isa_sse3
#elif defined(__SSE2__) || defined(__x86_64__)
#define DSV3_ISA_BASE isa_sse2
#elif defined(__ARM_FEATURE_SVE)
#define DSV3_ISA_BASE isa_sve
#elif defined(__aarch64__)
#define DSV3_ISA_BASE isa_neon64
#else
#define DSV3_ISA_BASE isa_generic
#endif

#ifdef __FMA__
#define DSV3_ISA_FMA _fma
#else
#define DSV3_ISA_FMA
#endif
#ifdef __FMA4__
#define DSV3_ISA_FMA4 _fma4
#else
#define DSV3_ISA_FMA4
#endif
#ifdef __F16C__
#define DSV3_ISA_F16C _f16c
#else
#define DSV3_ISA_F16C
#endif
#if defined(__AVXVNNI__) || defined(__AVX512VNNI__)
#define DSV3_ISA_VNNI _vnni
#else
#define DSV3_ISA_VNNI
#endif
#ifdef __AVX512IFMA__
#define DSV3_ISA_IFMA _ifma
#else
#define DSV3_ISA_IFMA
#endif
#ifdef __AVX512VBMI__
#define DSV3_ISA_VBMI _vbmi
#else
#define DSV3_ISA_VBMI
#endif
#ifdef __AVX512VBMI2__
#define DSV3_ISA_VBMI2 _vbmi2
#else
#define DSV3_ISA_VBMI2
#endif
#ifdef __AVX512BF16__
#define DSV3_ISA_BF16 _bf16
#else
#define DSV3_ISA_BF16
#endif
#ifdef __AMX_BF16__
#define DSV3_ISA_AMX _amx
#else
#define DSV3_ISA_AMX
#endif

#define DSV3_ISA_JOIN(a, b, c, d, e, f, g, h, i, j) a##b##c##d##e##f##g##h##i##j
#define DSV3_ISA_NAME(a, b, c, d, e, f, g, h, i, j) DSV3_ISA_JOIN(a, b, c, d, e, f, g, h, i, j)
#define DSV3_ISA                                                                                                                        \
  DSV3_ISA_NAME(DSV3_ISA_BASE, DSV3_ISA_FMA, DSV3_ISA_FMA4, DSV3_ISA_F16C, DSV3_ISA_VNNI, DSV3_ISA_IFMA, DSV3_ISA_VBMI, DSV3_ISA_VBMI2, \
                DSV3_ISA_BF16, DSV3_ISA_AMX)
