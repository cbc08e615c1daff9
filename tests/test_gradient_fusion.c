/* Gradient fusion beside torch's least squares on what diffusers' layers read (make_learnt_merges.py), the systems themselves,
 * and the whole command's work. */
#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/scratch.h"
#include "tests/support/session.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "lora/cholesky.h"
#include "lora/delta.h"
#include "train/fusion.h"
#include "train/merger.h"

enum { LORAS = 2 };

static void test_cholesky(void **state) {
    static const size_t sizes[] = {1, 3, 64, 65, 200};
    struct arena *a = arena_create(NULL);
    struct rng r;
    rng_seed(&r, 3);
    for (size_t c = 0; c < sizeof sizes / sizeof *sizes; c++) {
        size_t n = sizes[c], k = n + 5;
        float *x = arena_alloc_n(a, n * k, sizeof *x);
        double *m = arena_alloc_n(a, n * n, sizeof *m), *l = arena_alloc_n(a, n * n, sizeof *l),
               *rows = arena_alloc_n(a, 2 * n, sizeof *rows);
        rng_randn(&r, x, n * k);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++)
                for (size_t p = 0; p < k; p++) m[i * n + j] += (double)x[i * k + p] * x[j * k + p];
        memcpy(l, m, n * n * sizeof *m);
        assert_true(cholesky_factor(l, n));
        for (size_t i = 0; i < 2 * n; i++) rows[i] = x[i % (n * k)];
        cholesky_solve_rows(l, n, rows, 2);
        for (size_t i = 0; i < 2 * n; i++)
            assert_true(fabs(cholesky_dot(rows + i / n * n, m + i % n * n, n) - x[i % (n * k)]) < 1e-8);
    }
    double not_positive[] = {1, 2, 2, 1};
    assert_false(cholesky_factor(not_positive, 2));
    arena_destroy(&a);
}

/* ---- Beside torch ---- */

struct bench {
    struct arena *a;
    struct st_file *golden;
    struct engine *e;
    struct adapter *adapter;
    struct lora_keys *keys;
    struct lora_file *files[LORAS];
    float weights[LORAS];
};

static struct bench bench_open(void) {
    struct error e = {{0}};
    struct bench b = {.a = arena_create(NULL), .golden = golden_open("mini-sd1.gradient-fusion"),
                      .e = session_open("mini-sd1", session_default())};
    const char *paths[] = {golden_path(b.a, "mini-sd1.lora.safetensors"), golden_path(b.a, "mini-sd1.lora-2.safetensors")};
    assert_int_equal(sscanf(golden_text(b.golden, "weights"), "%f %f", &b.weights[0], &b.weights[1]), 2);
    struct lora_model layers = adapter_lora_model(b.e->model);
    b.keys = lora_keys_create(&layers);
    for (int i = 0; i < LORAS; i++) assert_non_null(b.files[i] = lora_file_open(paths[i], b.keys, &e));
    if (!(b.adapter = adapter_open(b.e, paths, LORAS, &e))) fail_msg("%s", e.text);
    return b;
}

static void bench_close(struct bench *b) {
    adapter_close(&b->adapter);
    for (int i = 0; i < LORAS; i++) lora_file_close(&b->files[i]);
    lora_keys_destroy(&b->keys);
    session_close(&b->e);
    st_close(&b->golden);
    arena_destroy(&b->a);
}

