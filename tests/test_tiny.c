/* The tiny autoencoder's decoder beside diffusers' (tests/reference/make_tiny.py), under both spellings of its names. */
#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/test_device.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "engine/engine.h"

static void decodes_as_diffusers(void **state) {
    static const char *const files[] = {"tiny.safetensors", "tiny-bare.safetensors"};
    struct arena *a = arena_create(NULL);
    struct st_file *golden = golden_open("tiny.golden");
    struct shape in, out;
    float *latents = golden_rows(golden, "latents", a, &in), *want = golden_rows(golden, "image", a, &out);
    for (int i = 0; i < 2; i++) {
        struct error e = {0};
        struct engine_params p = {.gpu = {.device = test_device(), .validate = getenv("ATELIER_VALIDATE") != NULL},
                                  .model = golden_path(a, "file-sd1"), .files = {.vae = golden_path(a, files[i])}};
        struct engine *engine = engine_open(&p, &e);
        if (!engine) fail_msg("%s", e.text);
        assert_int_equal(vae_config_factor(&engine->model->vae), 8);
        struct vae_session *s = vae_session_create(engine, false, 1, out.w, out.h, &e);
        if (!s) fail_msg("%s", e.text);
        float *raw = arena_alloc(a, (size_t)shape_elems(out) * sizeof *raw);
        uint8_t *rgb = arena_alloc(a, (size_t)shape_elems(out));
        if (!vae_session_decode(s, latents, rgb, raw, &e)) fail_msg("%s", e.text);
        golden_near(files[i], raw, want, (size_t)shape_elems(out), 1e-5);
        vae_session_destroy(&s);
        /* It has no encoder, and says so. */
        s = vae_session_create(engine, true, 1, 64, 64, &e);
        assert_null(s);
        assert_non_null(strstr(e.text, "only decodes"));
        assert_int_equal(gpu_device_messages(engine->dev), 0);
        engine_close(&engine);
    }
    st_close(&golden);
    arena_destroy(&a);
}

int main(void) {
    log_set_level(LOG_QUIET);
    const struct CMUnitTest tests[] = {cmocka_unit_test(decodes_as_diffusers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
