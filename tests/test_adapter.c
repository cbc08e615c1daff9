/* LoRA files through the engine: two files on one batch, each picture with its own strengths, beside the
 * double references of the merged model. Every kind of layer is touched, 3x3 convolutions with strides among
 * them. */
#include "tests/support/cm.h"
#include "tests/support/mini_unet.h"
#include "tests/support/scratch.h"

#include <stdio.h>
#include <string.h>

#include "engine/adapter.h"
#include "lora/save.h"

static const float strength[2][2] = {{1.0f, 0.5f}, {-0.7f, 0.0f}};

/* What adapter `index` of the stack holds, as a kohya file. */
static const char *save_adapter(struct mini_unet *m, const struct lora_stack *stack, int index,
                                const char *name) {
    struct error e = {0};
    struct lora_model model = {{&m->targets, NULL, NULL}};
    struct lora_keys *keys = lora_keys_create(&model);
    struct lora_save_module *modules = arena_alloc_n(m->arena, (size_t)stack->n_layers, sizeof *modules);
    int n = 0;
    for (int l = 0; l < stack->n_layers; l++)
        for (int p = 0; p < stack->layers[l].n_parts; p++) {
            const struct lora_stack_part *part = &stack->layers[l].parts[p];
            if (part->adapter != index) continue;
            modules[n++] = (struct lora_save_module){.place = {LORA_UNET, stack->layers[l].target},
                                                     .rank = part->rank,
                                                     .alpha = part->scale * (float)part->rank,
                                                     .down = part->down,
                                                     .up = part->up};
        }
    struct lora_save_params p = {.modules = modules, .n_modules = n, .dtype = ST_F32};
    if (!lora_save(scratch_path(name), keys, &p, &e)) fail_msg("%s", e.text);
    lora_keys_destroy(&keys);
    return arena_strdup(m->arena, scratch_path(name));
}

static float *denoise(struct engine *e, const struct adapter *ad, struct st_file *golden, struct arena *a) {
    struct error err = {0};
    struct shape s, cs, ts;
    double *x = eval_golden(golden, "unet.latents", a, &s),
           *context = eval_golden(golden, "unet.context", a, &cs);
    double *times = eval_golden(golden, "unet.timesteps", a, &ts);
    size_t n = (size_t)shape_elems(s), n_context = (size_t)shape_elems(cs);
    float *x32 = arena_alloc_n(a, n, sizeof *x32), *c32 = arena_alloc_n(a, n_context, sizeof *c32), t32[2];
    for (size_t i = 0; i < n; i++) x32[i] = (float)x[i];
    for (size_t i = 0; i < n_context; i++) c32[i] = (float)context[i];
    for (int i = 0; i < 2; i++) t32[i] = (float)times[i];
    struct denoiser_params p = {.n = 2, .w = s.w, .h = s.h, .tokens = cs.w, .adapter = ad};
    struct denoiser *d = denoiser_create(e, &p, &err);
    if (!d) fail_msg("%s", err.text);
    denoiser_set_context(d, c32);
    denoiser_set_strength(d, strength[0]);
    float *out = arena_alloc_n(a, n, sizeof *out);
    if (!denoiser_run(d, x32, t32, out, &err)) fail_msg("%s", err.text);
    denoiser_destroy(&d);
    return out;
}

static void check_files(const char *name) {
    struct error err = {0};
    struct mini_unet m;
    mini_unet_open(&m, name, TENSOR_F32);
    struct lora_stack *stack = mini_unet_random_stack(&m, false);
    const char *paths[] = {save_adapter(&m, stack, 0, "first.safetensors"),
                           save_adapter(&m, stack, 1, "second.safetensors")};
    struct st_file *golden =
        st_open(eval_data_path(m.arena, arena_printf(m.arena, "%s.golden.safetensors", name)), &err);
    assert_non_null(golden);
    struct engine_params ep = {.gpu = {.device = "cpu", .cache_dir = ATELIER_BINARY_DIR "/test-cache"},
                               .model = eval_data_path(m.arena, name)};
    struct engine *e = engine_open(&ep, &err);
    if (!e) fail_msg("%s", err.text);
    struct adapter *ad = adapter_open(e, paths, 2, &err);
    if (!ad) fail_msg("%s", err.text);
    float *out = denoise(e, ad, golden, m.arena);
    for (int image = 0; image < 2; image++) {
        struct shape s;
        struct mini_merged merged = {&m, stack, strength[image]};
        struct eval_set weights = {m.params->set, mini_merged_read, &merged};
        double *want = mini_unet_run(&m, NULL, golden, stack, NULL, weights, &s);
        int64_t half = shape_elems(s) / 2;
        double *got = arena_alloc_n(m.arena, (size_t)half, sizeof *got);
        for (int64_t i = 0; i < half; i++) got[i] = out[image * half + i];
        double worst = eval_worst(got, want + image * half, half);
        print_message("%s, image %d: %.2g of the range\n", name, image, worst);
        assert_true(worst < 1e-4);
    }
    adapter_close(&ad);
    engine_close(&e);
    st_close(&golden);
    mini_unet_close(&m);
}

static void test_files(void **state) {
    check_files("mini-xl");
    check_files("mini-odd");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_files)};
    return cmocka_run_group_tests(tests, scratch_make, scratch_drop);
}
