#include "engine/adapter.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "lora/delta.h"
#include "textenc/embedding.h"

static const char *stem(struct arena *a, const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path, *dot = strrchr(name, '.');
    return arena_strndup(a, name, dot ? (size_t)(dot - name) : strlen(name));
}

/* What lora_dense.read is given. */
struct source {
    const struct lora_module *module;
    const struct nn_params *base;
};

static bool read_delta(const void *ctx, float *dw, float *db, struct error *e) {
    const struct source *s = ctx;
    return lora_module_delta(s->module, s->base, dw, db, e);
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
    for (int i = 0; ok && i < set->n_slots; i++)
        ok = lora_stack_read_slot(ad->stack, i, row, err) && gpu_set_write(ad->data, i, row, err);
    free(row);
    return ok;
}

static const struct nn_params *part_params(const struct model *m, enum lora_part part) {
    return part == LORA_UNET ? m->unet_params : m->texts[part - LORA_TEXT].params;
}

static bool add_factors(struct adapter *ad, const struct lora_module *m, int index, int model, struct error *err) {
    struct arena *a = ad->stack->arena;
    const struct shape w = m->target->weight;
    int k = m->target->is_conv ? m->target->conv.k : 1;
    float *down = arena_alloc_n(a, (size_t)(w.n * m->rank), (size_t)w.c * sizeof(float));
    float *up = arena_alloc_n(a, (size_t)m->rank, (size_t)w.w * sizeof(float));
    struct lora_factors factors = {.rank = m->rank, .alpha = m->alpha, .in = w.c, .out = w.w, .k = k, .down = down, .up = up};
    return lora_module_read(m, down, up, err) && lora_stack_add(ad->stack, index, model, m->target->path, &factors, err);
}

static bool add_module(struct adapter *ad, struct engine *e, const struct lora_module *m, int index, struct error *err) {
    bool low_rank = lora_module_is_low_rank(m);
    int model = ad->models[m->part];
    ad->touches[m->part] = true;
    if (low_rank && !add_factors(ad, m, index, model, err)) return false;
    const struct nn_params *base = part_params(e->model, m->part);
    bool weight = !low_rank && lora_module_has_weight(m), bias = lora_module_has_bias(m, base);
    if (!weight && !bias) return true;
    struct source *source = arena_alloc(ad->arena, sizeof *source);
    *source = (struct source){m, base};
    struct lora_dense dense = {weight, bias, read_delta, source};
    return lora_stack_add_dense(ad->stack, index, model, m->target->path, &dense, err);
}

/* The stack's adapter for a module: the file's, or that of its block. Files and their blocks are added in order. */
static int unit_of(struct adapter *ad, const struct unet_ldm *ldm, const struct lora_module *m, int file, bool by_block) {
    int block = by_block ? lora_block_of(ldm, m->part, m->target->path) : -1, n = ad->stack->n_adapters;
    for (int i = 0; i < n; i++)
        if (ad->units[i].file == file && ad->units[i].block == block) return i;
    ad->units = arena_grow(ad->arena, ad->units, (size_t)n, (size_t)n + 1, sizeof *ad->units);
    ad->units[n] = (struct adapter_unit){file, block};
    return lora_stack_adapter(ad->stack);
}

/* Matched modules of one file join the stack; the file is reported when only part of it fits. */
static bool add_file(struct adapter *ad, struct engine *e, const struct lora_file *f, int i, bool by_block, struct error *err) {
    if (!lora_file_is_whole(f)) {
        struct arena *a = arena_create(NULL);
        log_warn("%s", lora_file_report(f, a));
        arena_destroy(&a);
    }
    struct unet_ldm ldm;
    lora_ldm_measure(&ldm, &e->model->unet_targets);
    char hex[65];
    st_data_sha256(f->file, hex);
    ad->names[i] = stem(ad->arena, f->given);
    ad->hashes[i] = arena_strndup(ad->arena, hex, 12);
    for (int k = 0; k < f->n_modules; k++)
        if (f->modules[k].status == LORA_MATCHED &&
            !add_module(ad, e, &f->modules[k], unit_of(ad, &ldm, &f->modules[k], i, by_block), err))
            return false;
    return true;
}

/* The files stay open: changes of weights are computed when they are uploaded. */
static bool load_files(struct adapter *ad, struct engine *e, const struct lora_keys *keys, const char *const *paths,
                       const struct lora_blocks *const *blocks, struct error *err) {
    ad->files = arena_alloc_n(ad->arena, (size_t)ad->n + 1, sizeof(struct lora_file *));
    for (int i = 0; i < ad->n; i++)
        if (!(ad->files[i] = lora_file_open(paths[i], keys, err)) || !lora_file_require_match(ad->files[i], keys, err) ||
            !add_file(ad, e, ad->files[i], i, blocks && blocks[i], err))
            return false;
    return lora_stack_seal(ad->stack, err) && upload(ad, e, err);
}

