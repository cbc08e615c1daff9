/* The reference answers themselves: that every file of tests/data opens and holds together, and that pictures
 * start from the noise that base/rng draws. What the models make of them is tested elsewhere. */
#include "tests/support/cm.h"
#include "tests/support/golden.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/rng.h"

static const char *const minis[] = {"mini-sd1", "mini-sd2", "mini-xl", "mini-odd"};
static const char *const samplers[] = {"ddim", "euler", "euler-a", "dpmpp-2m"};
enum { N_MINIS = sizeof minis / sizeof *minis, N_SAMPLERS = sizeof samplers / sizeof *samplers };

static struct st_file *open_mini(int i, const char *kind) {
    char name[64];
    snprintf(name, sizeof name, "%s.%s", minis[i], kind);
    return golden_open(name);
}

static void check_forward(const struct st_file *f, struct arena *a) {
    struct shape ids, text, in, out, mean, image;
    float *id = golden_rows(f, "token_ids", a, &ids);
    golden_rows(f, "text_embedding", a, &text);
    assert_int_equal(ids.w, 77);
    assert_int_equal(text.n, ids.n);
    assert_int_equal(text.w, 77);
    /* The last prompt is too long: its 77th token is the end of text, which starts no prompt. */
    assert_true(id[ids.n * 77 - 1] != id[0] && id[ids.n * 77 - 1] != id[ids.n * 77 - 2]);
    golden_rows(f, "unet.latents", a, &in);
    golden_rows(f, "unet.output", a, &out);
    assert_true(shape_equal(in, out));
    golden_rows(f, "vae.mean", a, &mean);
    golden_rows(f, "vae.image", a, &image);
    assert_int_equal(image.h, 8 * mean.h);
    assert_int_equal(image.w, 8 * mean.w);
}

/* Every sampler starts from the same draw, times its first sigma: DDIM's is 1, so its start is the draw
 * itself. */
static void check_start(const struct st_file *f, struct arena *a) {
    struct shape s;
    struct rng rng;
    float *ddim = golden_rows(f, "picture.ddim.latents", a, &s);
    size_t n = (size_t)s.h * (size_t)s.w * (size_t)s.c, pixels = (size_t)s.h * (size_t)s.w;
    assert_int_equal(s.n, 1 + (int)golden_number(f, "steps"));
    float *draw = arena_alloc_n(a, n, sizeof *draw);
    rng_seed(&rng, (uint64_t)golden_number(f, "seed"));
    rng_randn(&rng, draw, n);
    for (size_t p = 0; p < pixels; p++)
        for (size_t c = 0; c < (size_t)s.c; c++)
            if (ddim[p * (size_t)s.c + c] != draw[c * pixels + p])
                fail_msg("%s: noise differs at pixel %zu, channel %zu", st_path(f), p, c);
    for (int i = 0; i < N_SAMPLERS; i++) {
        char name[64];
        snprintf(name, sizeof name, "picture.%s.latents", samplers[i]);
        float *start = golden_rows(f, name, a, NULL);
        float sigma = start[0] / ddim[0];
        assert_true(sigma >= 1);
        for (size_t k = 0; k < n; k++) assert_true(fabsf(start[k] - sigma * ddim[k]) < 1e-5f * sigma);
    }
}

static void check_pictures(const struct st_file *f, struct arena *a) {
    int h, w, h0, w0;
    struct shape s;
    golden_rows(f, "picture.ddim.latents", a, &s);
    const uint8_t *first = golden_picture(f, "picture.ddim.image", &h0, &w0);
    for (int i = 0; i < N_SAMPLERS; i++) {
        char name[64];
        snprintf(name, sizeof name, "picture.%s.image", samplers[i]);
        const uint8_t *picture = golden_picture(f, name, &h, &w);
        assert_int_equal(h, 8 * s.h);
        assert_int_equal(w, 8 * s.w);
        double same = golden_psnr(picture, first, (size_t)h * (size_t)w * 3);
        if (i == 0) assert_true(isinf(same));
        if (i >= 2) assert_true(same < 60); /* Euler takes DDIM's path where the times are the same */
    }
    const uint8_t *lora = golden_picture(f, "picture_lora.ddim.image", &h, &w);
    assert_true(golden_psnr(lora, first, (size_t)h * (size_t)w * 3) < 30);
}

static void test_goldens(void **state) {
    (void)state;
    for (int i = 0; i < N_MINIS; i++) {
        struct arena *a = arena_create(NULL);
        struct st_file *f = open_mini(i, "golden");
        check_forward(f, a);
        check_start(f, a);
        check_pictures(f, a);
        st_close(&f);
        arena_destroy(&a);
    }
}

/* A start and a gradient of equal shape for every adapted half, none of them zero. */
static void check_training(const struct st_file *f, struct arena *a) {
    int n_start = 0;
    struct shape latents, noise, weight, gradient;
    golden_rows(f, "latents", a, &latents);
    golden_rows(f, "noise", a, &noise);
    assert_true(shape_equal(latents, noise));
    assert_int_equal(latents.n, (int)(golden_number(f, "steps") * golden_number(f, "batch")));
    for (size_t i = 0; i < st_count(f); i++) {
        const char *name = st_at(f, i)->name;
        if (strncmp(name, "start.", 6) != 0) continue;
        n_start++;
        golden_weight(f, name, a, &weight);
        float *g = golden_weight(f, arena_printf(a, "gradient.%s", name + 6), a, &gradient);
        assert_true(shape_equal(weight, gradient));
        float peak = 0;
        for (int64_t k = 0; k < shape_elems(gradient); k++) peak = fmaxf(peak, fabsf(g[k]));
        if (!(peak > 1e-5f)) fail_msg("%s: gradient of %s is zero", st_path(f), name + 6);
    }
    assert_true(n_start > 0 && n_start % 2 == 0);
}

static void test_training(void **state) {
    (void)state;
    static const char *const files[] = {"mini-sd1.train-attn",     "mini-sd1.train-attn-mlp",
                                        "mini-sd2.train-attn-mlp", "mini-xl.train-attn",
                                        "mini-xl.train-all",       "mini-odd.train-all"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct arena *a = arena_create(NULL);
        struct st_file *f = golden_open(files[i]);
        check_training(f, a);
        st_close(&f);
        arena_destroy(&a);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_goldens), cmocka_unit_test(test_training)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
