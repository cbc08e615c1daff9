/* ZipLoRA beside torch's Adam on the same inputs (make_learnt_merges.py), its gradients against differences of its loss, and
 * the file that comes out against the tape that it was learnt on. */
#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/scratch.h"
#include "tests/support/session.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "train/merger.h"
#include "train/ziplora.h"

enum { LORAS = 2 };
struct bench {
    struct arena *a;
    struct st_file *golden;
    struct engine *e;
    const char *paths[LORAS];
    float weights[LORAS];
    struct adapter *adapters[LORAS];
    struct ziplora *z;
    struct shape latent; /* of a step */
    float *x, *t, *context, *target;
    int batches;
    size_t n_step;
};

static struct bench bench_open(int rig, float similarity) {
    struct error e = {{0}};
    struct bench b = {.a = arena_create(NULL), .golden = golden_open("mini-sd1.ziplora"), .e = session_open("mini-sd1", rig)};
    b.paths[0] = golden_path(b.a, "mini-sd1.lora.safetensors"), b.paths[1] = golden_path(b.a, "mini-sd1.lora-2.safetensors");
    assert_int_equal(sscanf(golden_text(b.golden, "weights"), "%f %f", &b.weights[0], &b.weights[1]), 2);
    b.batches = (int)golden_number(b.golden, "batches");
    b.x = golden_rows(b.golden, "x", b.a, &b.latent), b.target = golden_rows(b.golden, "target", b.a, NULL);
    b.t = golden_rows(b.golden, "t", b.a, NULL), b.context = golden_rows(b.golden, "context", b.a, NULL);
    b.latent.n = LORAS;
    b.n_step = (size_t)shape_elems(b.latent);
    for (int i = 0; i < LORAS; i++)
        if (!(b.adapters[i] = adapter_open(b.e, &b.paths[i], 1, &e))) fail_msg("%s", e.text);
    struct ziplora_params p = {.adapters = (const struct adapter *const *)b.adapters, .weights = b.weights, .n = LORAS,
                               .batch = 1, .w = b.latent.w, .h = b.latent.h, .tokens = model_window(b.e->model),
                               .similarity = similarity};
    if (!(b.z = ziplora_create(b.e, &p, &e)) || !ziplora_open(b.z, &e)) fail_msg("%s", e.text);
    return b;
}

static void bench_close(struct bench *b) {
    ziplora_destroy(&b->z);
    for (int i = 0; i < LORAS; i++) adapter_close(&b->adapters[i]);
    session_close(&b->e);
    st_close(&b->golden);
    arena_destroy(&b->a);
}

/* One for all tests that learn on the default class; the first of them needs it as it was opened. */
static struct bench bench;
static int open_shared(void **state) {
    bench = bench_open(session_default(), 1e-4f);
    return scratch_make(state);
}
static int close_shared(void **state) {
    bench_close(&bench);
    return scratch_drop(state);
}

static struct ziplora_loss step(struct bench *b, int k, float lr) {
    struct error e = {{0}};
    struct ziplora_loss loss;
    size_t at = (size_t)(k % b->batches);
    struct ziplora_batch batch = {b->x + at * b->n_step, b->t + at * LORAS, b->context, NULL, b->target + at * b->n_step};
    if (!ziplora_step(b->z, &batch, lr, &loss, &e)) fail_msg("%s", e.text);
    return loss;
}

