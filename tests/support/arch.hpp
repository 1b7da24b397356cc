// The instruction sets that the compiler's flags allow, for tests that run once on each.
#pragma once

#include <doctest/doctest.h>

#include "dsv3/simd/batch.hpp"

#ifdef __AVX2__
#define DSV3_TEST_AVX2 , xsimd::avx2
#else
#define DSV3_TEST_AVX2
#endif
#if defined(__AVX2__) && defined(__FMA__)
#define DSV3_TEST_FMA , xsimd::fma3<xsimd::avx2>
#else
#define DSV3_TEST_FMA
#endif
#if defined(__AVX512F__) && defined(__AVX512CD__) && defined(__AVX512DQ__) && defined(__AVX512BW__)
#define DSV3_TEST_AVX512 , xsimd::avx512bw
#else
#define DSV3_TEST_AVX512
#endif
#ifdef __SSE2__
#define DSV3_TEST_ARCHS xsimd::sse2 DSV3_TEST_AVX2 DSV3_TEST_FMA DSV3_TEST_AVX512
#else
#define DSV3_TEST_ARCHS xsimd::default_arch
#endif

TYPE_TO_STRING(xsimd::default_arch);
