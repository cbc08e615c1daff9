/* Mergers against peft's (make_mergers.py), and the decomposition behind them. */
#include "tests/support/cm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/rng.h"
#include "base/os.h"
#include "lora/delta.h"
#include "lora/dense.h"
#include "lora/merge.h"
#include "lora/merge_prune.h"
#include "lora/resize.h"
#include "lora/svd.h"
#include "tests/support/lora_model.h"
#include "tests/support/scratch.h"

#define DATA ATELIER_SOURCE_DIR "/tests/data/"
enum { CUT = 3, SEED = 5 };
static const double density = 0.4;

/* ---- Decomposition ---- */

static float *random_matrix(struct arena *a, struct rng *r, size_t n) {
    float *m = arena_alloc_n(a, n, sizeof *m);
    rng_randn(r, m, n);
    return m;
}

/* Largest difference of up * down from d, beside d's largest number. */
static double distance(const float *up, const float *down, const float *d, size_t out, size_t rank, size_t in) {
    double worst = 0, size = 0;
    for (size_t o = 0; o < out; o++)
        for (size_t i = 0; i < in; i++) {
            double sum = 0;
            for (size_t k = 0; k < rank; k++) sum += (double)up[o * rank + k] * down[k * in + i];
            worst = fmax(worst, fabs(sum - d[o * in + i])), size = fmax(size, fabs(d[o * in + i]));
        }
    return size > 0 ? worst / size : worst;
}

static void expect_orthonormal(const float *rows, size_t n, size_t length) {
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k <= i; k++) {
            double sum = 0;
            for (size_t j = 0; j < length; j++) sum += (double)rows[i * length + j] * rows[k * length + j];
            assert_true(fabs(sum - (i == k)) < 1e-6);
        }
}

static void test_dense(void **state) {
    static const size_t sizes[][2] = {{1, 1}, {5, 1}, {1, 7}, {6, 6}, {12, 40}, {40, 12}, {270, 300}};
    struct arena *a = arena_create(NULL);
    struct error e = {0};
    struct rng r;
    rng_seed(&r, 1);
    for (size_t c = 0; c < sizeof sizes / sizeof *sizes; c++) {
        size_t out = sizes[c][0], in = sizes[c][1], n = out < in ? out : in;
        float *d = random_matrix(a, &r, out * in), *up = arena_alloc_n(a, out * n, sizeof *up);
        float *down = arena_alloc_n(a, n * in, sizeof *down);
        struct lora_svd s;
        if (!lora_svd_dense(&s, d, out, in, a, &e)) fail_msg("%s", e.text);
        assert_int_equal(s.n, n);
        double squares = 0, sum = 0;
        for (size_t i = 0; i < out * in; i++) squares += (double)d[i] * d[i];
        for (size_t i = 0; i < n; i++) sum += s.sigma[i] * s.sigma[i], assert_true(i == 0 || s.sigma[i] <= s.sigma[i - 1]);
        assert_true(fabs(sum / squares - 1) < 1e-12);
        lora_svd_factors(&s, n, up, down);
        assert_true(distance(up, down, d, out, n, in) < 1e-6);
        expect_orthonormal(down, n, in);
    }
    arena_destroy(&a);
}

