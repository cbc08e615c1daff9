/* Conversion between spellings, and files that contradict themselves. */
#include "tests/support/cm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/os.h"
#include "lora/convert.h"
#include "lora/delta.h"
#include "tests/support/lora_model.h"

static char folder[] = "/tmp/atelier-convert-XXXXXX";

static const char *temp(struct arena *a, const char *name) { return arena_printf(a, "%s/%s", folder, name); }
static const char *golden(struct arena *a, const char *name) {
    return arena_printf(a, "%s/tests/data/dialects/%s", ATELIER_SOURCE_DIR, name);
}

static void convert(const struct lora_test_model *m, const char *in, enum lora_spelling to, const char *out,
                    bool partial, int n) {
    struct error e = {0};
    struct lora_file *f = lora_file_open(in, m->keys, &e);
    if (!f) fail_msg("%s", e.text);
    struct lora_convert_params p = {to, partial};
    struct lora_convert_result r;
    if (!lora_convert(f, m->keys, &p, out, m->arena, &r, &e)) fail_msg("%s", e.text);
    assert_int_equal(r.n_modules, n);
    lora_file_close(&f);
}

/* The same layers with the same tensors, byte for byte, and the same alphas. */
static void expect_same(const struct lora_test_model *m, const char *a_path, const char *b_path, enum lora_part part) {
    struct error e = {0};
    struct lora_file *a = lora_file_open(a_path, m->keys, &e), *b = a ? lora_file_open(b_path, m->keys, &e) : NULL;
    if (!b) fail_msg("%s", e.text);
    assert_true(lora_file_is_whole(b));
    int n = 0;
    for (int i = 0; i < a->n_modules; i++) {
        const struct lora_module *x = &a->modules[i], *y = NULL;
        if (part != LORA_N_PARTS && x->part != part) continue;
        for (int k = 0; k < b->n_modules; k++)
            if (b->modules[k].target == x->target) y = &b->modules[k];
        if (!y) fail_msg("%s lacks %s", b_path, x->target->path);
        assert_ptr_equal(x->kind, y->kind);
        if (x->alpha != y->alpha || x->scale != y->scale)
            fail_msg("%s: alpha %g and scale %g became %g and %g", x->name, (double)x->alpha,
                     (double)x->scale, (double)y->alpha, (double)y->scale);
        for (int s = 0; s < x->kind->n_slots; s++) {
            assert_int_equal(x->tensors[s] != NULL, y->tensors[s] != NULL);
            if (!x->tensors[s]) continue;
            assert_int_equal(x->tensors[s]->dtype, y->tensors[s]->dtype);
            assert_int_equal(x->tensors[s]->bytes, y->tensors[s]->bytes);
            assert_memory_equal(x->tensors[s]->data, y->tensors[s]->data, x->tensors[s]->bytes);
        }
        n++;
    }
    assert_int_equal(b->n_modules, n);
    lora_file_close(&a);
    lora_file_close(&b);
}

