/* Adapter files in other programs' spellings, and files that are wrong. */
#include "tests/support/cm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/os.h"
#include "io/json.h"
#include "lora/delta.h"
#include "lora/file.h"
#include "tests/support/lora_model.h"

static char folder[] = "/tmp/atelier-dialects-XXXXXX";

static const char *temp(struct arena *a, const char *name) { return arena_printf(a, "%s/%s", folder, name); }

static const struct lora_module *module_named(const struct lora_file *f, const char *name) {
    for (int i = 0; i < f->n_modules; i++)
        if (strcmp(f->modules[i].name, name) == 0) return &f->modules[i];
    fail_msg("no module %s", name);
    return NULL;
}

/* ---- cloneofsimo/lora ---- */

/* The real file's header with zeros behind it. */
static const char *write_analog(struct arena *a) {
    struct error e = {0};
    struct os_map map;
    if (!os_file_map(&map, arena_printf(a, "%s/tests/data/analog_svd_rank4.header.json", ATELIER_SOURCE_DIR),
                     &e))
        fail_msg("%s", e.text);
    json_t *root = json_loadb((const char *)map.data, map.bytes, 0, NULL), *tensor;
    assert_non_null(root);
    const char *key, *path = temp(a, "analog.safetensors");
    json_int_t end = 0;
    json_object_foreach(root, key, tensor) {
        json_int_t at = json_integer_value(json_array_get(json_object_get(tensor, "data_offsets"), 1));
        if (at > end) end = at;
    }
    uint64_t n = map.bytes - 1; /* without its newline */
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_true(fwrite(&n, 1, 8, f) == 8 && fwrite(map.data, 1, n, f) == n);
    assert_int_equal(fseek(f, (long)end - 1, SEEK_CUR), 0);
    assert_true(fputc(0, f) == 0 && fclose(f) == 0);
    json_decref(root);
    os_file_unmap(&map);
    return path;
}