/* Every tensor "WHAT.LORA.LAYER" of the golden against a getter's. Returns the worst difference over the tensor's largest. */
static double compare(struct bench *b, const char *what,
                      const float *(*get)(const struct ziplora *, int, const struct nn_target *)) {
    double worst = 0;
    int n = 0;
    for (size_t i = 0; i < st_count(b->golden); i++) {
        const char *name = st_at(b->golden, i)->name;
        size_t head = strlen(what);
        if (strncmp(name, what, head) || name[head] != '.') continue;
        const struct nn_target *t = nn_target_find(&b->e->model->unet_targets, name + head + 3);
        struct shape s;
        const float *want = golden_rows(b->golden, name, b->a, &s), *got = t ? get(b->z, name[head + 1] - '0', t) : NULL;
        if (!got) fail_msg("%s is not shared here", name);
        assert_int_equal(s.n, t->weight.c);
        double size = 0, off = 0;
        for (int k = 0; k < s.n; k++) size = fmax(size, fabsf(want[k])), off = fmax(off, fabs((double)want[k] - got[k]));
        worst = fmax(worst, off / size), n++;
    }
    assert_int_equal(n, 2 * ziplora_layers(b->z));
    return worst;
}

static void test_beside_torch(void **state) {
    struct bench b = bench;
    assert_float_equal((float)golden_number(b.golden, "similarity"), 1e-4f, 1e-9f);
    int steps = (int)golden_number(b.golden, "steps");
    float lr = (float)golden_number(b.golden, "lr"), *distance = golden_rows(b.golden, "distance", b.a, NULL);
    float *overlap = golden_rows(b.golden, "overlap", b.a, NULL);
    step(&b, 0, 0);
    double off = compare(&b, "gradient", ziplora_gradient);
    print_message("gradients: worst difference %.2g of a layer's largest\n", off);
    assert_true(off < 1e-3);
    double worst = 0;
    for (int k = 0; k < steps; k++) {
        struct ziplora_loss loss = step(&b, k, lr);
        worst = fmax(worst, fabs((loss.distance + loss.overlap) / (distance[k] + overlap[k]) - 1));
    }
    struct ziplora_loss mean = {0};
    for (int k = 0; k < b.batches; k++) {
        struct ziplora_loss loss = step(&b, k, 0);
        mean.distance += loss.distance / b.batches, mean.overlap += loss.overlap / b.batches;
    }
    double ours = mean.distance + mean.overlap,
           torch = golden_number(b.golden, "final_distance") + golden_number(b.golden, "final_overlap");
    print_message("objective after %d steps: %.6f, torch %.6f; worst step %.2g off; columns %.2g off\n", steps, ours, torch,
                  worst, compare(&b, "columns", ziplora_columns));
    assert_true(fabs(ours / torch - 1) < 0.01 && worst < 0.01);
}

/* A class of kernels that stores half floats comes to the same objective. */
static void test_half(void **state) {
    struct bench b = bench_open(SESSION_GPU_F16, 1e-4f);
    struct ziplora_loss loss = step(&b, 0, 0);
    float *distance = golden_rows(b.golden, "distance", b.a, NULL), *overlap = golden_rows(b.golden, "overlap", b.a, NULL);
    assert_true(fabs(loss.distance / distance[0] - 1) < 0.01 && fabs(loss.overlap / overlap[0] - 1) < 1e-6);
    double off = compare(&b, "gradient", ziplora_gradient);
    print_message("gradients: worst difference %.2g of a layer's largest\n", off);
    assert_true(off < 0.1); /* as for the trainer */
    for (int k = 0; k < 3; k++) {
        loss = step(&b, k, 0.01f);
        assert_true(fabs(loss.distance / distance[k] - 1) < 0.02);
    }
    bench_close(&b);
}

