/* Adapters baked into models: a folder and a single file become the same model, every changed weight is W + sum of
 * strength * dW rounded once, everything else keeps its bytes. */
#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/scratch.h"
#include "tests/support/single_file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/os.h"
#include "base/rng.h"
#include "engine/adapter.h"
#include "engine/merge.h"
#include "io/json.h"
#include "lora/delta.h"
#include "lora/save.h"

static struct model *must_open(const char *path, const char *tokenizer) {
    struct model_params p = {.storage = TENSOR_F32, .files.tokenizer = tokenizer};
    struct error e = {0};
    struct model *m = model_open(path, &p, &e);
    if (!m) fail_msg("%s: %s", path, e.text);
    return m;
}

static const struct nn_params *params_of(const struct model *m, int part) {
    return part ? m->texts[part - 1].params : m->unet_params;
}

/* A LoRA of rank 2 on every layer of every part. */
static const char *write_lora(struct arena *a, const struct model *m) {
    struct lora_model layers = adapter_lora_model(m);
    struct lora_keys *keys = lora_keys_create(&layers);
    struct rng rng;
    rng_seed(&rng, 3);
    int n = 0;
    for (int p = 0; p < LORA_N_PARTS; p++) n += layers.targets[p] ? layers.targets[p]->n : 0;
    struct lora_save_module *modules = arena_alloc_n(a, (size_t)n, sizeof *modules);
    n = 0;
    for (int p = 0; p < LORA_N_PARTS; p++)
        for (int i = 0; layers.targets[p] && i < layers.targets[p]->n; i++) {
            const struct nn_target *t = &layers.targets[p]->items[i];
            size_t n_down = 2 * (size_t)t->weight.n * (size_t)t->weight.c, n_up = 2 * (size_t)t->weight.w;
            float *down = arena_alloc_n(a, n_down, sizeof *down), *up = arena_alloc_n(a, n_up, sizeof *up);
            rng_randn(&rng, down, n_down);
            rng_randn(&rng, up, n_up);
            modules[n++] = (struct lora_save_module){{(enum lora_part)p, t}, 2, 0.1f, down, up};
        }
    struct lora_save_params p = {.modules = modules, .n_modules = n, .dtype = ST_F32};
    struct error e;
    const char *path = scratch_path("all.safetensors");
    if (!lora_save(path, keys, &p, &e)) fail_msg("%s", e.text);
    lora_keys_destroy(&keys);
    return path;
}

/* Differences of a norm, of a weight that the LoRA changes too, and of its bias. */
static const char *write_differences(struct arena *a, const struct model *m) {
    static const char conv[] = "down_blocks.0.resnets.0.conv1", norm[] = "down_blocks.0.resnets.0.norm1";
    const struct nn_target *t = nn_target_find(&m->unet_targets, conv), *u = nn_target_find(&m->unet_targets, norm);
    assert_true(t && u);
    struct st_writer *w = st_writer_create();
    size_t n = (size_t)shape_elems(t->weight);
    float *v = arena_alloc_n(a, n, sizeof *v);
    for (size_t i = 0; i < n; i++) v[i] = 0.01f * (float)(i % 89);
    const int64_t dims[] = {t->weight.w, t->weight.c, t->conv.k, t->conv.k}, out[] = {t->weight.w}, c[] = {u->weight.c};
    st_writer_add_f32(w, "lora_unet_down_blocks_0_resnets_0_conv1.diff", ST_F32, 4, dims, v);
    st_writer_add_f32(w, "lora_unet_down_blocks_0_resnets_0_conv1.diff_b", ST_F32, 1, out, v);
    st_writer_add_f32(w, "lora_unet_down_blocks_0_resnets_0_norm1.w_norm", ST_F32, 1, c, v);
    st_writer_add_f32(w, "lora_unet_down_blocks_0_resnets_0_norm1.b_norm", ST_F32, 1, c, v);
    struct error e;
    const char *path = scratch_path("differences.safetensors");
    if (!st_writer_save(w, path, &e)) fail_msg("%s", e.text);
    st_writer_destroy(&w);
    return path;
}

static float *slot_rows(struct arena *a, const struct nn_params *p, int slot) {
    float *v = arena_alloc_n(a, (size_t)shape_elems(p->set->slots[slot].shape), sizeof *v);
    nn_params_read_slot(p, slot, v);
    return v;
}

