// The generator against values made with torch 2.13 (CPU), bit for bit.
#include "base/philox.h"
#include "base/rng.h"
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

static uint32_t bits(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static uint32_t fnv(const void *data, size_t bytes) {
    const uint8_t *p = data;
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < bytes; i++) h = (h ^ p[i]) * 16777619u;
    return h;
}

static void expect_bits(const float *got, const uint32_t *want, size_t n) {
    for (size_t i = 0; i < n; i++) assert_int_equal(bits(got[i]), want[i]);
}

static void test_uniform(void **state) {
    struct rng r;
    rng_seed(&r, 0);
    float v[4];
    rng_rand(&r, v, 4);
    const float want[4] = {0.49625659f, 0.76822180f, 0.08847743f, 0.13203049f};
    for (int i = 0; i < 4; i++) assert_int_equal(bits(v[i]), bits(want[i]));
    rng_seed(&r, (1ull << 40) + 3);   // the upper half of the seed is lost
    rng_rand(&r, v, 2);
    expect_bits(v, (uint32_t[]){0x3b8bb500, 0x3dd834c0}, 2);
}

static void test_integers(void **state) {
    static const uint32_t want[8] = {44, 239, 933, 760, 963, 379, 427, 503};
    struct rng r;
    rng_seed(&r, 0);
    for (int i = 0; i < 8; i++) assert_int_equal(rng_randint(&r, 1000), want[i]);
    static const uint32_t perm[10] = {1, 4, 9, 6, 3, 5, 0, 2, 8, 7};
    uint32_t p[10];
    rng_seed(&r, 5);
    rng_randperm(&r, p, 10);
    for (int i = 0; i < 10; i++) assert_int_equal(p[i], perm[i]);
    uint32_t *big = malloc(100000 * sizeof *big);
    rng_seed(&r, 5);
    rng_randperm(&r, big, 100000);
    assert_int_equal(big[0], 53411);
    assert_int_equal(big[3], 33006);
    assert_int_equal(big[99999], 57622);
    free(big);
    rng_randperm(&r, p, 0);
}

static void test_normal_small(void **state) {
    struct rng r;
    rng_seed(&r, 0);
    float v[16];
    rng_randn(&r, v, 4);
    const float want[4] = {1.5409961f, -0.2934289f, -2.1787894f, 0.5684313f};
    for (int i = 0; i < 4; i++) assert_float_equal(v[i], want[i], 1e-7);
    // An odd count leaves a cached value that a large draw must not touch and the next small one uses.
    rng_seed(&r, 7);
    rng_randn(&r, v, 5);
    expect_bits(v, (uint32_t[]){0xbe165174, 0x3f49408e, 0x3f7262e7, 0xbf8ea2d3, 0x3fd86bd0}, 5);
    rng_randn(&r, v, 16);
    expect_bits(v, (uint32_t[]){0x3f1c0674}, 1);
    rng_randn(&r, v, 3);
    expect_bits(v, (uint32_t[]){0xbf651371, 0x3fb29e22, 0x3fac6b3d}, 3);
    static const uint32_t after[3] = {116, 463, 605};
    for (int i = 0; i < 3; i++) assert_int_equal(rng_randint(&r, 1000), after[i]);
    uint32_t p[7];
    rng_randperm(&r, p, 7);
    static const uint32_t perm[7] = {4, 1, 0, 2, 6, 3, 5};
    for (int i = 0; i < 7; i++) assert_int_equal(p[i], perm[i]);
}

static void test_normal_blocks(void **state) {
    struct rng r;
    float v[1000];
    rng_seed(&r, 0);
    rng_randn(&r, v, 16);
    expect_bits(v, (uint32_t[]){0xbf901b85, 0xbf93808a, 0xbe804bd6, 0xbede255d, 0x3f594515, 0x3f312783}, 6);
    rng_seed(&r, 42);
    rng_randn(&r, v, 16);
    expect_bits(v, (uint32_t[]){0x3ff6a529, 0x3fbe5f53, 0x3f669567, 0xc006c0db}, 4);
    static const struct { size_t n; uint32_t hash, last, next; } odd[] = {
        {17, 0x6322af72, 0xc021bfdc, 0x3ea4adf6},
        {33, 0x15be145d, 0xbf2f8a31, 0x3f4eeb8c},
        {1000, 0x8738a46f, 0x3fa47522, 0x3f00c285},
    };
    for (size_t i = 0; i < 3; i++) {
        float next;
        rng_seed(&r, 1234);
        rng_randn(&r, v, odd[i].n);
        rng_rand(&r, &next, 1);
        assert_int_equal(bits(v[odd[i].n - 1]), odd[i].last);
        assert_int_equal(fnv(v, odd[i].n * 4), odd[i].hash);
        assert_int_equal(bits(next), odd[i].next);
    }
}

