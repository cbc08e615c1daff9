/* Whole training runs on families other than the one that test_train_run trains: what is written, under which names, and that
 * it loads again and changes the picture. */
#include "tests/support/cm.h"
#include "tests/support/session.h"
#include "tests/support/train_runs.h"

#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "engine/generate.h"
#include "io/png.h"
#include "train/trainer_priv.h"

static const struct family {
    const char *mini, *version; /* kohya's name of the base model */
    bool text;
    const char *parts[4]; /* starts of module names that the file must have; others it must not */
} families[] = {
    {"mini-sdxl", "sdxl_base_v1-0", true, {"lora_unet_", "lora_te1_text_model_", "lora_te2_text_model_"}},
    {"mini-vega", "sdxl_base_v1-0", false, {"lora_unet_"}},
    {"mini-tiny", "sd_v1", true, {"lora_unet_", "lora_te_text_model_"}},
    {"mini-inpaint", "sd_v1", false, {"lora_unet_"}},
    {"mini-lcm", "sd_v1", false, {"lora_unet_"}},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

static struct train_params params_of(const struct family *f, const char *suffix) {
    struct train_params p = runs_params(arena_printf(runs_arena, "%s%s", f->mini, suffix));
    p.train_text_encoder = f->text;
    return p;
}

static void run(struct engine *e, const struct train_params *p) {
    struct runs_outcome o = runs_try_on(e, p);
    if (!o.ok) fail_msg("%s", o.e.text);
}

static void check_names(const struct family *f, const char *path) {
    struct error e = {{0}};
    struct st_file *st = st_open(path, &e);
    if (!st) fail_msg("%s", e.text);
    int seen[4] = {0};
    for (size_t i = 0; i < st_count(st); i++) {
        const char *name = st_at(st, i)->name;
        int k = 0;
        while (k < 4 && f->parts[k] && strncmp(name, f->parts[k], strlen(f->parts[k])) != 0) k++;
        if (k == 4 || !f->parts[k]) fail_msg("%s: %s", f->mini, name);
        seen[k]++;
    }
    for (int k = 0; k < 4 && f->parts[k]; k++)
        if (!seen[k]) fail_msg("%s: nothing begins with %s", f->mini, f->parts[k]);
    assert_string_equal(st_meta_find(st, "ss_base_model_version"), f->version);
    st_close(&st);
}

static uint8_t *draw(struct engine *e, const struct adapter *ad, float strength) {
    struct error err = {{0}};
    struct generate_params gp = {.w = RUNS_SIDE, .h = RUNS_SIDE, .steps = 3, .cfg = 3, .sampler = "ddim", .adapter = ad};
    struct generate_picture picture = {.prompt = "red fox", .seed = 1, .strength = &strength};
    struct generator *g = generator_create(e, &gp, &err);
    uint8_t *rgb = arena_alloc(runs_arena, RUNS_SIDE * RUNS_SIDE * 3);
    if (!g || !generator_run(g, &picture, NULL, rgb, &err)) fail_msg("%s", err.text);
    generator_destroy(&g);
    return rgb;
}

/* Every tensor finds its layer again, on every part that learned. */
static void check_effect(const struct family *f, struct engine *e, const char *path) {
    struct error err = {{0}};
    struct adapter *ad = adapter_open(e, &path, 1, &err);
    if (!ad) fail_msg("%s", err.text);
    assert_true(ad->touches[LORA_UNET]);
    assert_true(adapter_touches_text(ad) == f->text);
    assert_true(ad->touches[LORA_TEXT_2] == (f->text && e->model->n_texts > 1));
    assert_memory_not_equal(draw(e, ad, 4), draw(e, ad, 0), RUNS_SIDE * RUNS_SIDE * 3);
    adapter_close(&ad);
}

static void test_runs(void **state) {
    for (int i = 0; i < N_FAMILIES; i++) {
        struct engine *e = session_open(families[i].mini, session_default());
        struct train_params p = params_of(&families[i], "");
        run(e, &p);
        check_names(&families[i], p.out);
        check_effect(&families[i], e, p.out);
        session_close(&e);
    }
}

/* SDXL, both text encoders learning: stopped in the middle and resumed, the same bytes. */
static void test_resume(void **state) {
    struct engine *e = session_open("mini-sdxl", session_default());
    struct train_params once = params_of(&families[0], "-once"), halves = params_of(&families[0], "-halves");
    run(e, &once);
    halves.stop_after = RUNS_STEPS / 2;
    run(e, &halves);
    halves.stop_after = 0, halves.resume = true;
    run(e, &halves);
    runs_same_file(once.out, halves.out);
    session_close(&e);
}

/* SDXL is told the size of each picture: other originals, same squares, another LoRA. */
static void test_sizes_matter(void **state) {
    struct error err = {{0}};
    struct engine *e = session_open("mini-sdxl", session_default());
    struct train_params p = params_of(&families[0], "-sizes");
    struct trainer *t = trainer_create(e, &p, false, &err);
    if (!t) fail_msg("%s", err.text);
    int n = (int)shape_elems((struct shape){p.batch, RUNS_SIDE / 4, RUNS_SIDE / 4, 4}), window = model_window(e->model);
    float *zeros = arena_alloc_n(runs_arena, (size_t)n, sizeof *zeros),
          *ids = arena_alloc_n(runs_arena, (size_t)(p.batch * window), sizeof *ids);
    int *times = arena_alloc_n(runs_arena, (size_t)p.batch, sizeof *times);
    float *small = arena_alloc_n(runs_arena, (size_t)p.batch * 6, sizeof *small),
          *large = arena_alloc_n(runs_arena, (size_t)p.batch * 6, sizeof *large);
    float losses[2][64];
    for (int i = 0; i < 6 * p.batch; i++) small[i] = 64, large[i] = 1024;
    struct train_given given = {.latents = zeros, .noise = zeros, .t = times, .ids = {ids, ids}, .time_ids = small};
    assert_true(trainer_step_given(t, &given, false, losses[0], &err));
    given.time_ids = large;
    assert_true(trainer_step_given(t, &given, false, losses[1], &err));
    assert_true(losses[0][0] > 0 && losses[0][0] != losses[1][0]);
    trainer_destroy(&t);
    session_close(&e);
}

/* What SDXL is told of a picture of 100 x 64 pixels, cut to a square of 64 from its middle: the original's height and width,
 * the cut's top and left, the square's height and width. */
static void test_sizes(void **state) {
    static const float want[] = {64, 100, 0, 18, 64, 64};
    struct error err = {{0}};
    struct engine *e = session_open("mini-sdxl", session_default());
    struct train_params p = params_of(&families[1], "-wide");
    struct image im = image_create(runs_arena, 100, 64);
    p.data = runs_path("wide"), p.caption = "wide";
    assert_true(os_dir_make(p.data, &err) && png_write(runs_path("wide/a.png"), &im, NULL, 0, &err));
    struct trainer *t = trainer_create(e, &p, false, &err);
    if (!t) fail_msg("%s", err.text);
    assert_memory_equal(t->time_ids, want, sizeof want);
    trainer_destroy(&t);
    session_close(&e);
}

/* An inpainting model learns with everything masked: ones, and what the VAE makes of grey. */
static void test_inpainting(void **state) {
    struct error err = {{0}};
    struct engine *e = session_open("mini-inpaint", session_default());
    struct train_params p = params_of(&families[3], "-masked");
    struct trainer *t = trainer_create(e, &p, false, &err);
    if (!t) fail_msg("%s", err.text);
    const struct vae_config *vae = &e->model->vae;
    int c = t->channels, pixels = t->lw * t->lh;
    float *grey = arena_alloc_n(runs_arena, RUNS_SIDE * RUNS_SIDE * 3, sizeof *grey),
          *moments = arena_alloc_n(runs_arena, (size_t)(pixels * 2 * c), sizeof *moments);
    struct vae_session *session = vae_session_create(e, true, 1, RUNS_SIDE, RUNS_SIDE, &err);
    if (!session || !vae_session_encode_values(session, grey, moments, &err)) fail_msg("%s", err.text);
    assert_int_equal(model_extra_channels(e->model), 1 + c);
    for (int i = 0; i < pixels; i++) {
        assert_true(t->extra[i * (1 + c)] == 1);
        for (int k = 0; k < c; k++)
            assert_float_equal(t->extra[i * (1 + c) + 1 + k],
                               (moments[i * 2 * c + k] - vae->shift_factor) * vae->scaling_factor, 1e-6);
    }
    vae_session_destroy(&session);
    trainer_destroy(&t);
    session_close(&e);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_runs), cmocka_unit_test(test_resume),
                                       cmocka_unit_test(test_sizes_matter), cmocka_unit_test(test_sizes),
                                       cmocka_unit_test(test_inpainting)};
    return cmocka_run_group_tests(tests, runs_setup, runs_teardown);
}