/* Along the gradient itself the loss must rise by its length. */
static void test_differences(void **state) {
    static const char *const paths[] = {"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v",
                                        "up_blocks.2.attentions.0.transformer_blocks.0.attn1.to_q"};
    struct bench b = bench;
    for (int c = 0; c < 4; c++) {
        struct error e = {{0}};
        const struct nn_target *t = nn_target_find(&b.e->model->unet_targets, paths[c / 2]);
        assert_non_null(t);
        int lora = c % 2, in = t->weight.c;
        float start[64], along[64], moved[64];
        assert_true(in <= 64);
        step(&b, 1, 0);
        memcpy(start, ziplora_columns(b.z, lora, t), (size_t)in * sizeof *start);
        memcpy(along, ziplora_gradient(b.z, lora, t), (size_t)in * sizeof *along);
        double length = 0, at[2];
        for (int i = 0; i < in; i++) length += (double)along[i] * along[i];
        length = sqrt(length);
        for (int side = 0; side < 2; side++) {
            for (int i = 0; i < in; i++) moved[i] = start[i] + (side ? 0.02f : -0.02f) * along[i] / (float)length;
            if (!ziplora_set_columns(b.z, lora, t, moved, &e)) fail_msg("%s", e.text);
            struct ziplora_loss loss = step(&b, 1, 0);
            at[side] = loss.distance + loss.overlap;
        }
        if (!ziplora_set_columns(b.z, lora, t, start, &e)) fail_msg("%s", e.text);
        double slope = (at[1] - at[0]) / 0.04;
        print_message("%s: slope %.6g, gradient %.6g\n", paths[c / 2], slope, length);
        assert_true(fabs(slope / length - 1) < 0.01);
    }
}

static bool scale_rows(void *ctx, int file, const struct lora_module *m, float *rows, size_t n, struct error *e) {
    const float *columns = m->part == LORA_UNET ? ziplora_columns(ctx, file, m->target) : NULL;
    size_t in = (size_t)m->target->weight.c;
    for (size_t i = 0; columns && i < n * in; i++) rows[i] *= columns[i % in];
    return true;
}

/* The file is as far from the targets as the tape was with its columns. */
static void test_file(void **state) {
    struct bench b = bench;
    struct error e = {{0}};
    for (int k = 0; k < 8; k++) step(&b, k, 0.05f);
    double want = step(&b, 2, 0).distance;
    struct lora_model layers = adapter_lora_model(b.e->model);
    struct lora_keys *keys = lora_keys_create(&layers);
    struct lora_file *files[LORAS];
    for (int i = 0; i < LORAS; i++) assert_non_null(files[i] = lora_file_open(b.paths[i], keys, &e));
    struct lora_merge_maps maps = {scale_rows, b.z};
    struct lora_merge_params p = {.method = &train_merger_find("ziplora")->merger, .files = files, .weights = b.weights,
                                  .n = LORAS, .dtype = ST_F32, .maps = &maps};
    struct lora_merge_result r;
    const char *out = scratch_path("zip.safetensors");
    if (!lora_merge(&p, keys, out, &r, &e)) fail_msg("%s", e.text);
    for (int i = 0; i < LORAS; i++) lora_file_close(&files[i]);
    lora_keys_destroy(&keys);
    struct adapter *ad = adapter_open(b.e, &out, 1, &e);
    if (!ad) fail_msg("%s", e.text);
    struct denoiser_params dp = {.n = LORAS, .w = b.latent.w, .h = b.latent.h, .tokens = model_window(b.e->model),
                                 .adapter = ad};
    struct denoiser *d = denoiser_create(b.e, &dp, &e);
    if (!d) fail_msg("%s", e.text);
    denoiser_set_context(d, b.context);
    denoiser_set_strength(d, (float[]){1, 1});
    float *answer = arena_alloc_n(b.a, b.n_step, sizeof *answer);
    if (!denoiser_run(d, b.x + 2 * b.n_step, b.t + 2 * LORAS, answer, &e)) fail_msg("%s", e.text);
    double sum = 0;
    for (size_t i = 0; i < b.n_step; i++)
        sum += pow((double)answer[i] - b.target[2 * b.n_step + i], 2) / (double)(b.n_step / LORAS);
    print_message("rank %d to %d; distance %.6f, on the tape %.6f\n", r.rank_min, r.rank_max, sum, want);
    assert_int_equal(r.rank_max, 8);
    assert_true(fabs(sum / want - 1) < 1e-4);
    denoiser_destroy(&d);
    adapter_close(&ad);
}

/* ---- The whole command's work ---- */