/* Adds what the files say, read by their own loader, to want[part][slot]. */
static void add_expected(struct arena *a, const struct model *m, const struct merge_lora *lora, float ***want, bool **changed) {
    struct lora_model layers = adapter_lora_model(m);
    struct lora_keys *keys = lora_keys_create(&layers);
    struct error e = {0};
    struct lora_file *f = lora_file_open(lora->path, keys, &e);
    if (!f) fail_msg("%s", e.text);
    assert_true(lora_file_is_whole(f));
    for (int i = 0; i < f->n_modules; i++) {
        const struct lora_module *x = &f->modules[i];
        const struct nn_params *p = params_of(m, (int)x->part);
        for (int bias = 0; bias < 2; bias++) {
            if (bias ? !lora_module_has_bias(x, p) : !lora_module_has_weight(x)) continue;
            int slot = nn_params_find(p, arena_printf(a, "%s.%s", x->target->path, bias ? "bias" : "weight"));
            assert_true(slot >= 0);
            size_t n = (size_t)shape_elems(p->set->slots[slot].shape);
            float *d = arena_alloc_n(a, n, sizeof *d);
            if (!lora_module_delta(x, p, bias ? NULL : d, bias ? d : NULL, &e)) fail_msg("%s", e.text);
            for (size_t k = 0; k < n; k++) want[x->part][slot][k] += lora->strength * d[k];
            changed[x->part][slot] = true;
        }
    }
    lora_file_close(&f);
    lora_keys_destroy(&keys);
}

static void expect_merged(struct arena *a, const struct model *base, const struct model *merged,
                          const struct merge_lora *loras, int n) {
    float **want[LORA_N_PARTS] = {0};
    bool *changed[LORA_N_PARTS] = {0};
    for (int p = 0; p < 1 + base->n_texts; p++) {
        const struct nn_params *x = params_of(base, p);
        want[p] = arena_alloc_n(a, (size_t)x->set->n_slots, sizeof *want[p]);
        changed[p] = arena_alloc_n(a, (size_t)x->set->n_slots, sizeof *changed[p]);
        for (int i = 0; i < x->set->n_slots; i++) want[p][i] = slot_rows(a, x, i);
    }
    for (int i = 0; i < n; i++) add_expected(a, base, &loras[i], want, changed);
    for (int p = 0; p < 1 + base->n_texts; p++) {
        const struct nn_params *x = params_of(base, p), *y = params_of(merged, p);
        assert_int_equal(x->set->n_slots, y->set->n_slots);
        int n_changed = 0;
        for (int i = 0; i < x->set->n_slots; i++) {
            const char *name = x->set->slots[i].name;
            float *got = slot_rows(a, y, i);
            assert_int_equal(x->tensors[i]->dtype, y->tensors[i]->dtype);
            for (int64_t k = 0; k < shape_elems(x->set->slots[i].shape); k++) {
                float rounded = x->tensors[i]->dtype == ST_F16 ? half_to_float(half_from_float(want[p][i][k])) : want[p][i][k];
                if (got[k] != rounded)
                    fail_msg("%s [%lld]: %.9g, wanted %.9g", name, (long long)k, (double)got[k],
                             (double)rounded);
            }
            n_changed += changed[p][i];
        }
        assert_true(n_changed > 10);
    }
}

static void folders_and_files(void **state) {
    static const char *const families[] = {"file-sd1", "file-sd2", "file-xl"};
    for (int i = 0; i < 3; i++) {
        struct arena *a = arena_create(NULL);
        const char *words = golden_path(a, arena_printf(a, "%s/tokenizer", families[i])),
                   *single = scratch_path("single.safetensors");
        const char *out = scratch_path(arena_printf(a, "merged-%d", i)), *out_single = scratch_path("merged.safetensors");
        single_file_write(families[i], single);
        struct model *base = must_open(golden_path(a, families[i]), NULL), *file = must_open(single, words);
        struct merge_lora loras[] = {{write_lora(a, base), 0.75f}, {write_differences(a, base), -1.5f}};
        struct merge_params p = {loras, 2, out};
        struct merge_result r;
        struct error e = {0};
        if (!model_merge(base, &p, &r, &e)) fail_msg("%s", e.text);
        p.out = out_single;
        if (!model_merge(file, &p, &r, &e)) fail_msg("%s", e.text);
        struct model *merged = must_open(out, NULL), *merged_file = must_open(out_single, words);
        expect_merged(a, base, merged, loras, 2);
        expect_merged(a, base, merged_file, loras, 2);
        assert_true(os_path_is_file(arena_printf(a, "%s/model_index.json", out)) &&
                    os_path_is_file(arena_printf(a, "%s/vae/config.json", out)));
        assert_false(os_path_exists(arena_printf(a, "%s.part", out)));
        struct model *const all[] = {base, file, merged, merged_file};
        for (int k = 0; k < 4; k++) model_close(&(struct model *){all[k]});
        arena_destroy(&a);
    }
}