/* Every one of the published file's 192 modules finds its layer; the places were read off diffusers 0.11's classes. */
static void test_analog(void **state) {
    static const struct { const char *name, *path; } want[] = {
        {"unet:0", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"},
        {"unet:3", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"},
        {"unet:4", "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj"},
        {"unet:6", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"},
        {"unet:9", "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q"},
        {"unet:54", "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"},
        {"unet:134", "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_out.0"},
        {"unet:135", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"},
        {"unet:143", "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0"},
        {"text_encoder:0", "text_model.encoder.layers.0.self_attn.k_proj"},
        {"text_encoder:2", "text_model.encoder.layers.0.self_attn.q_proj"},
        {"text_encoder:43", "text_model.encoder.layers.10.self_attn.out_proj"},
    };
    struct lora_test_model m;
    lora_test_model_open(&m, "configs/sd1-unet.json", "configs/clip-l.json", NULL);
    struct error e = {0};
    struct arena *a = arena_create(NULL);
    const char *path = write_analog(a);
    struct lora_file *f = lora_file_open(path, m.keys, &e);
    if (!f) fail_msg("%s", e.text);
    if (f->n_by_status[LORA_MATCHED] != 192 || !lora_file_is_whole(f)) fail_msg("%s", lora_file_report(f, m.arena));
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        assert_string_equal(module_named(f, want[i].name)->target->path, want[i].path);
    assert_string_equal(f->dialect, "cloneofsimo");
    assert_true(f->n_rank_min == 4 && f->n_rank_max == 4 && f->modules[0].scale == 1);
    assert_true(lora_file_require_match(f, m.keys, &e));
    lora_file_close(&f);
    lora_test_model_close(&m);
    lora_test_model_open(&m, "configs/sd2-unet.json", "configs/openclip-h.json", NULL);
    f = lora_file_open(path, m.keys, &e);
    if (!f) fail_msg("%s", e.text);
    assert_false(lora_file_require_match(f, m.keys, &e));
    assert_non_null(strstr(e.text, "was made for Stable Diffusion 1 (text of width 768), and this is Stable Diffusion 2"));
    lora_file_close(&f);
    unlink(path);
    arena_destroy(&a);
    lora_test_model_close(&m);
}

/* ---- What the reference libraries make of each spelling (tests/reference/make_dialects.py) ---- */

/* [out] += what the layer makes of cos(0.7 * [0, 1, ...]), in the order of the file's [out,in,k,k]. */
static float *probe(const struct lora_module *m, struct arena *a) {
    struct shape s = m->target->weight;
    struct error e = {0};
    size_t out = (size_t)s.w, in = (size_t)s.c, taps = (size_t)s.n;
    float *dw = arena_alloc_n(a, taps * out, in * sizeof *dw), *y = arena_alloc_n(a, out, sizeof *y);
    if (!lora_module_delta(m, NULL, dw, NULL, &e)) fail_msg("%s", e.text);
    for (size_t o = 0; o < out; o++) {
        double sum = 0;
        for (size_t i = 0; i < in; i++)
            for (size_t t = 0; t < taps; t++) sum += dw[(t * out + o) * in + i] * cos(0.7 * (double)(i * taps + t));
        y[o] = (float)sum;
    }
    return y;
}

static void compare_probe(const char *name, const struct lora_module *m, const struct st_file *golden, struct arena *a) {
    const char *key = arena_printf(a, "%s.%s", lora_part_name(m->part), m->target->path);
    const struct st_tensor *t = st_find(golden, key);
    if (!t) fail_msg("%s: the reference left %s as it was", name, key);
    size_t n = (size_t)m->target->weight.w;
    float *want = arena_alloc_n(a, n, sizeof *want), *got = probe(m, a), range = 0;
    if (!st_read_f32(t, want, n, NULL)) fail_msg("%s: %s has another size", name, key);
    for (size_t i = 0; i < n; i++) range = fmaxf(range, fabsf(want[i]));
    assert_true(range > 0);
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(got[i] - want[i]) <= 1e-4f * range))
            fail_msg("%s, %s [%zu]: %g, wanted %g", name, key, i, (double)got[i], (double)want[i]);
}

static void test_spellings(void **state) {
    static const struct { const char *model, *name, *dialect; bool folder; int n_embeddings; const char *ending; } rows[] = {
        {"mini-sd1", "kohya", "kohya"},
        {"mini-sd1", "diffusers", "peft"},
        {"mini-sd1", "diffusers-old", "diffusers"},
        {"mini-sd1", "processors", "diffusers processor"},
        {"mini-sd1", "peft-unet", "peft", .folder = true},
        {"mini-sd1", "peft-text", "peft", .folder = true},
        {"mini-sd1", "cloneofsimo", "cloneofsimo", .n_embeddings = 1},
        {"mini-sd1", "cloneofsimo-extended", "cloneofsimo", .n_embeddings = 1},
        {"mini-sd1", "cloneofsimo-list.unet", "cloneofsimo", .ending = "pt"},
        {"mini-sd1", "cloneofsimo-list.text_encoder", "cloneofsimo", .ending = "pt"},
        {"mini-sd1", "comfy", "peft"},
        {"mini-sd1", "lycoris", "kohya"},
        {"mini-sdxl", "sdxl-kohya", "kohya"},
        {"mini-sdxl", "b-lora", "diffusers"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct lora_test_model m;
        struct error e = {0};
        lora_test_model_mini(&m, rows[i].model);
        const char *base = arena_printf(m.arena, "%s/tests/data/dialects/%s", ATELIER_SOURCE_DIR, rows[i].name);
        struct lora_file *f =
            lora_file_open(rows[i].folder ? base
                                          : arena_printf(m.arena, "%s.%s", base,
                                                         rows[i].ending ? rows[i].ending : "safetensors"),
                           m.keys, &e);
        struct st_file *golden = f ? st_open(arena_printf(m.arena, "%s.golden.safetensors", base), &e) : NULL;
        if (!golden) fail_msg("%s", e.text);
        if (f->n_by_status[LORA_MATCHED] != f->n_modules || f->n_foreign || f->n_embeddings != rows[i].n_embeddings)
            fail_msg("%s: %s", rows[i].name, lora_file_report(f, m.arena));
        if (!lora_file_require_match(f, m.keys, &e)) fail_msg("%s", e.text);
        assert_int_equal(f->n_modules, st_count(golden));
        assert_string_equal(f->dialect, rows[i].dialect);
        for (int k = 0; k < f->n_modules; k++) compare_probe(rows[i].name, &f->modules[k], golden, m.arena);
        st_close(&golden);
        lora_file_close(&f);
        lora_test_model_close(&m);
    }
}

static int make_folder(void **state) { return mkdtemp(folder) ? 0 : 1; }
static int remove_folder(void **state) { return rmdir(folder); }

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_analog), cmocka_unit_test(test_spellings),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