static void test_normal_latent(void **state) {
    struct rng r;
    rng_seed(&r, 0);
    size_t n = 4 * 64 * 64;
    float *v = malloc(n * sizeof *v);
    rng_randn(&r, v, n);
    const float last[4] = {-1.0407140f, 0.0907839f, -1.3664697f, -1.0782080f};
    for (int i = 0; i < 4; i++) assert_float_equal(v[n - 4 + i], last[i], 1e-7);
    assert_int_equal(fnv(v, n * 4), 0x4f3dfe78);   // the bytes whose SHA-256 begins 24efac55b39e95b2
    free(v);
}

/* torch 2.13's bytes; of torch 1.13 the first values that formats.md has. */
static void test_normal_f16(void **state) {
    static const struct { uint64_t seed; size_t n; uint32_t hash; } want[] = {
        {0, 4, 0x555f4466}, {0, 16, 0x4f430759}, {0, 4096, 0xe1fe71e1}, {7, 50, 0x0961aa3d}, {7, 5, 0x8530212c}};
    struct rng r;
    float *v = malloc(4096 * sizeof *v);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        rng_seed(&r, want[i].seed);
        rng_randn_f16(&r, v, want[i].n);
        assert_int_equal(fnv(v, want[i].n * 4), want[i].hash);
    }
    free(v);
    float old[16];
    rng_seed(&r, 0);
    rng_randn_f16_torch1(&r, old, 16);
    const float first[4] = {-0.90087891f, 0.48120117f, 1.19824219f, 0.90527344f};
    for (int i = 0; i < 4; i++) assert_float_equal(old[i], first[i], 1e-8);
    /* Of 20 numbers torch 1 draws the last 4 and then 16 anew over the tail; what is drawn next comes behind all 36. */
    float odd[20], behind[36], next[2];
    rng_seed(&r, 3);
    rng_randn_f16_torch1(&r, odd, 20);
    rng_rand(&r, next, 1);
    rng_seed(&r, 3);
    rng_rand(&r, behind, 36);
    rng_rand(&r, next + 1, 1);
    assert_true(next[0] == next[1]);
}

/* The values that A1111's software generator and CUDA give for seed 0. */
static void test_philox(void **state) {
    const float want[12] = {-0.92466259f, -0.42534415f, -2.6438457f,  0.14518388f,  -0.12086647f, -0.57972564f,
                            -0.62285122f, -0.32838709f, -1.07454231f, -0.36314407f, -1.67105067f, 2.26550497f};
    float v[12], next[12];
    philox_randn(0, 0, v, 12);
    for (int i = 0; i < 12; i++) assert_float_equal(v[i], want[i], 1e-7);
    philox_randn(0, 1, next, 12);
    assert_true(next[0] != v[0]);
    philox_randn(1ull << 32, 0, next, 12); /* all 64 bits of the seed count */
    assert_true(next[0] != v[0]);
}

static void test_save_restore(void **state) {
    struct rng r;
    float a[40], b[40];
    rng_seed(&r, 99);
    rng_randn(&r, a, 3);
    struct rng saved = r;
    rng_randn(&r, a, 7);
    rng_randn(&r, a + 7, 33);
    rng_randn(&saved, b, 7);
    rng_randn(&saved, b + 7, 33);
    assert_memory_equal(a, b, sizeof a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uniform),       cmocka_unit_test(test_integers),
        cmocka_unit_test(test_normal_small),  cmocka_unit_test(test_normal_blocks),
        cmocka_unit_test(test_normal_latent), cmocka_unit_test(test_normal_f16),
        cmocka_unit_test(test_philox),        cmocka_unit_test(test_save_restore),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