/* A part that was asked for must be in the file: without it the picture would be the base model's. */
static bool has_parts(const struct adapter *ad, const struct lora_model *model, struct error *err) {
    static const char *const words[] = {"content", "style"};
    struct lora_split places;
    for (int i = 0; i < ad->n; i++)
        for (int part = 0; part < LORA_SPLIT_PARTS; part++) {
            if (!ad->blocks[i].has_split[part] || ad->blocks[i].split[part] == 0) continue;
            bool found = false;
            if (!lora_split_find(model, &places, err)) return false;
            for (int k = 0; k < ad->stack->n_adapters; k++)
                found |= ad->units[k].file == i && ad->units[k].block == places.block[part];
            if (!found)
                return error_set(err, "%s has nothing in %s, which decides about %s; train with --recipe b-lora, or leave that "
                                      "part out.", ad->names[i], places.path[part], words[part]);
        }
    return true;
}

static bool set_blocks(struct adapter *ad, const struct lora_blocks *const *blocks, const struct model *m, struct error *err) {
    struct lora_model model = adapter_lora_model(m);
    ad->blocks = arena_alloc_n(ad->arena, (size_t)ad->n + 1, sizeof *ad->blocks);
    for (int i = 0; blocks && i < ad->n; i++) {
        if (blocks[i] && !lora_blocks_fit(blocks[i], nn_family_is_xl(m->family), err)) return false;
        if (blocks[i]) ad->blocks[i] = *blocks[i];
        if (blocks[i] && !lora_blocks_settle(&ad->blocks[i], &model, err)) return false;
    }
    return true;
}

void adapter_fill(const struct adapter *ad, int images, const float *strength, float *columns) {
    struct arena *a = arena_create(NULL);
    int n = ad->stack->n_adapters;
    float *own = arena_alloc_n(a, (size_t)images * (size_t)n, sizeof *own);
    for (int i = 0; i < images; i++)
        for (int k = 0; k < n; k++) {
            const struct adapter_unit *u = &ad->units[k];
            own[i * n + k] = strength[i * ad->n + u->file] * (u->block < 0 ? 1 : ad->blocks[u->file].factor[u->block]);
        }
    lora_stack_fill_strengths(ad->stack, images, own, columns);
    arena_destroy(&a);
}

struct adapter *adapter_open(struct engine *e, const char *const *paths, int n, struct error *err) {
    return adapter_open_blocks(e, paths, NULL, n, err);
}

struct adapter *adapter_open_blocks(struct engine *e, const char *const *paths, const struct lora_blocks *const *blocks, int n,
                                    struct error *err) {
    struct arena *a = arena_create(e->arena);
    struct adapter *ad = arena_alloc(a, sizeof *ad);
    ad->arena = a, ad->n = n;
    ad->names = arena_alloc_n(a, (size_t)n + 1, sizeof *ad->names);
    ad->hashes = arena_alloc_n(a, (size_t)n + 1, sizeof *ad->hashes);
    ad->stack = lora_stack_create(a, "The LoRA", gpu_device_storage(e->dev), false, gpu_device_max_chunk(e->dev));
    /* Where the model's matrices are kept small, large ones here are too; codes would be too coarse for a change. */
    const struct tensor_set *base = e->model->unet_params->set;
    if (base->matrix_dtype != base->dtype && ad->stack->set->dtype == TENSOR_F32)
        tensor_set_narrow(ad->stack->set, TENSOR_F16, TENSOR_NARROW_LEAST);
    struct lora_model model = adapter_lora_model(e->model);
    for (int p = 0; p < LORA_N_PARTS; p++)
        ad->models[p] =
            model.targets[p] ? lora_stack_model(ad->stack, lora_part_name((enum lora_part)p), model.targets[p]) : -1;
    struct lora_keys *keys = lora_keys_create(&model);
    if (!set_blocks(ad, blocks, e->model, err) || !load_files(ad, e, keys, paths, blocks, err) || !has_parts(ad, &model, err))
        adapter_close(&ad);
    lora_keys_destroy(&keys);
    return ad;
}

struct lora_model adapter_lora_model(const struct model *m) {
    struct lora_model lm = {{&m->unet_targets}};
    for (int i = 0; i < m->n_texts; i++) lm.targets[LORA_TEXT + i] = &m->texts[i].targets;
    return lm;
}

bool adapter_words_load(const struct model *m, struct lora_file *const *files, int n, struct embedding_list *list,
                        struct error *err) {
    int widths[MODEL_MAX_TEXTS];
    for (int i = 0; i < m->n_texts; i++) widths[i] = m->texts[i].cfg.width;
    for (int i = 0; i < n; i++)
        if (files[i]->n_embeddings && !embedding_load_bundled(list, files[i]->path, widths, m->n_texts, err)) return false;
    return true;
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
    ad->units = arena_alloc_n(a, (size_t)stack->n_adapters, sizeof *ad->units);
    for (int i = 0; i < stack->n_adapters; i++) ad->units[i].block = -1;
    if (!upload(ad, e, err)) adapter_close(&ad);
    return ad;
}

void adapter_close(struct adapter **p) {
    struct adapter *ad = *p;
    if (!ad) return;
    *p = NULL;
    gpu_set_destroy(&ad->data);
    for (int i = 0; ad->files && i < ad->n; i++) lora_file_close(&ad->files[i]);
    struct arena *a = ad->arena;
    arena_destroy(&a);
}
