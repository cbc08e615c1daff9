#include "engine/adapter.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "lora/file.h"

static const char *stem(struct arena *a, const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path, *dot = strrchr(name, '.');
    return arena_strndup(a, name, dot ? (size_t)(dot - name) : strlen(name));
}

/* Uploads every slot. */
static bool upload(struct adapter *ad, struct engine *e, struct error *err) {
    const struct tensor_set *set = ad->stack->set;
    if (!(ad->data = gpu_set_create(e->dev, set, SET_DATA, err))) return false;
    int64_t most = 1;
    for (int i = 0; i < set->n_slots; i++)
        if (shape_elems(set->slots[i].shape) > most) most = shape_elems(set->slots[i].shape);
    float *row = malloc((size_t)most * sizeof *row);
    bool ok = row != NULL || error_set(err, "The host has no memory left for the LoRA.");
    for (int i = 0; ok && i < set->n_slots; i++) {
        lora_stack_read_slot(ad->stack, i, row);
        ok = gpu_set_write(ad->data, i, row, err);
    }
    free(row);
    return ok;
}

/* Matched modules of one file join the stack; the file is reported when only part of it fits. */
static bool add_file(struct adapter *ad, const struct lora_file *f, int index, struct error *err) {
    struct arena *a = ad->stack->arena;
    for (int i = 0; i < f->n_modules; i++) {
        const struct lora_module *m = &f->modules[i];
        if (m->status != LORA_MATCHED) continue;
        const struct shape w = m->target->weight;
        int k = m->target->is_conv ? m->target->conv.k : 1;
        float *down = arena_alloc_n(a, (size_t)(w.n * m->rank), (size_t)w.c * sizeof(float));
        float *up = arena_alloc_n(a, (size_t)m->rank, (size_t)w.w * sizeof(float));
        bool ok = lora_module_read(m, down, up, err);
        struct lora_factors factors = {.rank = m->rank, .alpha = m->alpha, .in = w.c, .out = w.w, .k = k, .down = down, .up = up};
        if (!ok || !lora_stack_add(ad->stack, index, ad->models[m->part], m->target->path, &factors, err)) return false;
        ad->touches[m->part] = true;
    }
    return true;
}

static bool load_file(struct adapter *ad, const struct lora_keys *keys, const char *path, int i, struct error *err) {
    struct lora_file *f = lora_file_open(path, keys, err);
    if (!f) return false;
    bool ok = lora_file_require_match(f, keys, err);
    if (ok && f->n_by_status[LORA_MATCHED] < f->n_modules) {
        struct arena *a = arena_create(NULL);
        log_warn("%s", lora_file_report(f, a));
        arena_destroy(&a);
    }
    lora_stack_adapter(ad->stack);
    char hex[65];
    st_data_sha256(f->file, hex);
    ad->names[i] = stem(ad->arena, path);
    ad->hashes[i] = arena_strndup(ad->arena, hex, 12);
    ok = ok && add_file(ad, f, i, err);
    lora_file_close(&f);
    return ok;
}

struct adapter *adapter_open(struct engine *e, const char *const *paths, int n, struct error *err) {
    struct arena *a = arena_create(e->arena);
    struct adapter *ad = arena_alloc(a, sizeof *ad);
    ad->arena = a, ad->n = n;
    ad->names = arena_alloc_n(a, (size_t)n + 1, sizeof *ad->names);
    ad->hashes = arena_alloc_n(a, (size_t)n + 1, sizeof *ad->hashes);
    ad->stack = lora_stack_create(a, "The LoRA", gpu_device_storage(e->dev), false, gpu_device_max_chunk(e->dev));
    struct lora_model model = adapter_lora_model(e->model);
    for (int p = 0; p < LORA_N_PARTS; p++)
        ad->models[p] = model.targets[p] ? lora_stack_model(ad->stack, lora_part_name((enum lora_part)p), model.targets[p]) : -1;
    struct lora_keys *keys = lora_keys_create(&model);
    bool ok = true;
    for (int i = 0; ok && i < n; i++) ok = load_file(ad, keys, paths[i], i, err);
    lora_keys_destroy(&keys);
    if (ok) {
        lora_stack_seal(ad->stack);
        ok = upload(ad, e, err);
    }
    if (!ok) adapter_close(&ad);
    return ad;
}

struct lora_model adapter_lora_model(const struct model *m) {
    struct lora_model lm = {{&m->unet_targets}};
    for (int i = 0; i < m->n_texts; i++) lm.targets[LORA_TEXT + i] = &m->texts[i].targets;
    return lm;
}

bool adapter_touches_text(const struct adapter *a) { return a->touches[LORA_TEXT] || a->touches[LORA_TEXT_2]; }

struct adapter *adapter_adopt(struct engine *e, struct lora_stack *stack, const int models[LORA_N_PARTS], struct error *err) {
    struct arena *a = arena_create(e->arena);
    struct adapter *ad = arena_alloc(a, sizeof *ad);
    *ad = (struct adapter){.arena = a, .stack = stack, .n = 1};
    for (int p = 0; p < LORA_N_PARTS; p++) ad->models[p] = models[p], ad->touches[p] = models[p] >= 0;
    ad->names = arena_alloc_n(a, 1, sizeof *ad->names);
    ad->hashes = arena_alloc_n(a, 1, sizeof *ad->hashes);
    ad->names[0] = "training", ad->hashes[0] = "";
    if (!upload(ad, e, err)) adapter_close(&ad);
    return ad;
}

void adapter_close(struct adapter **p) {
    struct adapter *ad = *p;
    if (!ad) return;
    *p = NULL;
    gpu_set_destroy(&ad->data);
    struct arena *a = ad->arena;
    arena_destroy(&a);
}
