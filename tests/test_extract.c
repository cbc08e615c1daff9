/* The difference of two models as a LoRA: beside numpy's singular values, and back to a LoRA that was merged in. */
#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/scratch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "engine/adapter.h"
#include "engine/merge.h"
#include "lora/delta.h"
#include "lora/dense.h"
#include "lora/extract.h"

static const float *numbers(const struct st_file *f, const char *name, struct arena *a, const struct st_tensor **t) {
    struct error e;
    *t = st_find(f, name);
    if (!*t) fail_msg("no %s", name);
    return lora_dense_read(*t, a, &e);
}

/* up * down in the file's order. */
static float *product(const float *up, const float *down, size_t out, size_t in, size_t taps, size_t rank, struct arena *a) {
    float *rows = arena_alloc_n(a, out * in * taps, sizeof *rows), *whole = arena_alloc_n(a, out * in * taps, sizeof *whole);
    for (size_t t = 0; t < taps; t++) lora_dense_product(rows + t * out * in, up, down + t * rank * in, out, rank, in);
    lora_dense_taps_last(whole, rows, out, in, taps);
    return whole;
}

static void check_layer(const struct st_file *f, const char *name, double clamp, const char *result) {
    struct arena *a = arena_create(NULL);
    struct error e;
    const struct st_tensor *t, *ignored;
    const float *d = numbers(f, arena_printf(a, "%s.diff", name), a, &t),
                *want = numbers(f, arena_printf(a, "%s.%s", name, result), a, &ignored);
    const float *shares = numbers(f, arena_printf(a, "%s.shares", name), a, &ignored);
    int taps = t->rank == 4 ? (int)(t->dims[2] * t->dims[3]) : 1, out = (int)t->dims[0], in = (int)t->dims[1], rank;
    float *rows = arena_alloc_n(a, (size_t)(out * in * taps), sizeof *rows), *up, *down;
    lora_dense_taps_first(rows, d, (size_t)out, (size_t)in, (size_t)taps);
    struct shape w = {taps, 1, out, in};
    double kept;
    struct lora_rank_rule rule = {LORA_RANK_FIXED, 0, 5};
    if (!lora_extract_layer(rows, w, &rule, clamp, a, &rank, &up, &down, &kept, &e)) fail_msg("%s", e.text);
    assert_int_equal(rank, 5);
    assert_true(fabs(kept - (double)shares[4]) < 1e-6);
    golden_near(arena_printf(a, "%s %s", name, result), product(up, down, (size_t)out, (size_t)in, (size_t)taps, 5, a), want,
                (size_t)(out * in * taps), 1e-6);
    /* A share instead of a rank: the least rank that keeps it, and one more as kohya counts. */
    rule = (struct lora_rank_rule){LORA_RANK_FRO, 0.9, 0};
    if (!lora_extract_layer(rows, w, &rule, clamp, a, &rank, &up, &down, &kept, &e)) fail_msg("%s", e.text);
    assert_true(kept >= 0.9 && (double)shares[rank > 2 ? rank - 3 : 0] < 0.9);
    rows[3] = NAN;
    assert_false(lora_extract_layer(rows, w, &rule, clamp, a, &rank, &up, &down, &kept, &e));
    arena_destroy(&a);
}

static void beside_numpy(void **state) {
    static const char *const names[] = {"linear", "tall", "conv"};
    struct st_file *f = golden_open("extract");
    for (int i = 0; i < 3; i++) {
        check_layer(f, names[i], 1, "product");
        check_layer(f, names[i], 0.9, "clamped");
    }
    st_close(&f);
}

/* ---- Whole models ---- */

/* One file's tensors in single precision: in halves, rounding would be part of the difference. */
static void widen(const char *from, const char *to) {
    struct arena *a = arena_create(NULL);
    struct error e;
    struct st_file *f = st_open(from, &e);
    if (!f) fail_msg("%s", e.text);
    struct st_writer *w = st_writer_create();
    for (size_t i = 0; i < st_count(f); i++) {
        const struct st_tensor *t = st_at(f, i);
        st_writer_add_f32(w, t->name, ST_F32, t->rank, t->dims, lora_dense_read(t, a, &e));
    }
    if (!st_writer_save(w, to, &e)) fail_msg("%s", e.text);
    st_writer_destroy(&w);
    st_close(&f);
    arena_destroy(&a);
}

static const char *widened(struct arena *a, const char *mini, bool two_texts) {
    static const char *const parts[] = {"unet/diffusion_pytorch_model", "text_encoder/model", "text_encoder_2/model"};
    const char *to = arena_printf(a, "%s-wide", scratch_path(mini));
    assert_int_equal(system(arena_printf(a, "cp -r '%s' '%s' && chmod -R u+w '%s'", golden_path(a, mini), to, to)), 0);
    for (int i = 0; i < 2 + two_texts; i++)
        widen(arena_printf(a, "%s/%s.safetensors", golden_path(a, mini), parts[i]),
              arena_printf(a, "%s/%s.safetensors", to, parts[i]));
    return to;
}