static void test_round_trips(void **state) {
    struct lora_test_model m;
    lora_test_model_mini(&m, "mini-sd1");
    struct arena *a = m.arena;
    const char *first = golden(a, "kohya.safetensors"), *there = temp(a, "there.safetensors"),
               *back = temp(a, "back.safetensors");
    convert(&m, first, LORA_SPELL_DIFFUSERS, there, false, 12);
    expect_same(&m, first, there, LORA_N_PARTS);
    convert(&m, there, LORA_SPELL_KOHYA, back, false, 12);
    expect_same(&m, first, back, LORA_N_PARTS);
    char x[65], y[65];
    struct error e = {0};
    struct st_file *f = st_open(first, &e), *g = st_open(back, &e);
    assert_true(f && g);
    st_data_sha256(f, x), st_data_sha256(g, y);
    assert_string_equal(x, y);
    assert_string_equal(st_meta_find(g, "sshs_model_hash") ? "hashed" : "", "hashed");
    st_close(&f), st_close(&g);
    const char *dir = temp(a, "peft");
    convert(&m, first, LORA_SPELL_PEFT, dir, false, 12);
    expect_same(&m, first, arena_printf(a, "%s/unet", dir), LORA_UNET);
    expect_same(&m, first, arena_printf(a, "%s/text_encoder", dir), LORA_TEXT);
    dir = temp(a, "single"); /* one part: no folders inside */
    convert(&m, golden(a, "peft-unet"), LORA_SPELL_PEFT, dir, false, 7);
    expect_same(&m, golden(a, "peft-unet"), dir, LORA_UNET);
    convert(&m, golden(a, "lycoris.safetensors"), LORA_SPELL_KOHYA, back, false, 83); /* Tucker cores stay */
    expect_same(&m, golden(a, "lycoris.safetensors"), back, LORA_N_PARTS);
    convert(&m, golden(a, "cloneofsimo-extended.safetensors"), LORA_SPELL_KOHYA, back, true, 149);
    expect_same(&m, golden(a, "cloneofsimo-extended.safetensors"), back, LORA_N_PARTS);
    lora_test_model_close(&m);
}

/* kohya's scripts read nothing but single-file names for SDXL's UNet. */
static void test_sdxl_names(void **state) {
    struct lora_test_model m;
    lora_test_model_mini(&m, "mini-sdxl");
    const char *out = temp(m.arena, "b-lora.safetensors");
    convert(&m, golden(m.arena, "b-lora.safetensors"), LORA_SPELL_KOHYA, out, false, 16);
    struct error e = {0};
    struct st_file *f = st_open(out, &e);
    assert_non_null(f);
    assert_non_null(st_find(f, "lora_unet_output_blocks_0_1_transformer_blocks_0_attn1_to_q.lora_down.weight"));
    assert_non_null(st_find(f, "lora_unet_output_blocks_1_1_transformer_blocks_0_attn2_to_out_0.alpha"));
    st_close(&f);
    convert(&m, golden(m.arena, "sdxl-kohya.safetensors"), LORA_SPELL_KOHYA, out, false, 11);
    expect_same(&m, golden(m.arena, "sdxl-kohya.safetensors"), out, LORA_N_PARTS);
    lora_test_model_close(&m);
}

static const char *kind_file(struct arena *a, const char *name) {
    return arena_printf(a, "%s/tests/data/kinds/%s", ATELIER_SOURCE_DIR, name);
}

/* Every kind keeps its tensors; what only PEFT has becomes what LyCORIS calls it. */
static void test_kinds(void **state) {
    static const struct { const char *name; int n;
    } rows[] = {{"boft.safetensors", 11},
                {"dora-columns.safetensors", 11},
                {"full.safetensors", 11},
                {"glora.safetensors", 11},
                {"ia3.safetensors", 11},
                {"loha-tucker-dora.safetensors", 11},
                {"lokr-tucker-dora.safetensors", 11},
                {"norm.safetensors", 6},
                {"oft.safetensors", 11},
                {"peft-loha", 9}};
    struct lora_test_model m;
    lora_test_model_mini(&m, "mini-sd1");
    const char *out = temp(m.arena, "kind.safetensors"), *dir = temp(m.arena, "dora");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *path = kind_file(m.arena, rows[i].name);
        convert(&m, path, LORA_SPELL_KOHYA, out, false, rows[i].n);
        expect_same(&m, path, out, LORA_N_PARTS);
    }
    convert(&m, kind_file(m.arena, "dora-rows.safetensors"), LORA_SPELL_PEFT, dir, false, 11);
    convert(&m, arena_printf(m.arena, "%s/unet", dir), LORA_SPELL_KOHYA, out, false, 9);
    convert(&m, kind_file(m.arena, "dora-rows.safetensors"), LORA_SPELL_KOHYA, temp(m.arena, "rows.safetensors"), false, 11);
    struct error e = {0};
    struct st_file *a = st_open(out, &e), *b = st_open(temp(m.arena, "rows.safetensors"), &e);
    assert_true(a && b);
    for (size_t i = 0; i < st_count(a); i++) { /* there and back: dora_scale, factors, alphas */
        const struct st_tensor *x = st_at(a, i), *y = st_find(b, x->name);
        assert_non_null(y);
        assert_true(st_tensor_has_shape(x, y->rank, y->dims));
        assert_memory_equal(x->data, y->data, x->bytes);
    }
    st_close(&a), st_close(&b);
    lora_test_model_close(&m);
}