/* Through the core or not, thin and dense ways agree; dependent factors and zeros included. */
static void test_product(void **state) {
    enum { OUT = 20, IN = 31, MAX = 25 };
    struct arena *a = arena_create(NULL);
    struct error e = {0};
    struct rng r;
    rng_seed(&r, 2);
    for (size_t rank = 1; rank <= MAX; rank += 6) {
        float *up = random_matrix(a, &r, OUT * rank), *down = random_matrix(a, &r, rank * IN), d[OUT * IN];
        for (size_t i = 0; rank > 2 && i < IN; i++) down[(rank - 1) * IN + i] = 2 * down[i]; /* one less in truth */
        lora_dense_product(d, up, down, OUT, rank, IN);
        struct lora_svd thin, dense;
        assert_true(lora_svd_product(&thin, up, down, OUT, rank, IN, a, &e) && lora_svd_dense(&dense, d, OUT, IN, a, &e));
        for (size_t i = 0; i < thin.n; i++) assert_true(fabs(thin.sigma[i] - dense.sigma[i]) < 1e-6 * dense.sigma[0]);
        size_t truth = rank > 2 ? rank - 1 : rank;
        struct lora_rank_rule numerical = {.by = LORA_RANK_NUMERICAL};
        assert_int_equal(lora_svd_rank(&thin, &numerical), truth < OUT ? truth : OUT);
        for (size_t cut = 1; cut <= 4; cut += 3) {
            float u[2][OUT * 4], v[2][4 * IN], whole[OUT * IN];
            lora_svd_factors(&thin, cut, u[0], v[0]);
            lora_svd_factors(&dense, cut, u[1], v[1]);
            lora_dense_product(whole, u[1], v[1], OUT, cut, IN);
            assert_true(distance(u[0], v[0], whole, OUT, cut, IN) < 1e-5);
        }
    }
    float zeros[8] = {0}, up[4], down[4];
    struct lora_svd s;
    struct lora_rank_rule numerical = {.by = LORA_RANK_NUMERICAL};
    assert_true(lora_svd_product(&s, zeros, zeros, 4, 1, 4, a, &e));
    assert_int_equal(lora_svd_rank(&s, &numerical), 1);
    lora_svd_factors(&s, 1, up, down);
    for (int i = 0; i < 4; i++) assert_true(up[i] == 0 && down[i] == 0);
    /* The first column is an untrained one. */
    const float ups[] = {0, 3, 0, 0, 0, 0, 0, 4}, downs[] = {1, 2, 3, 4, 0, 0, 6, 8};
    assert_true(lora_svd_product(&s, ups, downs, 4, 2, 4, a, &e));
    assert_true(fabs(s.sigma[0] - 50) < 1e-9 && fabs(s.sigma[1]) < 1e-6); /* |(3,0,0,4)| * |(0,0,6,8)| */
    zeros[3] = NAN;
    assert_false(lora_svd_dense(&s, zeros, 2, 4, a, &e));
    assert_non_null(strstr(e.text, "not finite"));
    arena_destroy(&a);
}

