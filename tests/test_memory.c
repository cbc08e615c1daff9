/* Small devices: the VAE in tiles against diffusers' enable_tiling, again in f32 after an overflow, and whole pictures
 * within a budget that the model does not fit. */
#include "tests/support/cm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/generate.h"
#include "engine/memory.h"
#include "tests/support/golden.h"
#include "tests/support/session.h"
#include "train/trainer.h"

enum { TILE = 64 };

static float *rows_of(const struct st_file *f, const char *name, struct arena *a, struct shape *s) {
    float *v = golden_rows(f, name, a, s);
    return v;
}

static void test_tiles_are_diffusers(void **state) {
    struct error e = {0};
    struct arena *a = arena_create(NULL);
    struct st_file *f = golden_open("vae-tiles");
    struct engine *engine = session_open("mini-sd1", session_default());
    engine->params.vae_tiling = ENGINE_TILING_ON, engine->params.vae_tile = TILE;
    struct shape image, latent, moments;
    const float *x = rows_of(f, "image", a, &image), *want = rows_of(f, "moments", a, &moments),
                *z = rows_of(f, "latents", a, &latent);
    size_t n = (size_t)shape_elems(moments), m = (size_t)shape_elems(image);
    float *got = arena_alloc_n(a, n, sizeof *got), *scaled = arena_alloc_n(a, (size_t)shape_elems(latent), sizeof *scaled);
    struct vae_session *s = vae_session_create(engine, true, 1, image.w, image.h, &e);
    if (!s || !vae_session_encode_values(s, x, got, &e)) fail_msg("%s", e.text);
    vae_session_destroy(&s);
    golden_near("moments in tiles", got, want, n, 1e-4);
    for (int64_t i = 0; i < shape_elems(latent); i++) scaled[i] = z[i] * engine->model->vae.scaling_factor;
    float *raw = arena_alloc_n(a, m, sizeof *raw);
    uint8_t *rgb = arena_alloc(a, m);
    s = vae_session_create(engine, false, 1, image.w, image.h, &e);
    if (!s || !vae_session_decode(s, scaled, rgb, raw, &e)) fail_msg("%s", e.text);
    golden_near("picture in tiles", raw, rows_of(f, "decoded", a, NULL), m, 1e-4);
    vae_session_destroy(&s);
    /* and differs from the whole, which has other statistics in its norms */
    engine->params.vae_tiling = ENGINE_TILING_OFF;
    float *whole = arena_alloc_n(a, m, sizeof *whole);
    s = vae_session_create(engine, false, 1, image.w, image.h, &e);
    if (!s || !vae_session_decode(s, scaled, rgb, whole, &e)) fail_msg("%s", e.text);
    vae_session_destroy(&s);
    assert_true(golden_range_error(raw, whole, m) > 1e-3);
    st_close(&f);
    session_close(&engine);
    arena_destroy(&a);
}

/* Latents far outside what half floats hold. */
static void test_overflow_is_done_again(void **state) {
    struct error e = {0};
    struct arena *a = arena_create(NULL);
    enum { SIDE = 32, N = SIDE * SIDE * 3, LATENTS = 4 * 4 * 4 };
    float z[LATENTS], *half = arena_alloc_n(a, N, sizeof *half), *full = arena_alloc_n(a, N, sizeof *full);
    uint8_t rgb[N];
    for (int i = 0; i < LATENTS; i++) z[i] = 1e5f * sinf((float)i);
    for (int rig = SESSION_GPU_F32; rig <= SESSION_GPU_F16; rig++) {
        struct engine *engine = session_open("mini-sd1", rig);
        struct vae_session *s = vae_session_create(engine, false, 1, SIDE, SIDE, &e);
        if (!s || !vae_session_decode(s, z, rgb, rig == SESSION_GPU_F16 ? half : full, &e)) fail_msg("%s", e.text);
        vae_session_destroy(&s);
        session_close(&engine);
    }
    for (int i = 0; i < N; i++) assert_true(isfinite(half[i]));
    golden_near("again in f32", half, full, N, 1e-2);
    arena_destroy(&a);
}