/* Both change their layers alike, bit for bit but for the rounding of one more product. */
static void expect_alike(const struct lora_test_model *m, const char *a_path, const char *b_path, bool bias, int n) {
    struct error e = {0};
    struct lora_file *a = lora_file_open(a_path, m->keys, &e), *b = lora_file_open(b_path, m->keys, &e);
    assert_true(a && b && a->n_modules == n && b->n_modules == n);
    int n_compared = 0;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < n; k++) {
            const struct lora_module *x = &a->modules[i], *y = &b->modules[k];
            if (x->target != y->target) continue;
            size_t size = bias ? (size_t)x->target->weight.w : (size_t)shape_elems(x->target->weight);
            float *p = arena_alloc_n(m->arena, size, sizeof *p), *q = arena_alloc_n(m->arena, size, sizeof *q), peak = 0;
            if (!lora_module_delta(x, NULL, bias ? NULL : p, bias ? p : NULL, &e) ||
                !lora_module_delta(y, NULL, bias ? NULL : q, bias ? q : NULL, &e))
                fail_msg("%s", e.text);
            for (size_t j = 0; j < size; j++) peak = fmaxf(peak, fabsf(p[j]));
            for (size_t j = 0; j < size; j++)
                if (!(fabsf(p[j] - q[j]) <= 1e-6f * peak)) fail_msg("%s: %g became %g", x->name, (double)p[j], (double)q[j]);
            n_compared++;
        }
    assert_int_equal(n_compared, n);
    lora_file_close(&a), lora_file_close(&b);
}

/* PEFT's bias of the upper factor is a plain difference elsewhere, and LyCORIS knows no scale for whole factors. */
static void test_scales(void **state) {
    struct lora_test_model m;
    lora_test_model_mini(&m, "mini-sd1");
    const char *out = temp(m.arena, "bias.safetensors"), *path = kind_file(m.arena, "peft-rslora");
    convert(&m, path, LORA_SPELL_KOHYA, out, false, 3);
    expect_alike(&m, path, out, true, 3);
    expect_alike(&m, path, out, false, 3);
    const char *dir = temp(m.arena, "bias");
    convert(&m, path, LORA_SPELL_PEFT, dir, false, 3);
    expect_same(&m, path, dir, LORA_N_PARTS);
    path = kind_file(m.arena, "peft-lokr");
    convert(&m, path, LORA_SPELL_KOHYA, out, false, 9);
    expect_alike(&m, path, out, false, 9);
    lora_test_model_close(&m);
}

/* ---- Handmade files ---- */

struct made {
    const char *name;
    int rank;
    int64_t dims[4];
    enum st_dtype dtype; /* BOOL, the first, stands for F32 */
};

static const char *make(struct arena *a, const char *name, const struct made *t, int n, const char *meta) {
    struct st_writer *w = st_writer_create();
    struct error e;
    const char *path = temp(a, name);
    for (int i = 0; i < n; i++) {
        size_t elements = 1;
        for (int k = 0; k < t[i].rank; k++) elements *= (size_t)t[i].dims[k];
        double *wide = arena_alloc_n(a, elements + 1, sizeof *wide);
        float *v = arena_alloc_n(a, elements + 1, sizeof *v);
        for (size_t k = 0; k < elements; k++) wide[k] = v[k] = 0.5f + (float)k;
        if (t[i].dtype == ST_F64) st_writer_add(w, t[i].name, ST_F64, t[i].rank, t[i].dims, wide);
        else st_writer_add_f32(w, t[i].name, ST_F32, t[i].rank, t[i].dims, v);
    }
    if (meta) st_writer_meta(w, "lora_adapter_metadata", meta);
    if (!st_writer_save(w, path, &e)) fail_msg("%s", e.text);
    st_writer_destroy(&w);
    return path;
}