static void test_rank_rules(void **state) {
    double sigma[] = {8, 4, 2, 1, 1};
    struct lora_svd s = {.n = 5, .sigma = sigma};
    const struct { struct lora_rank_rule rule; int rank; } rows[] = {
        {{LORA_RANK_FIXED, 0, 3}, 3},         {{LORA_RANK_FIXED, 0, 9}, 5},      {{LORA_RANK_RATIO, 3, 0}, 3},
        {{LORA_RANK_RATIO, 100, 0}, 5},       {{LORA_RANK_RATIO, 3, 2}, 2},      {{LORA_RANK_CUMULATIVE, 0.5, 0}, 1},
        {{LORA_RANK_CUMULATIVE, 0.51, 0}, 2}, {{LORA_RANK_CUMULATIVE, 1, 0}, 5}, {{LORA_RANK_FRO, 0.9, 0}, 2},
        {{LORA_RANK_FRO, 0.86, 0}, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) assert_int_equal(lora_svd_rank(&s, &rows[i].rule), rows[i].rank);
    double sum, fro;
    lora_svd_kept(&s, 2, &sum, &fro);
    assert_true(fabs(sum - 0.75) < 1e-12 && fabs(fro - sqrt(80.0 / 86)) < 1e-12);
}

/* ---- Mergers ---- */

static struct lora_test_model model;

static struct lora_file *must_open(const char *path) {
    struct error e = {0};
    struct lora_file *f = lora_file_open(path, model.keys, &e);
    if (!f || !lora_file_require_match(f, model.keys, &e)) fail_msg("%s", e.text);
    assert_true(lora_file_is_whole(f));
    return f;
}

static bool merge_files(const char *method, const char *const paths[2], int rank, const char *out,
                        struct lora_merge_result *r, struct error *e) {
    static const float weights[] = {0.8f, -0.6f};
    struct lora_file *files[] = {must_open(paths[0]), must_open(paths[1])};
    struct lora_merge_params p = {.method = lora_merger_find(method), .files = files, .weights = weights, .n = 2, .rank = rank,
                                  .density = density, .seed = SEED, .dtype = ST_F32};
    assert_non_null(p.method);
    bool ok = lora_merge(&p, model.keys, out, r, e);
    lora_file_close(&files[0]), lora_file_close(&files[1]);
    return ok;
}

static const char *const pair[] = {DATA "mergers/first.safetensors", DATA "mergers/second.safetensors"};

/* Every layer of the file is the golden's of that name; none is missing. */
static void expect_golden(const char *path, const char *name, int n_layers) {
    struct error e = {0};
    struct arena *a = arena_create(NULL);
    struct st_file *golden = st_open(DATA "mergers/golden.safetensors", &e);
    if (!golden) fail_msg("%s", e.text);
    struct lora_file *f = must_open(path);
    assert_int_equal(f->n_modules, n_layers);
    double worst = 0;
    for (int i = 0; i < f->n_modules; i++) {
        const struct nn_target *t = f->modules[i].target;
        size_t n = (size_t)shape_elems(t->weight);
        const struct st_tensor *g = st_find(golden, arena_printf(a, "%s/%s", name, t->path));
        if (!g) fail_msg("no golden %s/%s", name, t->path);
        assert_int_equal(st_tensor_elements(g), n);
        float *rows = arena_alloc_n(a, n, sizeof *rows), *flat = arena_alloc_n(a, n, sizeof *flat);
        float *want = lora_dense_read(g, a, &e);
        assert_true(want && lora_module_delta(&f->modules[i], NULL, rows, NULL, &e));
        lora_dense_taps_last(flat, rows, (size_t)t->weight.w, (size_t)t->weight.c, (size_t)t->weight.n);
        double size = 0, off = 0;
        for (size_t k = 0; k < n; k++) size = fmax(size, fabsf(want[k])), off = fmax(off, fabs((double)flat[k] - want[k]));
        worst = fmax(worst, off / size);
    }
    print_message("%s: worst difference %.2g of a layer's largest number\n", name, worst);
    assert_true(worst < 2e-6);
    lora_file_close(&f);
    st_close(&golden);
    arena_destroy(&a);
}

static void test_goldens(void **state) {
    static const struct { const char *method, *golden; int rank, rank_max; } rows[] = {
        {"sum", "sum", 0, 7}, {"concat", "sum", 0, 7}, {"svd", "sum-cut", CUT, CUT}, {"svd", "sum", 7, 7},
        {"ties", "ties-cut", CUT, CUT}, {"dare", "dare-cut", CUT, CUT}, {"magnitude", "magnitude-cut", CUT, CUT},
        {"ties", "ties", 16, 16}, {"dare", "dare", 16, 16}, {"magnitude", "magnitude", 16, 16}, /* all that a mini can hold */
    };
    struct error e = {0};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct lora_merge_result r;
        const char *out = scratch_path("merged.safetensors");
        if (!merge_files(rows[i].method, pair, rows[i].rank, out, &r, &e)) fail_msg("%s", e.text);
        assert_int_equal(r.n_layers, 6);
        assert_int_equal(r.n_shared, 3);
        assert_true(r.rank_max == rows[i].rank_max);
        expect_golden(out, rows[i].golden, 6);
    }
}

