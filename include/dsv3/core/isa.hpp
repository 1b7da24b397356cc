// Floor 0. DSV3_ISA: the name of the inline namespace that everything in dsv3 lives in.
//
// Two translation units built with different instruction-set flags define different functions under the same C++ name, and the linker
// would keep one of each pair silently. The inline namespace gives them different symbols: user code writes dsv3::X as before, and
// mixing objects across flag sets is a link error rather than an illegal instruction.
#pragma once

#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
#define DSV3_ISA isa_avx512_amx
#elif defined(__AVX512BF16__)
#define DSV3_ISA isa_avx512_bf16
#elif defined(__AVX512BW__) && defined(__AVX512DQ__)
#define DSV3_ISA isa_avx512
#elif defined(__AVX2__) && defined(__FMA__)
#define DSV3_ISA isa_avx2_fma
#elif defined(__AVX2__)
#define DSV3_ISA isa_avx2
#elif defined(__AVX__)
#define DSV3_ISA isa_avx
#elif defined(__SSE4_2__)
#define DSV3_ISA isa_sse4_2
#elif defined(__SSE4_1__)
#define DSV3_ISA isa_sse4_1
#elif defined(__SSSE3__)
#define DSV3_ISA isa_ssse3
#elif defined(__SSE2__) || defined(__x86_64__)
#define DSV3_ISA isa_sse2
#elif defined(__ARM_FEATURE_SVE)
#define DSV3_ISA isa_sve
#elif defined(__aarch64__)
#define DSV3_ISA isa_neon64
#else
#define DSV3_ISA isa_generic
#endif