static const struct lora_module *only_module(struct lora_file *f) {
    assert_int_equal(f->n_modules, 1);
    return &f->modules[0];
}

#define P "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
#define K "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"

static void test_mixtures(void **state) {
    struct lora_test_model m;
    lora_test_model_mini(&m, "mini-sd1");
    struct error e = {0};
    const struct made half[] = {{K ".lora_down.weight", 2, {2, 16}}, {K ".hada_w1_a", 2, {16, 2}}};
    const struct made spelled[] = {{P ".lora_A.weight", 2, {2, 16}}, {P ".lora_up.weight", 2, {16, 2}}};
    const struct made twice[] = {{K ".lora_down.weight", 2, {2, 16}},
                                 {K ".lora_up.weight", 2, {16, 2}},
                                 {P ".lora_A.weight", 2, {2, 16}},
                                 {P ".lora_B.weight", 2, {16, 2}}};
    const struct made wide[] = {
        {K ".lora_down.weight", 2, {2, 16}}, {K ".lora_up.weight", 2, {16, 2}}, {K ".alpha", 0, {0}, ST_F64}};
    const struct made odd[] = {{"unet.\x1b[31m\nred.lora_A.weight", 2, {2, 16}},
                               {"unet.\x1b[31m\nred.lora_B.weight", 2, {16, 2}}};
    struct lora_file *f = lora_file_open(make(m.arena, "half.safetensors", half, 2, NULL), m.keys, &e);
    assert_non_null(f);
    assert_non_null(strstr(only_module(f)->why, "two kinds"));
    lora_file_close(&f);
    f = lora_file_open(make(m.arena, "spelled.safetensors", spelled, 2, NULL), m.keys, &e);
    assert_non_null(f);
    assert_non_null(strstr(only_module(f)->why, "half in"));
    assert_false(lora_file_require_match(f, m.keys, &e));
    lora_file_close(&f);
    f = lora_file_open(make(m.arena, "twice.safetensors", twice, 4, NULL), m.keys, &e);
    assert_non_null(f);
    assert_int_equal(f->n_by_status[LORA_INCOMPLETE], 2);
    assert_string_equal(f->other_dialect, "peft");
    lora_file_close(&f);
    f = lora_file_open(make(m.arena, "wide.safetensors", wide, 3, NULL), m.keys, &e);
    assert_non_null(f);
    assert_true(only_module(f)->status == LORA_MATCHED && only_module(f)->alpha == 0.5f && only_module(f)->scale == 0.25f);
    lora_file_close(&f);
    f = lora_file_open(make(m.arena, "odd.safetensors", odd, 2, NULL), m.keys, &e);
    assert_non_null(f);
    assert_null(strpbrk(lora_file_report(f, m.arena), "\x1b\n"));
    lora_file_close(&f);
    lora_test_model_close(&m);
}

static void expect_lie(struct lora_test_model *m, const char *meta, const char *words) {
    static const struct made sound[] = {{P ".lora_A.weight", 2, {2, 16}}, {P ".lora_B.weight", 2, {16, 2}}};
    struct error e = {0};
    struct lora_file *f = lora_file_open(make(m->arena, "lie.safetensors", sound, 2, meta), m->keys, &e);
    if (f) fail_msg("%s was believed", meta);
    if (!strstr(e.text, words)) fail_msg("'%s' does not say '%s'", e.text, words);
}