/* Of equal sizes exactly as many stay as were asked for, the first (torch.topk); signs that cancel elect plus (peft). */
static void test_equals(void **state) {
    float same[] = {1, -1, 1, 1, -1, 1}, x[] = {3, -2, 1, -4}, y[] = {-3, 2, 1, 2}, out[4];
    lora_prune_magnitude(same, 6, 0.5);
    assert_memory_equal(same, ((float[]){1, -1, 1, 0, 0, 0}), sizeof same);
    float *deltas[] = {x, y};
    struct lora_merge_layer l = {2, deltas, (float[]){2, 10}, 4, 1, NULL};
    lora_merger_find("ties")->combine(&l, out);
    assert_memory_equal(out, ((float[]){6, 20, 6, -8}), sizeof out); /* 2*3; 10*2; (2 + 10)/2; 2*-4 */
}

/* What half floats cannot hold is refused, and no file appears. */
static void test_too_large(void **state) {
    static const float weights[] = {1e6f, 1e6f};
    struct error e = {0};
    struct lora_merge_result r;
    struct lora_file *files[] = {must_open(pair[0]), must_open(pair[1])};
    const char *large = scratch_path("large.safetensors"), *never = scratch_path("never.safetensors");
    struct lora_merge_params p = {.files = files, .weights = weights, .n = 2, .dtype = ST_F16};
    for (int i = 0; i < 2; i++) {
        p.method = lora_merger_find(i ? "sum" : "concat");
        assert_false(lora_merge(&p, model.keys, never, &r, &e));
        assert_non_null(strstr(e.text, "--dtype f32"));
    }
    p.dtype = ST_F32;
    if (!lora_merge(&p, model.keys, large, &r, &e)) fail_msg("%s", e.text);
    lora_file_close(&files[0]), lora_file_close(&files[1]);
    struct lora_resize_params rp = {{LORA_RANK_FIXED, 0, 2}, ST_F16, "test"};
    struct lora_resize_result rr;
    struct lora_file *f = must_open(large);
    assert_false(lora_resize(f, model.keys, &rp, never, &rr, &e));
    assert_non_null(strstr(e.text, "--dtype f32"));
    lora_file_close(&f);
    assert_false(os_path_exists(never));
}

/* Learnt words that lie in a file come along, byte for byte. */
static void test_words(void **state) {
    static const char name[] = "bundle_emb.my.cat.string_to_param.*";
    const float vectors[] = {1, 2.5f, -3, 4, 0.1f, 6, 7, 8};
    struct error e = {0};
    struct st_file *f = st_open(pair[0], &e);
    assert_non_null(f);
    struct st_writer *w = st_writer_create();
    for (size_t i = 0; i < st_count(f); i++)
        st_writer_add(w, st_at(f, i)->name, st_at(f, i)->dtype, st_at(f, i)->rank, st_at(f, i)->dims, st_at(f, i)->data);
    st_writer_add(w, name, ST_F32, 2, (int64_t[]){2, 4}, vectors);
    const char *const paths[] = {scratch_path("words.safetensors"), pair[1]};
    if (!st_writer_save(w, paths[0], &e)) fail_msg("%s", e.text);
    st_writer_destroy(&w);
    st_close(&f);
    struct lora_merge_result r;
    if (!merge_files("sum", paths, 0, scratch_path("with-words.safetensors"), &r, &e)) fail_msg("%s", e.text);
    assert_non_null(f = st_open(scratch_path("with-words.safetensors"), &e));
    const struct st_tensor *t = st_find(f, name);
    assert_non_null(t);
    assert_true(t->dtype == ST_F32 && t->rank == 2 && t->dims[0] == 2 && t->dims[1] == 4);
    assert_memory_equal(t->data, vectors, sizeof vectors);
    st_close(&f);
}

static void test_same_bytes(void **state) {
    const struct lora_merger *m;
    struct error e = {0};
    for (int i = 0; (m = lora_merger_at(i)); i++) {
        struct lora_merge_result r;
        char hash[2][65];
        for (int k = 0; k < 2; k++) {
            if (!merge_files(m->name, pair, 0, scratch_path("again.safetensors"), &r, &e)) fail_msg("%s", e.text);
            struct st_file *f = st_open(scratch_path("again.safetensors"), &e);
            assert_non_null(f);
            st_data_sha256(f, hash[k]);
            assert_non_null(strstr(st_meta_find(f, "ss_training_comment"), m->name));
            assert_non_null(st_meta_find(f, "sshs_model_hash"));
            st_close(&f);
        }
        assert_string_equal(hash[0], hash[1]);
    }
}