/* The golden's images of one LoRA. */
static struct fusion_inputs inputs_of(struct bench *b, int lora) {
    struct shape s;
    float *all = golden_rows(b->golden, "x", b->a, &s), *times = golden_rows(b->golden, "t", b->a, NULL);
    float *both = golden_rows(b->golden, "context", b->a, NULL);
    int n = s.n / LORAS;
    size_t latent = (size_t)(s.h * s.w * s.c),
           context = (size_t)model_window(b->e->model) * (size_t)model_context_dim(b->e->model);
    float *x = arena_alloc_n(b->a, (size_t)n, latent * sizeof *x), *t = arena_alloc_n(b->a, (size_t)n, sizeof *t);
    float *contexts = arena_alloc_n(b->a, (size_t)n, context * sizeof *contexts);
    for (int i = 0; i < n; i++) {
        t[i] = times[i * LORAS + lora];
        memcpy(x + (size_t)i * latent, all + (size_t)(i * LORAS + lora) * latent, latent * sizeof *x);
        memcpy(contexts + (size_t)i * context, both + (size_t)lora * context, context * sizeof *contexts);
    }
    return (struct fusion_inputs){.n = n, .w = s.w, .h = s.h, .side = s.w * 8, .x = x, .t = t, .context = contexts,
                                  .pooled = t};
}

/* The layers that the golden has an objective for. */
static int golden_layers(struct bench *b, const struct nn_target **targets) {
    int n = 0;
    for (size_t i = 0; i < st_count(b->golden); i++) {
        const char *name = st_at(b->golden, i)->name;
        if (strncmp(name, "objective.", 10)) continue;
        if (!(targets[n++] = nn_target_find(&b->e->model->unet_targets, name + 10))) fail_msg("no layer %s", name + 10);
    }
    return n;
}

/* w_i dW_i, zeros where the LoRA lacks the layer. */
static float *delta_of(const struct bench *b, int lora, const struct nn_target *t, struct arena *a) {
    struct error e = {{0}};
    float *d = arena_alloc_n(a, (size_t)shape_elems(t->weight), sizeof *d);
    for (int i = 0; i < b->files[lora]->n_modules; i++)
        if (b->files[lora]->modules[i].target == t && !lora_module_delta(&b->files[lora]->modules[i], NULL, d, NULL, &e))
            fail_msg("%s", e.text);
    for (int64_t i = 0; i < shape_elems(t->weight); i++) d[i] *= b->weights[lora];
    return d;
}

/* Sum over LoRAs of |(dW_i - change) X_i|^2, from the Gram matrices. */
static double objective(float *const *deltas, const double *const *grams, const float *change, size_t out, size_t in) {
    double sum = 0, row[256];
    assert_true(in <= 256);
    for (int k = 0; k < LORAS; k++)
        for (size_t o = 0; o < out; o++) {
            for (size_t i = 0; i < in; i++) row[i] = (double)deltas[k][o * in + i] - change[o * in + i];
            for (size_t i = 0; i < in; i++) sum += row[i] * cholesky_dot(row, grams[k] + i * in, in);
        }
    return sum;
}

struct totals {
    double ours, torch, sum;
};

static void check_layer(struct bench *b, const struct nn_target *t, struct watch *const *watches, struct totals *totals) {
    struct arena *a = arena_create(NULL);
    size_t out = (size_t)t->weight.w, in = (size_t)t->weight.c;
    const double *grams[LORAS] = {watch_gram(watches[0], t), watch_gram(watches[1], t)};
    assert_true(grams[0] && grams[1]);
    float *deltas[LORAS], *change = arena_alloc_n(a, out * in, sizeof *change),
                          *plain = arena_alloc_n(a, out * in, sizeof *plain);
    struct fusion_system *s = fusion_system_create(a, grams, LORAS, (int)in);
    assert_non_null(s);
    for (int k = 0; k < LORAS; k++) {
        deltas[k] = delta_of(b, k, t, a);
        float *part = arena_alloc_n(a, out * in, sizeof *part);
        memcpy(part, deltas[k], out * in * sizeof *part);
        fusion_system_apply(s, k, part, out);
        for (size_t i = 0; i < out * in; i++) change[i] += part[i], plain[i] += deltas[k][i];
    }
    double best = *golden_rows(b->golden, arena_printf(a, "objective.%s", t->path), a, NULL);
    double start = *golden_rows(b->golden, arena_printf(a, "start.%s", t->path), a, NULL);
    double ours = objective(deltas, grams, change, out, in), sum = objective(deltas, grams, plain, out, in);
    if (fabs(sum - start) > 1e-3 * start) fail_msg("%s: the plain sum is %g away, torch's %g", t->path, sum, start);
    if (ours > 1.01 * best + 1e-6 * start) fail_msg("%s: %g, torch %g, the plain sum %g", t->path, ours, best, start);
    totals->ours += ours, totals->torch += best, totals->sum += start;
    const char *name = arena_printf(a, "change.%s", t->path);
    if (st_find(b->golden, name)) golden_near_peak(name, change, golden_weight(b->golden, name, a, NULL), out * in, 0.02);
    arena_destroy(&a);
}

