/* Adapters of every kind beside what LyCORIS and PEFT make of the same files (tests/reference/make_kinds.py): changes of
 * weights, UNet outputs with a strength per image, embeddings, and several kinds at once. */
#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/scratch.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/adapter.h"
#include "lora/delta.h"

#define MODEL "mini-sd1"
enum { MAX_MIXED = 8 };

struct bench {
    struct arena *arena;
    struct engine *e;
    struct st_file *golden, *model_golden;
    json_t *names, *strengths, *mixed;
};

static const char *kind_path(struct bench *b, const char *name) {
    const char *file = golden_path(b->arena, arena_printf(b->arena, "kinds/%s.safetensors", name));
    FILE *f = fopen(file, "rb");
    if (f) fclose(f);
    return f ? file : golden_path(b->arena, arena_printf(b->arena, "kinds/%s", name));
}

static int setup(void **state) {
    static struct bench b;
    struct error e = {0};
    b = (struct bench){.arena = arena_create(NULL), .golden = golden_open("kinds/golden"),
                       .model_golden = golden_open(MODEL ".golden")};
    b.names = json_loads(golden_text(b.golden, "names"), 0, NULL);
    b.strengths = json_loads(golden_text(b.golden, "strengths"), 0, NULL);
    b.mixed = json_loads(golden_text(b.golden, "mixed"), 0, NULL);
    struct engine_params p = {.gpu = {.device = "cpu", .cache_dir = ATELIER_BINARY_DIR "/test-cache"},
                              .model = golden_path(b.arena, MODEL)};
    if (!(b.e = engine_open(&p, &e))) fail_msg("%s", e.text);
    *state = &b;
    return 0;
}

static int teardown(void **state) {
    struct bench *b = *state;
    engine_close(&b->e);
    st_close(&b->golden);
    st_close(&b->model_golden);
    json_decref(b->names), json_decref(b->strengths), json_decref(b->mixed);
    arena_destroy(&b->arena);
    return 0;
}

/* Over the largest of want: a difference of nothing counts as nothing. */
static double peak_error(const float *got, const float *want, size_t n) {
    double worst = 0, peak = 1e-30;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - want[i]);
        if (!(d <= worst)) worst = d;
        if (fabs((double)want[i]) > peak) peak = fabs((double)want[i]);
    }
    return worst / peak;
}

static const struct nn_params *params_of(const struct bench *b, enum lora_part part) {
    return part == LORA_UNET ? b->e->model->unet_params : b->e->model->texts[part - LORA_TEXT].params;
}

/* The worst of weight and bias; counts what there was to compare. */
static double module_error(struct bench *b, const char *name, const struct lora_module *m, int *compared) {
    struct arena *a = arena_create(b->arena);
    struct error e = {0};
    const struct nn_params *base = params_of(b, m->part);
    const char *path = m->target->path, *weight = arena_printf(a, "%s.delta.%s", name, path);
    const char *bias = arena_printf(a, "%s.bias.%s", name, path);
    double worst = 0;
    if (st_find(b->golden, weight)) {
        size_t n = (size_t)shape_elems(m->target->weight);
        float *want = arena_alloc_n(a, n, sizeof *want), *got = arena_alloc_n(a, n, sizeof *got);
        if (m->target->is_norm) assert_true(st_read_f32(st_find(b->golden, weight), want, n, &e));
        else want = golden_weight(b->golden, weight, a, NULL);
        if (!lora_module_delta(m, base, got, NULL, &e)) fail_msg("%s", e.text);
        worst = peak_error(got, want, n);
        ++*compared;
    }
    if (st_find(b->golden, bias)) {
        const struct st_tensor *t = st_find(b->golden, bias);
        size_t n = st_tensor_elements(t);
        float *want = arena_alloc_n(a, n, sizeof *want), *got = arena_alloc_n(a, n, sizeof *got);
        assert_true(lora_module_has_bias(m, base) && st_read_f32(t, want, n, &e));
        if (!lora_module_delta(m, base, NULL, got, &e)) fail_msg("%s", e.text);
        worst = fmax(worst, peak_error(got, want, n));
        ++*compared;
    }
    arena_destroy(&a);
    return worst;
}