/* LoHa and the like have no thin factors: their change is added up as a whole. */
static void test_other_kinds(void **state) {
    const char *const mixed[] = {DATA "mergers/first.safetensors", DATA "kinds/loha.safetensors"};
    struct lora_merge_result r;
    struct error e = {0};
    if (!merge_files("sum", mixed, 0, scratch_path("mixed.safetensors"), &r, &e)) fail_msg("%s", e.text);
    struct lora_file *in[] = {must_open(mixed[0]), must_open(mixed[1])}, *f = must_open(scratch_path("mixed.safetensors"));
    assert_int_equal(f->n_modules, r.n_layers);
    for (int i = 0; i < f->n_modules; i++) {
        const struct nn_target *t = f->modules[i].target;
        size_t n = (size_t)shape_elems(t->weight);
        float *sum = arena_alloc_n(model.arena, n, sizeof *sum), *one = arena_alloc_n(model.arena, n, sizeof *one);
        double size = 0;
        for (int k = 0; k < 2; k++)
            for (int j = 0; j < in[k]->n_modules; j++) {
                if (in[k]->modules[j].target != t) continue;
                assert_true(lora_module_delta(&in[k]->modules[j], NULL, one, NULL, &e));
                for (size_t x = 0; x < n; x++) sum[x] += (k ? -0.6f : 0.8f) * one[x];
            }
        assert_true(lora_module_delta(&f->modules[i], NULL, one, NULL, &e));
        for (size_t x = 0; x < n; x++) size = fmax(size, fabsf(sum[x]));
        for (size_t x = 0; x < n; x++) assert_true(fabsf(sum[x] - one[x]) <= 2e-6 * size);
    }
    lora_file_close(&in[0]), lora_file_close(&in[1]), lora_file_close(&f);
    assert_false(merge_files("concat", mixed, 0, scratch_path("never.safetensors"), &r, &e));
    assert_non_null(strstr(e.text, "--method sum"));
}

/* Another matrix for every file: 1 + 0.3 (file + 1) beside the diagonal. */
static bool map_rows(void *ctx, int file, const struct lora_module *m, float *rows, size_t n, struct error *e) {
    size_t in = (size_t)m->target->weight.c;
    int *calls = ctx;
    ++*calls;
    for (size_t r = 0; r < n; r++, rows += in)
        for (size_t i = in; i-- > 0;) rows[i] += i ? 0.3f * (float)(file + 1) * rows[i - 1] : 0;
    return file < 2 || error_set(e, "a third file");
}

