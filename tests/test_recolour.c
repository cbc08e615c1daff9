/* Recoloured versions: shapes and ground stay, lines go, colours are new; and the noise that puts one in a picture's place. */
#include "tests/support/cm.h"
#include "tests/support/session.h"
#include "tests/support/train_runs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "diffusion/target.h"
#include "train/recolour.h"
#include "train/trainer_priv.h"

enum { SIDE = 96 };

static uint8_t *at(const struct image *im, int x, int y) { return im->rgb + ((size_t)y * SIDE + (size_t)x) * 3; }
static int spread(const uint8_t *p) {
    int low = p[0], high = p[0];
    for (int j = 1; j < 3; j++) low = p[j] < low ? p[j] : low, high = p[j] > high ? p[j] : high;
    return high - low;
}

/* A circle of a black line 2 wide with a soft rim, white within and without; beside it a black bar, 20 broad. */
static struct image drawing(struct arena *a) {
    struct image im = image_create(a, SIDE, SIDE);
    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++) {
            double off = fabs(hypot(x - 34, y - 48) - 24) - 1;
            int grey = off < 0 ? 0 : off < 1 ? (int)(255 * off) : 255;
            if (x >= 66 && x < 86 && y >= 20 && y < 76) grey = 0;
            memset(at(&im, x, y), grey, 3);
        }
    return im;
}

static void test_shapes(void **state) {
    struct arena *a = arena_create(NULL);
    struct image im = drawing(a), first = recolour_image(a, &im, 1);
    int colourful = 0, lines = 0, others = 0;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct image out = recolour_image(a, &im, seed), again = recolour_image(a, &im, seed);
        assert_int_equal(out.w, SIDE);
        assert_memory_equal(out.rgb, again.rgb, SIDE * SIDE * 3);
        static const int ground[][2] = {{0, 0}, {95, 95}, {34, 8}, {62, 48}, {90, 10}};
        for (int i = 0; i < 5; i++)
            for (int j = 0; j < 3; j++) assert_int_equal(at(&out, ground[i][0], ground[i][1])[j], 255);
        const uint8_t *disc = at(&out, 34, 48), *bar = at(&out, 76, 48);
        assert_true(disc[0] + disc[1] + disc[2] < 740); /* no longer white */
        assert_true(bar[0] + bar[1] + bar[2] > 60);     /* no longer black */
        colourful += (spread(disc) > 20) + (spread(bar) > 20);
        const uint8_t *line = at(&out, 10, 48);
        for (int j = 0; j < 3; j++) assert_true(line[j] >= disc[j] * 6 / 10 - 3); /* the disc's colour or a shade of it */
        lines += abs(line[0] - disc[0]) + abs(line[1] - disc[1]) + abs(line[2] - disc[2]) < 60;
        others += memcmp(out.rgb, first.rgb, SIDE * SIDE * 3) != 0;
    }
    assert_in_range(colourful, 16, 24);
    assert_in_range(lines, 4, 11); /* gone in most versions, kept in some */
    assert_int_equal(others, 11);
    arena_destroy(&a);
}

/* Pictures without broad parts, of one colour, of one pixel; noise of all colours. */
static void test_odd_pictures(void **state) {
    struct arena *a = arena_create(NULL);
    struct image dot = image_create(a, 1, 1), plain = image_create(a, 40, 3), noise = image_create(a, 50, 31);
    uint32_t s = 1;
    for (int i = 0; i < 50 * 31 * 3; i++) noise.rgb[i] = (uint8_t)((s = s * 1664525u + 1013904223u) >> 24);
    memset(plain.rgb, 200, 40 * 3 * 3);
    struct image out = recolour_image(a, &dot, 1);
    assert_int_equal(out.w * out.h, 1);
    out = recolour_image(a, &plain, 1);
    for (int i = 0; i < 40 * 3 * 3; i++) assert_int_equal(out.rgb[i], 200); /* all of it is ground */
    out = recolour_image(a, &noise, 1);
    assert_int_equal(out.w, 50);
    arena_destroy(&a);
}

