/* Training noise against torch (tests/reference/make_noise.py): the same generator, the same numbers. */
#include "tests/support/cm.h"
#include "tests/support/golden.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "diffusion/noise.h"

static double number(const json_t *o, const char *key) { return json_number_value(json_object_get(o, key)); }

static struct noise_params params_of(const json_t *o) {
    return (struct noise_params){.offset = (float)number(o, "offset"), .offset_adaptive = (float)number(o, "offset_adaptive"),
                                 .offset_random = json_is_true(json_object_get(o, "offset_random")),
                                 .pyramid_iterations = (int)number(o, "pyramid_iterations"),
                                 .pyramid_discount = (float)number(o, "pyramid_discount"),
                                 .perturbation = (float)number(o, "perturbation"),
                                 .perturbation_random = json_is_true(json_object_get(o, "perturbation_random"))};
}

/* The file's tensors are [n][h][w][c] as they lie. */
static float *tensor(const struct st_file *f, struct arena *a, const char *key, const char *what, struct noise_size *s) {
    struct error e = {{0}};
    const struct st_tensor *t = st_find(f, arena_printf(a, "%s.%s", key, what));
    if (!t) fail_msg("the golden lacks %s.%s", key, what);
    *s = (struct noise_size){(int)t->dims[0], (int)t->dims[1], (int)t->dims[2], (int)t->dims[3]};
    size_t n = st_tensor_elements(t);
    float *x = arena_alloc_n(a, n, sizeof *x);
    assert_true(st_read_f32(t, x, n, &e));
    return x;
}

static void check(const struct st_file *f, const char *key) {
    struct arena *a = arena_create(NULL);
    struct error e = {{0}};
    json_t *settings = json_loads(golden_text(f, key), 0, NULL);
    assert_non_null(settings);
    struct noise_params p = params_of(settings);
    assert_true(noise_params_check(&p, &e));
    struct noise_size s;
    float *latents = tensor(f, a, key, "latents", &s), *noise = tensor(f, a, key, "noise", &s),
          *want = tensor(f, a, key, "result", &s);
    size_t n = (size_t)(s.n * s.h * s.w) * (size_t)s.c;
    float *room = arena_alloc_n(a, n, sizeof *room);
    struct rng rng;
    rng_seed(&rng, (uint64_t)number(settings, "seed"));
    noise_shape(&p, &rng, noise, latents, &s, room);
    if (p.perturbation > 0) {
        noise_perturb(&p, &rng, room, noise, n);
        noise = room;
    }
    golden_near(key, noise, want, n, 1e-6);
    json_decref(settings);
    arena_destroy(&a);
}

static void test_against_torch(void **state) {
    static const char *const names[] = {"offset", "offset_adaptive", "offset_random", "pyramid",
                                        "pyramid_deep", "both", "perturbation", "perturbation_random"};
    struct st_file *f = golden_open("noise");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (int j = 0; j < 2; j++) {
            char key[64];
            snprintf(key, sizeof key, "%s.%d", names[i], j);
            check(f, key);
        }
    st_close(&f);
}

/* Without options the noise stays, and nothing is drawn. */
static void test_plain(void **state) {
    struct noise_params none = {0};
    struct error e = {{0}};
    struct rng rng, before;
    float noise[32], copy[32];
    rng_seed(&rng, 1);
    rng_randn(&rng, noise, 32);
    memcpy(copy, noise, sizeof copy);
    before = rng;
    assert_true(noise_params_check(&none, &e));
    noise_shape(&none, &rng, noise, noise, &(struct noise_size){1, 4, 4, 2}, NULL);
    assert_memory_equal(noise, copy, sizeof copy);
    assert_memory_equal(&rng, &before, sizeof rng);
}

/* An adaptive part that would take more away than there is leaves no offset (kohya clamps to 0): channels' means of 0.5 and
 * -0.01 at 0.1 - 1 * |mean| give none and 0.09. */
static void test_adaptive_is_not_negative(void **state) {
    struct noise_params p = {.offset = 0.1f, .offset_adaptive = -1};
    float noise[8] = {0}, shift[2];
    const float latents[8] = {0.5f, -0.01f, 0.5f, -0.01f, 0.5f, -0.01f, 0.5f, -0.01f};
    struct rng rng, same;
    rng_seed(&rng, 4);
    same = rng;
    noise_shape(&p, &rng, noise, latents, &(struct noise_size){1, 2, 2, 2}, NULL);
    rng_randn(&same, shift, 2);
    for (int i = 0; i < 4; i++) {
        assert_true(noise[2 * i] == 0);
        assert_float_equal(noise[2 * i + 1], 0.09 * (double)shift[1], 1e-7);
    }
}

static void test_refused(void **state) {
    static const struct {
        struct noise_params p;
        const char *words;
    } bad[] = {
        {{.offset = -1}, "--noise-offset"},
        {{.offset_adaptive = 0.1f}, "--noise-offset, which is not given"},
        {{.offset_random = true}, "needs --noise-offset"},
        {{.pyramid_iterations = 100, .pyramid_discount = 0.3f}, "--pyramid-iterations"},
        {{.pyramid_iterations = 6}, "--pyramid-discount"},
        {{.perturbation = -1}, "--input-perturbation"},
        {{.perturbation_random = true}, "needs --input-perturbation"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct error e = {{0}};
        assert_false(noise_params_check(&bad[i].p, &e));
        assert_non_null(strstr(e.text, bad[i].words));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_torch),
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_adaptive_is_not_negative),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