/* A picture drawn in at most `limit` bytes more than an idle device takes (0: all there is); returns the peak. */
static int64_t draw(int64_t limit, uint8_t *rgb, int side, struct error *e) {
    struct gpu_params gp = {.device = "cpu", .memory_limit = limit};
    struct arena *a = arena_create(NULL);
    struct engine_params ep = {.gpu = gp, .model = golden_path(a, "mini-sd1")};
    struct engine *engine = engine_open(&ep, e);
    if (!engine) fail_msg("%s", e->text);
    struct generate_params p = {.w = side, .h = side, .steps = 2, .cfg = 3};
    struct generate_picture picture = {.prompt = "a red apple", .seed = 4};
    struct generator *g = generator_create(engine, &p, e);
    bool ok = g != NULL;
    for (int i = 0; ok && i < 2; i++) ok = generator_run(g, &picture, NULL, rgb, e); /* the second finds what the first left */
    int64_t peak = gpu_device_memory_peak(engine->dev);
    generator_destroy(&g);
    engine_close(&engine);
    arena_destroy(&a);
    return ok ? peak : -1;
}

static void test_pictures_within_a_budget(void **state) {
    struct error e = {0};
    enum { SIDE = 64, N = SIDE * SIDE * 3 };
    static uint8_t want[N], got[N];
    int64_t all = draw(0, want, SIDE, &e), least = 0;
    assert_true(all > 0);
    for (int64_t limit = all; limit > 0; limit -= all / 10) {
        memset(got, 0, N);
        int64_t peak = draw(limit, got, SIDE, &e);
        if (peak < 0) break;
        assert_true(peak <= limit);
        least = limit;
        int most = 0;
        for (int i = 0; i < N; i++) most = abs(got[i] - want[i]) > most ? abs(got[i] - want[i]) : most;
        assert_true(most <= 1); /* other kernels, the last bit of a byte */
    }
    print_message("%.1f of %.1f MiB are enough; then: %s\n", (double)least / 1048576, (double)all / 1048576, e.text);
    assert_true(least < all * 3 / 4);
    assert_non_null(strstr(e.text, "needs at least"));
}

/* The demo model's training step: kept whole, recomputed, with weights in turn, refused. */
static void test_training_within_a_budget(void **state) {
    struct error e = {0};
    int64_t before = INT64_MAX;
    bool streamed = false;
    for (int64_t limit = 0;; limit = limit ? limit * 4 / 5 : 96 << 20) {
        struct engine_params ep = {.gpu = {.device = "cpu", .memory_limit = limit}, .model = ATELIER_SOURCE_DIR "/assets/model",
                                   .weights = ENGINE_WEIGHTS_F32};
        struct engine *engine = engine_open(&ep, &e);
        if (!engine) fail_msg("%s", e.text);
        struct train_params p = train_params_default();
        p.batch = 1, p.rank = 4;
        struct trainer *t = trainer_create(engine, &p, true, &e);
        struct train_plan plan = t ? trainer_plan(t) : (struct train_plan){0};
        trainer_destroy(&t);
        engine_close(&engine);
        if (e.text[0]) break;
        assert_true(!limit || plan.peak_bytes <= limit);
        assert_true(plan.peak_bytes <= before);
        assert_true(!plan.away_bytes || (plan.remat && plan.ring_bytes > 0 && !plan.prepared_bytes));
        before = plan.peak_bytes;
        streamed |= plan.away_bytes > 0;
    }
    print_message("%.1f MiB at least; then: %s\n", (double)before / 1048576, e.text);
    assert_true(streamed);
    assert_non_null(strstr(e.text, "needs at least"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tiles_are_diffusers),
        cmocka_unit_test(test_overflow_is_done_again),
        cmocka_unit_test(test_pictures_within_a_budget),
        cmocka_unit_test(test_training_within_a_budget),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