static void test_settings_that_lie(void **state) {
    struct lora_test_model m;
    lora_test_model_mini(&m, "mini-sd1");
    expect_lie(&m, "{\"unet.r\": 8, \"unet.lora_alpha\": 8}", "has rank 2, but the settings beside it");
    expect_lie(&m, "{\"unet.r\": 2, \"unet.rank_pattern\": {\".*to_q\": 5}}", "say 5");
    expect_lie(&m, "{\"unet.r\": -3}", "a rank of -3");
    expect_lie(&m, "{\"unet.lora_alpha\": \"much\"}", "lora_alpha is no number");
    expect_lie(&m, "{\"unet.lora_alpha\": 1, \"unet.alpha_pattern\": {\"to_q\": \"x\"}}", "is no number");
    expect_lie(&m, "{\"unet.lora_alpha\": 1, \"unet.alpha_pattern\": {\"(a+){9999}\": 1}}", "is no expression");
    expect_lie(&m, "{\"unet.lora_alpha\": 1, \"unet.alpha_pattern\": {\"(a)\\\\1\": 1}}", "is no expression");
    expect_lie(&m, "{\"unet.lora_alpha\": 1, \"unet.alpha_pattern\": {\"([\": 1}}", "is no expression");
    expect_lie(&m, "[1, 2]", "no JSON object");
    expect_lie(&m, "{\"unet.r\": 2,", "no JSON object");
    lora_test_model_close(&m);
}

/* What PEFT cannot hold is said, and left out only when asked. */
static void test_what_does_not_fit(void **state) {
    struct lora_test_model m;
    lora_test_model_mini(&m, "mini-sd1");
    static const struct made tensors[] = {
        {K ".lora_down.weight", 2, {2, 16}},
        {K ".lora_up.weight", 2, {16, 2}},
        {"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k.diff", 2, {16, 16}},
        {"lora_unet_nowhere.diff", 2, {16, 16}},
        {"stray", 1, {3}}};
    struct error e = {0};
    struct lora_file *f = lora_file_open(make(m.arena, "mixed.safetensors", tensors, 5, NULL), m.keys, &e);
    if (!f) fail_msg("%s", e.text);
    struct lora_convert_params p = {LORA_SPELL_DIFFUSERS, false};
    struct lora_convert_result r;
    const char *out = temp(m.arena, "out.safetensors");
    assert_false(lora_convert(f, m.keys, &p, out, m.arena, &r, &e));
    static const char *const words[] = {"attn1_to_k is of the kind", "lora_unet_nowhere has no counterpart",
                                        "stray belongs to no adapter", "--partial"};
    for (int i = 0; i < 4; i++)
        if (!strstr(e.text, words[i])) fail_msg("'%s' does not say '%s'", e.text, words[i]);
    assert_false(os_path_exists(out));
    p.partial = true;
    assert_true(lora_convert(f, m.keys, &p, out, m.arena, &r, &e));
    assert_true(r.n_modules == 1 && r.n_left_out == 3 && r.left_out);
    p.to = LORA_SPELL_KOHYA;
    assert_true(lora_convert(f, m.keys, &p, out, m.arena, &r, &e));
    assert_int_equal(r.n_modules, 2);
    lora_file_close(&f);
    assert_false(os_path_is_dir(temp(m.arena, "never")));
    lora_test_model_close(&m);
}

static int make_folder(void **state) { return mkdtemp(folder) ? 0 : 1; }

static void remove_all(struct arena *a, const char *path) {
    struct os_entry *list;
    size_t n;
    struct error e;
    if (os_dir_list(a, path, &list, &n, &e))
        for (size_t i = 0; i < n; i++) {
            const char *inside = arena_printf(a, "%s/%s", path, list[i].name);
            if (list[i].is_dir) remove_all(a, inside);
            else unlink(inside);
        }
    rmdir(path);
}

static int remove_folder(void **state) {
    struct arena *a = arena_create(NULL);
    remove_all(a, folder);
    arena_destroy(&a);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips), cmocka_unit_test(test_sdxl_names), cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_scales), cmocka_unit_test(test_mixtures),
        cmocka_unit_test(test_settings_that_lie), cmocka_unit_test(test_what_does_not_fit),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