static struct train_merge_params whole(struct engine *e, const char *const *paths, const char *const *prompts,
                                       const char *out) {
    static const float weights[] = {1, 0.7f};
    struct train_merge_params p = train_merge_params_default();
    p.method = train_merger_find("ziplora"), p.e = e, p.loras = paths, p.weights = weights, p.n = 2, p.prompts = prompts;
    p.pictures = 1, p.draw_steps = 2, p.steps = 3, p.resolution = 64, p.seed = 4, p.out = out;
    return p;
}

static void hash_of(const char *path, char hash[65]) {
    struct error e = {{0}};
    struct st_file *f = st_open(path, &e);
    if (!f) fail_msg("%s", e.text);
    assert_non_null(strstr(st_meta_find(f, "ss_training_comment"), "--method ziplora --seed 4 --steps 3"));
    st_data_sha256(f, hash);
    st_close(&f);
}

/* SDXL, and LoRAs on the text encoders, and the same bytes twice. */
static void test_whole(void **state) {
    static const char *const prompts[] = {"a fox", "ink"};
    static const char *const files[][2] = {{"mini-sd1.lora-te.safetensors", "mini-sd1.lora-2.safetensors"},
                                           {"mini-sdxl.lora-te.safetensors", "mini-sdxl.lora.safetensors"}};
    struct arena *a = arena_create(NULL);
    for (int c = 0; c < 2; c++) {
        struct error err = {{0}};
        struct engine *e = session_open(c ? "mini-sdxl" : "mini-sd1", session_default());
        const char *paths[] = {golden_path(a, files[c][0]), golden_path(a, files[c][1])};
        struct train_merge_params p = whole(e, paths, prompts, scratch_path("whole.safetensors"));
        struct train_merge_plan plan;
        if (!train_merge_plan(&p, &plan, &err)) fail_msg("%s", err.text);
        assert_true(plan.n_layers > 10 && plan.device_bytes > 0 && plan.host_bytes > 0);
        char hash[2][65];
        for (int k = 0; k < (c ? 1 : 2); k++) {
            struct lora_merge_result r;
            if (!train_merge(&p, &r, &err)) fail_msg("%s", err.text);
            hash_of(p.out, hash[k]);
        }
        if (!c) assert_string_equal(hash[0], hash[1]);
        session_close(&e);
    }
    arena_destroy(&a);
}

static void refused(struct train_merge_params p, const char *words) {
    struct error e = {{0}};
    struct lora_merge_result r;
    assert_false(train_merge(&p, &r, &e));
    if (!strstr(e.text, words)) fail_msg("\"%s\" lacks \"%s\"", e.text, words);
}

static void test_refusals(void **state) {
    static const char *const prompts[] = {"a fox", "ink"};
    struct arena *a = arena_create(NULL);
    struct engine *e = session_open("mini-sd1", session_default());
    const char *paths[] = {golden_path(a, "mini-sd1.lora.safetensors"), golden_path(a, "mini-sd1.lora-2.safetensors")};
    struct train_merge_params p = whole(e, paths, prompts, scratch_path("never.safetensors")), q = p;
    q.prompts = NULL;
    refused(q, "--data folder for every --lora");
    q = p, q.resolution = 60;
    refused(q, "multiple of 8");
    q = p, q.loras = (const char *const[]){paths[0], golden_path(a, "mini-xl.lora.safetensors")};
    refused(q, "model");
    q = p, q.steps = 100000000;
    refused(q, "lower --steps");
    q = p, q.data = (const char *const[]){"nowhere", "nowhere"}, q.prompts = NULL;
    refused(q, "nowhere");
    session_close(&e);
    arena_destroy(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_beside_torch), cmocka_unit_test(test_half),
                                       cmocka_unit_test(test_differences),  cmocka_unit_test(test_file),
                                       cmocka_unit_test(test_whole),        cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, open_shared, close_shared);
}