static struct model *open_model(const char *path) {
    struct error e;
    struct model_params mp = {TENSOR_F32, 0};
    struct model *m = model_open(path, &mp, &e);
    if (!m) fail_msg("%s", e.text);
    return m;
}

static struct lora_extract_params params(const struct model *base, const struct model *tuned) {
    struct lora_extract_params p = {.rule = {LORA_RANK_FIXED, 0, 8}, .clamp = 1, .min_diff = 0.01, .dtype = ST_F32,
                                    .comment = "test"};
    p.base[LORA_UNET] = base->unet_params, p.tuned[LORA_UNET] = tuned->unet_params;
    for (int i = 0; i < base->n_texts; i++) p.base[LORA_TEXT + i] = base->texts[i].params;
    for (int i = 0; i < tuned->n_texts; i++) p.tuned[LORA_TEXT + i] = tuned->texts[i].params;
    return p;
}

/* Every layer's change in both files. */
static void compare_files(struct model *m, const struct lora_keys *keys, const char *known, const char *found, double most) {
    struct arena *a = arena_create(NULL);
    struct error e;
    struct lora_file *x = lora_file_open(known, keys, &e), *y = lora_file_open(found, keys, &e);
    if (!x || !y) fail_msg("%s", e.text);
    int n = 0;
    double worst = 0;
    for (int i = 0; i < x->n_modules; i++)
        for (int k = 0; k < y->n_modules; k++) {
            const struct lora_module *p = &x->modules[i], *q = &y->modules[k];
            if (p->target != q->target || p->part != q->part) continue;
            size_t size = (size_t)shape_elems(p->target->weight);
            float *dp = arena_alloc_n(a, size, sizeof *dp), *dq = arena_alloc_n(a, size, sizeof *dq);
            const struct nn_params *base = p->part == LORA_UNET ? m->unet_params : m->texts[p->part - LORA_TEXT].params;
            if (!lora_module_delta(p, base, dp, NULL, &e) || !lora_module_delta(q, base, dq, NULL, &e)) fail_msg("%s", e.text);
            double top = 0, far = 0;
            for (size_t j = 0; j < size; j++)
                top = fmax(top, fabs((double)dp[j])), far = fmax(far, fabs((double)dp[j] - dq[j]));
            worst = fmax(worst, far / top);
            n++;
        }
    print_message("%d of %d layers, worst %.2g of a layer's largest number\n", n, x->n_modules, worst);
    assert_int_equal(n, x->n_modules);
    assert_int_equal(n, y->n_modules);
    assert_true(worst < most);
    lora_file_close(&x);
    lora_file_close(&y);
    arena_destroy(&a);
}

static void check_model(const char *model, const char *lora, const char *tuned_name) {
    struct arena *a = arena_create(NULL);
    struct error e;
    struct model *base = open_model(widened(a, model, !strcmp(model, "mini-sdxl")));
    const char *known = golden_path(a, lora), *to = arena_strdup(a, scratch_path(tuned_name)),
               *found = arena_strdup(a, scratch_path("found.safetensors"));
    struct merge_lora l = {known, 1};
    struct merge_params mp = {&l, 1, to};
    struct merge_result merged;
    if (!model_merge(base, &mp, &merged, &e)) fail_msg("%s", e.text);
    struct model *tuned = open_model(to);
    struct lora_model layers = adapter_lora_model(base);
    struct lora_keys *keys = lora_keys_create(&layers);
    struct lora_extract_params p = params(base, tuned);
    struct lora_extract_result r;
    if (!lora_extract(keys, &p, found, &r, &e)) fail_msg("%s", e.text);
    print_message("%s: %d layers, %d without a change, kept %.6f\n", model, r.n_layers, r.n_same, r.kept_fro);
    assert_true(r.kept_fro > 0.9999 && r.error < 1e-3 && r.n_same > 0);
    compare_files(base, keys, known, found, 1e-4);
    p.min_diff = 100; /* no text encoder changes by so much: the UNet alone is left */
    if (!lora_extract(keys, &p, found, &r, &e)) fail_msg("%s", e.text);
    for (int i = 0; i < base->n_texts; i++) assert_true(r.skipped[LORA_TEXT + i]);
    assert_false(r.skipped[LORA_UNET]);
    p = params(base, base);
    assert_false(lora_extract(keys, &p, found, &r, &e));
    assert_non_null(strstr(e.text, "nothing to extract"));
    struct model *other = open_model(golden_path(a, "mini-inpaint"));
    p = params(base, other);
    assert_false(lora_extract(keys, &p, scratch_path("no.safetensors"), &r, &e));
    assert_non_null(strstr(e.text, "different architectures"));
    assert_false(os_path_exists(scratch_path("no.safetensors")));
    lora_keys_destroy(&keys);
    model_close(&other);
    model_close(&tuned);
    model_close(&base);
    arena_destroy(&a);
}

static void merged_and_back(void **state) {
    check_model("mini-sd1", "mini-sd1.lora-te.safetensors", "tuned");
    check_model("mini-sdxl", "mini-sdxl.lora-te.safetensors", "tuned-xl");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(beside_numpy),
        cmocka_unit_test(merged_and_back),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_drop);
}