/* Shards stay shards; copies of the weights that lie beside them would be stale and stay behind. */
static void shards_stay_shards(void **state) {
    struct arena *a = arena_create(NULL);
    struct error e = {0};
    struct model *base = must_open(golden_path(a, "file-sd1"), NULL);
    struct merge_lora loras[] = {{write_lora(a, base), 0.5f}, {write_lora(a, base), 0}};
    const char *out = scratch_path("cut"), *again = scratch_path("cut-merged");
    struct merge_params p = {&loras[1], 1, out};
    struct merge_result r;
    if (!model_merge(base, &p, &r, &e)) fail_msg("%s", e.text);
    const char *whole = arena_printf(a, "%s/unet/diffusion_pytorch_model.safetensors", out);
    struct st_file *f = st_open(whole, &e);
    assert_non_null(f);
    json_t *map = json_object();
    for (int shard = 0; shard < 2; shard++) {
        struct st_writer *w = st_writer_create();
        const char *name = shard ? "b.safetensors" : "a.safetensors";
        for (size_t i = (size_t)shard; i < st_count(f); i += 2) {
            const struct st_tensor *t = st_at(f, i);
            st_writer_add(w, t->name, t->dtype, t->rank, t->dims, t->data);
            json_object_set_new(map, t->name, json_string(name));
        }
        if (!st_writer_save(w, arena_printf(a, "%s/unet/%s", out, name), &e)) fail_msg("%s", e.text);
        st_writer_destroy(&w);
    }
    json_t *index = json_pack("{s:{}, s:o}", "metadata", "weight_map", map);
    assert_true(json_file_save(arena_printf(a, "%s/unet/diffusion_pytorch_model.safetensors.index.json", out), index, 0, &e));
    json_decref(index);
    st_close(&f);
    assert_true(os_file_rename(whole, arena_printf(a, "%s/unet/diffusion_pytorch_model.old.safetensors", out), &e));
    struct model *cut = must_open(out, NULL);
    p = (struct merge_params){loras, 1, again};
    if (!model_merge(cut, &p, &r, &e)) fail_msg("%s", e.text);
    struct model *merged = must_open(again, NULL);
    expect_merged(a, base, merged, loras, 1);
    assert_true(os_path_is_file(arena_printf(a, "%s/unet/b.safetensors", again)));
    assert_false(os_path_is_file(arena_printf(a, "%s/unet/diffusion_pytorch_model.old.safetensors", again)));
    model_close(&base), model_close(&cut), model_close(&merged);
    arena_destroy(&a);
}

static void expect_refusal(const struct model *m, const struct merge_lora *lora, const char *out, const char *says) {
    struct merge_params p = {lora, 1, out};
    struct merge_result r;
    struct error e = {0};
    assert_false(model_merge(m, &p, &r, &e));
    if (!strstr(e.text, says)) fail_msg("'%s' does not say '%s'", e.text, says);
}

static void refusals_leave_nothing(void **state) {
    struct arena *a = arena_create(NULL);
    struct model *m = must_open(golden_path(a, "file-sd1"), NULL);
    struct merge_lora lora = {write_lora(a, m), 1}, much = {lora.path, 1e6f}, absent = {scratch_path("absent.safetensors"), 1};
    const char *out = scratch_path("never");
    expect_refusal(m, &much, out, "which F16 cannot");
    expect_refusal(m, &absent, out, "absent.safetensors");
    expect_refusal(m, &lora, scratch_path("never.safetensors"), "should not end in .safetensors");
    expect_refusal(m, &lora, golden_path(a, "file-sd1"), "exists already");
    assert_false(os_path_exists(out));
    assert_false(os_path_exists(arena_printf(a, "%s.part", out)));
    model_close(&m);
    arena_destroy(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(folders_and_files),
                                       cmocka_unit_test(shards_stay_shards),
                                       cmocka_unit_test(refusals_leave_nothing)};
    return cmocka_run_group_tests(tests, scratch_make, scratch_drop);
}