/* What a map does to factors it does to changes: of LoRA with LoRA, and of a kind without thin factors. */
static void test_maps(void **state) {
    static const struct lora_merger learnt = {.name = "learnt", .takes_rank = true, .whole = true};
    const char *const others[] = {pair[0], DATA "kinds/loha.safetensors"};
    static const float weights[] = {0.8f, -0.6f};
    for (int c = 0; c < 2; c++) {
        struct error e = {0};
        struct lora_merge_result r;
        int calls = 0;
        struct lora_file *in[] = {must_open(pair[0]), must_open(c ? others[1] : pair[1])};
        struct lora_merge_maps maps = {map_rows, &calls};
        struct lora_merge_params p = {.method = &learnt, .files = in, .weights = weights, .n = 2, .dtype = ST_F32,
                                      .maps = &maps, .settings = "--steps 3"};
        if (!lora_merge(&p, model.keys, scratch_path("mapped.safetensors"), &r, &e)) fail_msg("%s", e.text);
        assert_int_equal(calls, in[0]->n_modules + in[1]->n_modules);
        if (!c) assert_int_equal(r.rank_max, 7);
        struct lora_file *f = must_open(scratch_path("mapped.safetensors"));
        assert_string_equal(st_meta_find(f->file, "ss_training_comment"), "atelier merge --method learnt --steps 3");
        for (int i = 0; i < f->n_modules; i++) {
            const struct nn_target *t = f->modules[i].target;
            size_t n = (size_t)shape_elems(t->weight);
            float *sum = arena_alloc_n(model.arena, n, sizeof *sum), *one = arena_alloc_n(model.arena, n, sizeof *one);
            double size = 0;
            for (int k = 0; k < 2; k++)
                for (int j = 0; j < in[k]->n_modules; j++) {
                    if (in[k]->modules[j].target != t) continue;
                    assert_true(lora_module_delta(&in[k]->modules[j], NULL, one, NULL, &e));
                    map_rows(&calls, k, &in[k]->modules[j], one, n / (size_t)t->weight.c, &e);
                    for (size_t x = 0; x < n; x++) sum[x] += weights[k] * one[x];
                }
            assert_true(lora_module_delta(&f->modules[i], NULL, one, NULL, &e));
            for (size_t x = 0; x < n; x++) size = fmax(size, fabsf(sum[x]));
            for (size_t x = 0; x < n; x++) assert_true(fabsf(sum[x] - one[x]) <= 2e-6 * size);
        }
        lora_file_close(&in[0]), lora_file_close(&in[1]), lora_file_close(&f);
    }
}

static void test_resize(void **state) {
    static const struct { struct lora_rank_rule rule; const char *golden; } rows[] = {
        {{LORA_RANK_FIXED, 0, CUT}, "resize"}, {{LORA_RANK_FRO, 0.8, 0}, "resize-fro"}};
    struct error e = {0};
    struct lora_file *f = must_open(pair[0]);
    for (int i = 0; i < 2; i++) {
        struct lora_resize_params p = {rows[i].rule, ST_F32, "test"};
        struct lora_resize_result r;
        const char *out = scratch_path("resized.safetensors");
        if (!lora_resize(f, model.keys, &p, out, &r, &e)) fail_msg("%s", e.text);
        assert_true(r.kept_fro > 0.8 && r.kept_fro < 1 && r.rank_max <= 4);
        expect_golden(out, rows[i].golden, 5);
        struct lora_file *small = must_open(out);
        for (int k = 0; k < small->n_modules; k++) assert_true(small->modules[k].scale == 0.5f);
        lora_file_close(&small);
    }
    lora_file_close(&f);
    struct lora_resize_params p = {rows[0].rule, ST_F32, "test"};
    struct lora_resize_result r;
    f = must_open(DATA "kinds/loha.safetensors");
    assert_false(lora_resize(f, model.keys, &p, scratch_path("never.safetensors"), &r, &e));
    assert_non_null(strstr(e.text, "no plain LoRA"));
    lora_file_close(&f);
}

static void test_refusals(void **state) {
    struct lora_merge_result r;
    struct error e = {0};
    const char *const norms[] = {DATA "mergers/first.safetensors", DATA "kinds/norm.safetensors"};
    assert_false(merge_files("sum", norms, 0, scratch_path("never.safetensors"), &r, &e));
    assert_non_null(strstr(e.text, "--partial"));
    assert_false(merge_files("svd", pair, 60000, scratch_path("never.safetensors"), &r, &e));
    assert_non_null(strstr(e.text, "room for"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dense),       cmocka_unit_test(test_product),    cmocka_unit_test(test_rank_rules),
        cmocka_unit_test(test_goldens),     cmocka_unit_test(test_same_bytes), cmocka_unit_test(test_other_kinds),
        cmocka_unit_test(test_refusals),    cmocka_unit_test(test_resize),     cmocka_unit_test(test_maps),
        cmocka_unit_test(test_equals),      cmocka_unit_test(test_too_large),  cmocka_unit_test(test_words),
    };
    lora_test_model_mini(&model, "mini-sd1");
    int failed = cmocka_run_group_tests(tests, scratch_make, scratch_drop);
    lora_test_model_close(&model);
    return failed;
}