static void test_deltas(void **state) {
    struct bench *b = *state;
    struct error e = {0};
    struct lora_model model = adapter_lora_model(b->e->model);
    struct lora_keys *keys = lora_keys_create(&model);
    for (size_t i = 0; i < json_array_size(b->names); i++) {
        const char *name = json_string_value(json_array_get(b->names, i));
        struct lora_file *f = lora_file_open(kind_path(b, name), keys, &e);
        if (!f) fail_msg("%s", e.text);
        if (f->n_by_status[LORA_MATCHED] != f->n_modules || f->n_foreign)
            fail_msg("%s: %s", name, lora_file_report(f, b->arena));
        int compared = 0;
        double worst = 0;
        for (int k = 0; k < f->n_modules; k++) worst = fmax(worst, module_error(b, name, &f->modules[k], &compared));
        print_message("%-18s %2d changes of weights and biases: %.2g of the largest\n", name, compared, worst);
        assert_true(compared > 0);
        if (!(worst < 1e-5)) fail_msg("%s is off by %g", name, worst);
        lora_file_close(&f);
    }
    lora_keys_destroy(&keys);
}

/* Batch 2; strength[image*n + adapter]. */
static void check_unet(struct bench *b, const char *what, struct adapter *ad, const float *strength) {
    struct error e = {0};
    struct shape s, cs;
    float *x = golden_rows(b->model_golden, "unet.latents", b->arena, &s);
    float *context = golden_rows(b->model_golden, "unet.context", b->arena, &cs);
    float *times = golden_rows(b->model_golden, "unet.timesteps", b->arena, NULL);
    float *want = golden_rows(b->golden, arena_printf(b->arena, "%s.unet", what), b->arena, NULL);
    struct denoiser_params p = {.n = 2, .w = s.w, .h = s.h, .tokens = cs.w, .adapter = ad};
    struct denoiser *d = denoiser_create(b->e, &p, &e);
    if (!d) fail_msg("%s", e.text);
    denoiser_set_context(d, context);
    denoiser_set_strength(d, strength);
    float *out = arena_alloc_n(b->arena, (size_t)shape_elems(s), sizeof *out);
    if (!denoiser_run(d, x, times, out, &e)) fail_msg("%s", e.text);
    golden_near(what, out, want, (size_t)shape_elems(s), 1e-4);
    denoiser_destroy(&d);
}

static void check_text(struct bench *b, const char *name, struct adapter *ad) {
    struct error e = {0};
    struct shape s;
    float *want = golden_rows(b->golden, arena_printf(b->arena, "%s.text", name), b->arena, &s), one = 1;
    int32_t ids[77];
    assert_int_equal(model_window(b->e->model), 77);
    tokenizer_encode_window(b->e->model->texts[0].tokenizer, golden_text(b->golden, "prompt"), ids, NULL);
    struct text_params p = {.adapter = ad, .strength = &one};
    float *out = arena_alloc_n(b->arena, (size_t)shape_elems(s), sizeof *out);
    if (!engine_encode_text(b->e, (const int32_t *const[MODEL_MAX_TEXTS]){ids}, 1, &p, out, NULL, &e)) fail_msg("%s", e.text);
    golden_near(name, out, want, (size_t)shape_elems(s), 1e-4);
}

static void test_outputs(void **state) {
    struct bench *b = *state;
    struct error e = {0};
    float strength[2];
    for (int i = 0; i < 2; i++) strength[i] = (float)json_number_value(json_array_get(b->strengths, (size_t)i));
    for (size_t i = 0; i < json_array_size(b->names); i++) {
        const char *name = json_string_value(json_array_get(b->names, i)), *path = kind_path(b, name);
        struct adapter *ad = adapter_open(b->e, &path, 1, &e);
        if (!ad) fail_msg("%s", e.text);
        check_unet(b, name, ad, strength);
        if (st_find(b->golden, arena_printf(b->arena, "%s.text", name))) check_text(b, name, ad);
        adapter_close(&ad);
    }
}

/* Four kinds at once, factors beside changes of weights, each image with strengths of its own. */
static void test_mixed(void **state) {
    struct bench *b = *state;
    struct error e = {0};
    const char *paths[MAX_MIXED], *name;
    float strength[2 * MAX_MIXED];
    json_t *values;
    int n = (int)json_object_size(b->mixed), at = 0;
    assert_true(n > 1 && n <= MAX_MIXED);
    json_object_foreach(b->mixed, name, values) {
        for (int image = 0; image < 2; image++)
            strength[image * n + at] = (float)json_number_value(json_array_get(values, (size_t)image));
        paths[at++] = kind_path(b, name);
    }
    struct adapter *ad = adapter_open(b->e, paths, n, &e);
    if (!ad) fail_msg("%s", e.text);
    check_unet(b, "mixed", ad, strength);
    adapter_close(&ad);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_deltas), cmocka_unit_test(test_outputs),
                                       cmocka_unit_test(test_mixed)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