/* At late times the noised version itself stands there, and what is to be predicted leads to the picture. */
static void test_noise(void **state) {
    enum { N = 64 };
    static const enum schedule_prediction kinds[] = {SCHEDULE_PREDICT_EPSILON, SCHEDULE_PREDICT_V};
    for (int kind = 0; kind < 2; kind++) {
        struct error e;
        struct schedule *s = schedule_create(&(struct schedule_params){.prediction = kinds[kind]}, &e);
        float picture[N], version[N], noise[N], plain[N], x[N], want[N], target[N];
        for (int i = 0; i < N; i++)
            picture[i] = sinf((float)i), version[i] = cosf((float)i * 2), noise[i] = plain[i] = sinf((float)i * i);
        recolour_noise(s, 149, picture, version, noise, N);
        assert_memory_equal(noise, plain, sizeof noise);
        for (int time = 450; time < 1000; time += 183) {
            memcpy(noise, plain, sizeof noise);
            recolour_noise(s, time, picture, version, noise, N);
            target_add_noise(s, time, x, picture, noise, N);
            target_add_noise(s, time, want, version, plain, N);
            target_make(s, time, target, picture, noise, N);
            double a = sqrt((double)s->alpha_bar[time]), b = sqrt(1 - (double)s->alpha_bar[time]);
            for (int i = 0; i < N; i++) {
                assert_true(fabs(x[i] - want[i]) < 1e-5);
                double found = kind ? a * x[i] - b * target[i] : (x[i] - b * target[i]) / a;
                assert_true(fabs(found - picture[i]) < 1e-4);
            }
        }
        memcpy(noise, plain, sizeof noise);
        recolour_noise(s, 300, picture, version, noise, N); /* half way */
        target_add_noise(s, 300, x, picture, noise, N);
        target_add_noise(s, 300, want, version, plain, N);
        target_add_noise(s, 300, target, picture, plain, N);
        for (int i = 0; i < N; i++) assert_true(fabs(x[i] - (want[i] + target[i]) / 2) < 1e-5);
        schedule_destroy(&s);
    }
}

/* A run keeps the versions' latents, three of each picture and of each mirrored one. */
static void test_cache(void **state) {
    enum { VERSIONS = 3 };
    struct error e = {{0}};
    struct train_params p = runs_params("cache");
    p.recolour = VERSIONS, p.flip = true;
    struct trainer *t = trainer_create(runs_engine, &p, false, &e);
    if (!t) fail_msg("%s", e.text);
    const struct vae_config *cfg = &t->e->model->vae;
    size_t c = (size_t)t->channels, each = (size_t)(t->lw * t->lh) * c;
    assert_int_equal(t->plan.latent_bytes, (int64_t)(t->data.n * 2 * (2 + VERSIONS) * each * sizeof(float)));
    float *moments = arena_alloc_n(runs_arena, each, 2 * sizeof *moments);
    struct vae_session *vae = vae_session_create(runs_engine, true, 1, RUNS_SIDE, RUNS_SIDE, &e);
    assert_non_null(vae);
    for (size_t i = 0; i < t->data.n; i++) {
        struct image im;
        assert_true(dataset_load(runs_arena, &t->data.samples[i], RUNS_SIDE, RUNS_SIDE, &im, &e));
        for (size_t flip = 0; flip < 2; flip++, im = image_flip_horizontal(runs_arena, &im))
            for (size_t k = 0; k < VERSIONS; k++) {
                size_t at = (i * 2 + flip) * (size_t)(t->lw * t->lh);
                struct image version = recolour_image(runs_arena, &im, p.seed * 1000003u + at * 64 + k);
                assert_true(vae_session_encode(vae, version.rgb, moments, &e));
                const float *got = t->recoloured + ((i * 2 + flip) * VERSIONS + k) * each;
                for (size_t j = 0; j < each; j++)
                    if (got[j] != (moments[j / c * 2 * c + j % c] - cfg->shift_factor) * cfg->scaling_factor)
                        fail_msg("picture %zu, mirrored %zu, version %zu: latent %zu", i, flip, k, j);
            }
    }
    vae_session_destroy(&vae);
    trainer_destroy(&t);
}

static const char *run(const char *name, int versions, int stop) {
    struct train_params p = runs_params(name);
    p.recolour = versions, p.min_timestep = 400, p.stop_after = stop;
    runs_well(&p);
    if (stop) p.stop_after = 0, p.resume = true, runs_well(&p);
    return p.out;
}
static void test_runs(void **state) {
    const char *two = run("two", 2, 0);
    runs_same_file(run("halves", 2, 2), two);
    assert_string_not_equal(runs_tensors_hash(two), runs_tensors_hash(run("none", 0, 0)));
    assert_string_not_equal(runs_tensors_hash(two), runs_tensors_hash(run("one", 1, 0)));
    struct train_params p = runs_params("distill");
    p.recolour = 2, p.distill = (struct distill_params){.method = DISTILL_CFG, .guidance_min = 4, .guidance_max = 4};
    runs_refused(&p, "--recolour");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes), cmocka_unit_test(test_odd_pictures),
                                       cmocka_unit_test(test_noise), cmocka_unit_test(test_cache), cmocka_unit_test(test_runs)};
    return cmocka_run_group_tests(tests, runs_setup, runs_teardown);
}