static void test_beside_torch(void **state) {
    struct bench b = bench_open();
    const struct nn_target **targets = arena_alloc_n(b.a, 1024, sizeof *targets);
    int n = golden_layers(&b, targets);
    struct watch *watches[LORAS];
    for (int k = 0; k < LORAS; k++) {
        struct error e = {{0}};
        float strength[LORAS] = {0};
        struct fusion_inputs in = inputs_of(&b, k);
        strength[k] = b.weights[k];
        watches[k] = watch_create(b.a, targets, n);
        if (!fusion_watch_unet(b.e, b.adapter, strength, &in, watches[k], NULL, &e)) fail_msg("%s", e.text);
    }
    struct totals totals = {0};
    for (int i = 0; i < n; i++) check_layer(&b, targets[i], watches, &totals);
    print_message("%d layers: %.6g, torch %.6g; the plain sum %.6g\n", n, totals.ours, totals.torch, totals.sum);
    assert_true(n > 50 && fabs(totals.ours / totals.torch - 1) < 0.01);
    int shared = 0; /* queries, keys and values read one input, and have one sum */
    for (int i = 0; i < n; i++) shared += watches[0]->layers[i].same != i;
    assert_true(shared > 20);
    bench_close(&b);
}

/* ---- The whole command's work ---- */

static void hash_of(const char *path, char hash[65]) {
    struct error e = {{0}};
    struct st_file *f = st_open(path, &e);
    if (!f) fail_msg("%s", e.text);
    assert_non_null(strstr(st_meta_find(f, "ss_training_comment"), "--method gradient-fusion --rank 4 --seed 4 --times 2"));
    st_data_sha256(f, hash);
    st_close(&f);
}

/* LoRAs on UNet and text encoder; in one go and layer by layer the bytes are the same. */
static void test_whole(void **state) {
    static const char *const prompts[] = {"a fox", "ink"};
    static const float weights[] = {1, 0.7f};
    struct error err = {{0}};
    struct arena *a = arena_create(NULL);
    struct engine *e = session_open("mini-sd1", session_default());
    const char *paths[] = {golden_path(a, "mini-sd1.lora-te.safetensors"), golden_path(a, "mini-sd1.lora-2.safetensors")};
    struct train_merge_params p = train_merge_params_default();
    p.method = train_merger_find("gradient-fusion"), p.e = e, p.loras = paths, p.weights = weights, p.n = 2,
    p.prompts = prompts;
    p.pictures = 1, p.draw_steps = 2, p.times = 2, p.resolution = 64, p.seed = 4, p.rank = 4,
    p.out = scratch_path("fused.safetensors");
    char hash[2][65];
    for (int k = 0; k < 2; k++) {
        struct lora_merge_result r;
        struct train_merge_plan plan;
        if (!train_merge_plan(&p, &plan, &err) || !train_merge(&p, &r, &err)) fail_msg("%s", err.text);
        assert_true(k ? plan.passes > 3 : plan.passes == 2);
        assert_int_equal(plan.n_layers, r.n_layers);
        assert_int_equal(r.rank_max, 4);
        hash_of(p.out, hash[k]);
        p.sum_bytes = 600000;
    }
    assert_string_equal(hash[0], hash[1]);
    session_close(&e);
    arena_destroy(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cholesky), cmocka_unit_test(test_beside_torch),
                                       cmocka_unit_test(test_whole)};
    return cmocka_run_group_tests(tests, scratch_make, scratch_drop);
}
