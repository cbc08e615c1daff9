#include "base/half.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define HAVE_F16C_PATH 1
#endif

static uint32_t bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static float float_of(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}

float half_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = (h >> 10) & 31, man = h & 1023;
    if (exp == 31) return float_of(sign | 0x7F800000u | (man ? 0x400000u | man << 13 : 0));
    if (exp) return float_of(sign | (exp + 112) << 23 | man << 13);
    float f = (float)man * 0x1p-24f; /* subnormal: exact in binary32 */
    return sign ? -f : f;
}

uint16_t half_from_float(float f) {
    uint32_t u = bits_of(f), sign = (u >> 16) & 0x8000, a = u & 0x7FFFFFFF;
    if (a > 0x7F800000u) return (uint16_t)(sign | 0x7E00 | ((a >> 13) & 0x1FF));
    if (a >= 0x477FF000u) return (uint16_t)(sign | 0x7C00); /* 65520 and above round to infinity */
    if (a >= 0x38800000u) {                                  /* normal in binary16 */
        a -= 112u << 23;
        a += 0xFFF + ((a >> 13) & 1);
        return (uint16_t)(sign | a >> 13);
    }
    /* Adding 0.5 aligns the last kept bit with 2^-24, so the FPU does the rounding. */
    uint32_t r = bits_of(float_of(a) + 0.5f) - bits_of(0.5f);
    return (uint16_t)(sign | r);
}

float bf16_to_float(uint16_t b) { return float_of((uint32_t)b << 16); }

uint16_t bf16_from_float(float f) {
    uint32_t u = bits_of(f);
    if ((u & 0x7FFFFFFF) > 0x7F800000u) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
}

#if HAVE_F16C_PATH
__attribute__((target("avx,f16c"))) static size_t to_float_f16c(float *dst, const uint16_t *src, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(src + i))));
    return i;
}

__attribute__((target("avx,f16c"))) static size_t from_float_f16c(uint16_t *dst, const float *src, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(dst + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT));
    return i;
}

#ifdef __clang__ /* does not know "f16c" by name; every processor with AVX2 has it */
static int has_f16c(void) { return __builtin_cpu_supports("avx2"); }
#else
static int has_f16c(void) { return __builtin_cpu_supports("f16c") && __builtin_cpu_supports("avx"); }
#endif
#endif

void half_to_float_n(float *dst, const uint16_t *src, size_t n) {
    size_t i = 0;
#if HAVE_F16C_PATH
    if (has_f16c()) i = to_float_f16c(dst, src, n);
#endif
    for (; i < n; i++) dst[i] = half_to_float(src[i]);
}

void half_from_float_n(uint16_t *dst, const float *src, size_t n) {
    size_t i = 0;
#if HAVE_F16C_PATH
    if (has_f16c()) i = from_float_f16c(dst, src, n);
#endif
    for (; i < n; i++) dst[i] = half_from_float(src[i]);
}

void bf16_to_float_n(float *dst, const uint16_t *src, size_t n) {
    for (size_t i = 0; i < n; i++) dst[i] = bf16_to_float(src[i]);
}

void bf16_from_float_n(uint16_t *dst, const float *src, size_t n) {
    for (size_t i = 0; i < n; i++) dst[i] = bf16_from_float(src[i]);
}
