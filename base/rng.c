#include "base/rng.h"
#include "base/half.h"
#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum { WORDS = 624, SHIFT = 397, BLOCK = 16 };

void rng_seed(struct rng *r, uint64_t seed) {
    r->state[0] = (uint32_t)seed;
    for (uint32_t j = 1; j < WORDS; j++)
        r->state[j] = 1812433253u * (r->state[j - 1] ^ (r->state[j - 1] >> 30)) + j;
    r->next = WORDS;
    r->has_cached = 0;
    r->cached = 0;
}

static void twist(uint32_t *s) {
    for (int i = 0; i < WORDS; i++) {
        uint32_t y = (s[i] & 0x80000000u) | (s[(i + 1) % WORDS] & 0x7fffffffu);
        s[i] = s[(i + SHIFT) % WORDS] ^ (y >> 1) ^ ((y & 1) ? 0x9908b0dfu : 0);
    }
}

uint32_t rng_word(struct rng *r) {
    if (r->next >= WORDS) {
        twist(r->state);
        r->next = 0;
    }
    uint32_t y = r->state[r->next++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

static float uniform24(struct rng *r) { return (float)(rng_word(r) & 0xffffff) * 0x1p-24f; }

static double uniform53(struct rng *r) {
    uint64_t high = rng_word(r);
    uint64_t both = high << 32 | rng_word(r);
    return (double)(both & ((1ull << 53) - 1)) * 0x1p-53;
}

void rng_rand(struct rng *r, float *dst, size_t n) {
    for (size_t i = 0; i < n; i++) dst[i] = uniform24(r);
}

uint32_t rng_randint(struct rng *r, uint32_t n) {
    assert(n > 0);
    return rng_word(r) % n;
}

void rng_randperm(struct rng *r, uint32_t *dst, size_t n) {
    assert(n < UINT32_MAX / 20);
    for (size_t i = 0; i < n; i++) dst[i] = (uint32_t)i;
    for (size_t i = 0; i + 1 < n; i++) {
        size_t j = i + rng_word(r) % (uint32_t)(n - i);
        uint32_t t = dst[i];
        dst[i] = dst[j];
        dst[j] = t;
    }
}

// The polynomials below are those of Cephes' single precision library, rounded where torch's AVX2 code
// rounds: every fmaf is one rounding and must stay one, every other operation rounds by itself. libm would
// differ in the last bit for one value in six.
static float log_cephes(float x) {
    static const float p[9] = {7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f,
                               -1.2420140846e-1f, 1.4249322787e-1f,  -1.6668057665e-1f,
                               2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f};
    uint32_t u;
    memcpy(&u, &x, 4);
    float e = (float)((int)(u >> 23) - 126);
    u = (u & 0x007fffffu) | 0x3f000000u;
    float m;
    memcpy(&m, &u, 4);
    if (m < 0.70710678118654752f) {
        e -= 1.0f;
        m = (m - 1.0f) + m;
    } else {
        m = m - 1.0f;
    }
    float z = m * m, y = p[0];
    for (int i = 1; i < 9; i++) y = fmaf(y, m, p[i]);
    y = y * m;
    y = fmaf(y, z, e * -2.12194440e-4f);
    y = fmaf(-z, 0.5f, y);
    return fmaf(e, 0.693359375f, m + y);
}

static void sincos_cephes(float theta, float *sine, float *cosine) {
    int j = ((int)(theta * 1.27323954473516f) + 1) & ~1;
    float jf = (float)j;
    float x = fmaf(jf, -0.78515625f, theta);
    x = fmaf(jf, -2.4187564849853515625e-4f, x);
    x = fmaf(jf, -3.77489497744594108e-8f, x);
    float z = x * x;
    float a = fmaf(2.443315711809948e-5f, z, -1.388731625493765e-3f);
    a = fmaf(a, z, 4.166664568298827e-2f);
    a = a * z;
    a = fmaf(a, z, -(z * 0.5f)) + 1.0f;
    float b = fmaf(-1.9515295891e-4f, z, 8.3321608736e-3f);
    b = fmaf(b, z, -1.6666654611e-1f);
    b = b * z;
    b = fmaf(b, x, x);
    float s = (j & 2) ? a : b, c = (j & 2) ? b : a;
    *sine = (j & 4) ? -s : s;
    *cosine = ((j - 2) & 4) ? c : -c;
}

// Box-Muller over one block: the first eight uniforms give the radius, the last eight the angle.
static void normal_block(float *d) {
    for (int j = 0; j < BLOCK / 2; j++) {
        float radius = sqrtf(-2.0f * log_cephes(1.0f - d[j]));
        float sine, cosine;
        sincos_cephes(6.2831855f * d[j + 8], &sine, &cosine);
        d[j] = radius * cosine;
        d[j + 8] = radius * sine;
    }
}

static double normal_small(struct rng *r) {
    if (r->has_cached) {
        r->has_cached = 0;
        return r->cached;
    }
    double u1 = uniform53(r), u2 = uniform53(r);
    double radius = sqrt(-2.0 * log1p(-u2)), theta = 2.0 * M_PI * u1;
    r->cached = radius * sin(theta);
    r->has_cached = 1;
    return radius * cos(theta);
}

void rng_randn(struct rng *r, float *dst, size_t n) {
    if (n < BLOCK) {
        for (size_t i = 0; i < n; i++) dst[i] = (float)normal_small(r);
        return;
    }
    rng_rand(r, dst, n);
    for (size_t i = 0; i + BLOCK <= n; i += BLOCK) normal_block(dst + i);
    if (n % BLOCK) {   // the last 16 are drawn anew, over the tail of the block before them
        rng_rand(r, dst + n - BLOCK, BLOCK);
        normal_block(dst + n - BLOCK);
    }
}

static float to_f16(double x) { return half_to_float(half_from_float((float)x)); }

static void normal_block_f16(struct rng *r, float *d) {
    rng_rand(r, d, BLOCK);
    normal_block(d);
    for (int j = 0; j < BLOCK; j++) d[j] = to_f16(d[j]);
}

// Uniforms of 11 bits, and every intermediate value rounded.
static void normal_block_f16_torch1(struct rng *r, float *d) {
    for (int j = 0; j < BLOCK; j++) d[j] = (float)(rng_word(r) & 0x7ff) * 0x1p-11f;
    for (int j = 0; j < BLOCK / 2; j++) {
        float radius = to_f16(sqrtf(-2.0f * logf(to_f16(1.0f - d[j]))));
        float theta = to_f16(2.0 * M_PI * d[j + 8]);
        d[j] = to_f16(radius * cosf(theta));
        d[j + 8] = to_f16(radius * sinf(theta));
    }
}

static void randn_blocks(struct rng *r, float *dst, size_t n, void (*block)(struct rng *, float *), bool draws_tail) {
    if (n < BLOCK) {
        for (size_t i = 0; i < n; i++) dst[i] = to_f16(normal_small(r));
        return;
    }
    for (size_t i = 0; i + BLOCK <= n; i += BLOCK) block(r, dst + i);
    if (n % BLOCK == 0) return;
    for (size_t i = draws_tail ? n % BLOCK : 0; i; i--) rng_word(r); // drawn, then replaced
    block(r, dst + n - BLOCK);
}

void rng_randn_f16(struct rng *r, float *dst, size_t n) { randn_blocks(r, dst, n, normal_block_f16, false); }
void rng_randn_f16_torch1(struct rng *r, float *dst, size_t n) { randn_blocks(r, dst, n, normal_block_f16_torch1, true); }
