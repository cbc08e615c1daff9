#include "lora/stack_priv.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { MAX_RANK = 1 << 14 };

struct lora_stack *lora_stack_create(struct arena *parent, const char *name, enum tensor_dtype dtype,
                                     bool trainable, int64_t max_chunk_bytes) {
    struct arena *a = arena_create(parent);
    struct lora_stack *s = arena_alloc(a, sizeof *s);
    s->arena = a;
    s->set = tensor_set_create(a, name, dtype, trainable, max_chunk_bytes);
    return s;
}

void lora_stack_destroy(struct lora_stack **s) {
    if (!*s) return;
    struct arena *a = (*s)->arena;
    *s = NULL;
    arena_destroy(&a);
}

int lora_stack_model(struct lora_stack *s, const char *name, const struct nn_target_list *targets) {
    assert(s->n_models < LORA_MAX_MODELS && !s->sealed);
    struct lora_stack_model *m = &s->models[s->n_models];
    m->name = arena_strdup(s->arena, name);
    m->targets = targets;
    int n = targets->n + targets->n_norms;
    m->layer_of = arena_alloc_n(s->arena, (size_t)n, sizeof *m->layer_of);
    for (int i = 0; i < n; i++) m->layer_of[i] = -1;
    return s->n_models++;
}

int lora_stack_adapter(struct lora_stack *s) {
    assert(!s->sealed);
    return s->n_adapters++;
}

static bool check_factors(const struct nn_target *t, const struct lora_factors *f, struct error *e) {
    struct shape w = t->weight;
    if (t->is_norm) return error_set(e, "%s is a norm, which takes no factors", t->path);
    if (f->rank < 1 || f->rank > MAX_RANK)
        return error_set(e, "%s: a rank of %d is not possible", t->path, f->rank);
    if (!isfinite(f->alpha)) return error_set(e, "%s: alpha is not a number", t->path);
    if (f->in != w.c || f->out != w.w || f->k * f->k != w.n)
        return error_set(
            e, "%s: the LoRA is made for %d to %d channels with kernel %d, the model has %d to %d, kernel %d",
            t->path, f->in, f->out, f->k, w.c, w.w, t->conv.k);
    return true;
}

struct lora_stack_layer *lora_stack_layer_get(struct lora_stack *s, int model, const struct nn_target *t) {
    struct lora_stack_model *m = &s->models[model];
    int target = nn_target_index(m->targets, t);
    if (m->layer_of[target] < 0) {
        if (s->n_layers == s->cap_layers) {
            int cap = s->cap_layers ? 2 * s->cap_layers : 64;
            s->layers = arena_grow(s->arena, s->layers, (size_t)s->n_layers, (size_t)cap, sizeof *s->layers);
            s->cap_layers = cap;
        }
        m->layer_of[target] = s->n_layers;
        s->layers[s->n_layers++] =
            (struct lora_stack_layer){.model = model, .target = t, .layout = -1, .down = -1, .up = -1};
    }
    return &s->layers[m->layer_of[target]];
}

bool lora_stack_add(struct lora_stack *s, int adapter, int model, const char *path,
                    const struct lora_factors *f, struct error *e) {
    assert(!s->sealed && adapter >= 0 && adapter < s->n_adapters && model >= 0 && model < s->n_models);
    const struct nn_target *t = nn_target_find(s->models[model].targets, path);
    if (!t) return error_set(e, "the %s has no layer %s", s->models[model].name, path);
    if (!check_factors(t, f, e)) return false;
    struct lora_stack_layer *layer = lora_stack_layer_get(s, model, t);
    for (int i = 0; i < layer->n_parts; i++)
        if (layer->parts[i].adapter == adapter)
            return error_set(e, "%s: the LoRA has this layer twice", path);
    if (layer->n_parts == layer->cap_parts) {
        int cap = layer->cap_parts ? 2 * layer->cap_parts : 1;
        layer->parts =
            arena_grow(s->arena, layer->parts, (size_t)layer->n_parts, (size_t)cap, sizeof *layer->parts);
        layer->cap_parts = cap;
    }
    int at = layer->n_parts++;
    while (at > 0 && layer->parts[at - 1].adapter > adapter) layer->parts[at] = layer->parts[at - 1], at--;
    layer->parts[at] = (struct lora_stack_part){.adapter = adapter,
                                                .rank = f->rank,
                                                .scale = f->alpha / (float)f->rank,
                                                .down = f->down,
                                                .up = f->up};
    return true;
}

bool lora_stack_add_new(struct lora_stack *s, int adapter, int model, const char *path, int rank, float alpha,
                        struct rng *rng, struct error *e) {
    const struct nn_target *t = nn_target_find(s->models[model].targets, path);
    if (!t) return error_set(e, "the %s has no layer %s", s->models[model].name, path);
    struct lora_factors f = {rank, alpha, t->weight.c, t->weight.w, t->conv.k, NULL, NULL};
    if (!check_factors(t, &f, e)) return false;
    size_t fan_in = (size_t)f.in * (size_t)t->weight.n, n = (size_t)rank * fan_in;
    float *down = arena_alloc_n(s->arena, n, sizeof *down), bound = 1 / sqrtf((float)fan_in);
    rng_rand(rng, down, n);
    for (size_t i = 0; i < n; i++) down[i] = down[i] * (2 * bound) - bound;
    f.down = down;
    f.up = arena_alloc_n(s->arena, (size_t)f.out * (size_t)rank, sizeof *f.up);
    return lora_stack_add(s, adapter, model, path, &f, e);
}

int lora_stack_add_own(struct lora_stack *s, const char *name, struct shape shape, const float *start) {
    assert(!s->sealed && s->set->trainable);
    s->own = arena_grow(s->arena, s->own, (size_t)s->n_own, (size_t)s->n_own + 1, sizeof *s->own);
    s->own[s->n_own] = (struct lora_stack_own){arena_strdup(s->arena, name), shape, start, -1};
    return s->n_own++;
}

/* --- layouts and slots -------------------------------------------------------------------------------- */

static bool same_layout(const struct lora_stack *s, const struct lora_stack_layer *a,
                        const struct lora_stack_layer *b) {
    if (a->n_parts != b->n_parts) return false;
    for (int i = 0; i < a->n_parts; i++)
        if (a->parts[i].adapter != b->parts[i].adapter || a->parts[i].rank != b->parts[i].rank ||
            (s->set->trainable && a->parts[i].scale != b->parts[i].scale))
            return false;
    return true;
}

static int layout_get(struct lora_stack *s, const struct lora_stack_layer *layer) {
    for (int i = 0; i < s->n_layouts; i++)
        if (same_layout(s, s->layouts[i].like, layer)) return i;
    s->layouts[s->n_layouts] = (struct lora_stack_layout){s->n_columns, layer->columns, layer};
    s->n_columns += layer->columns;
    return s->n_layouts++;
}

int lora_stack_slot(struct lora_stack *s, const struct lora_stack_layer *layer, const char *what, struct shape shape,
                    struct error *e) {
    if (tensor_set_has_room(s->set, shape))
        return tensor_set_add(s->set, arena_printf(s->arena, "%s.%s.%s", s->models[layer->model].name, layer->target->path,
                                                   what),
                              shape);
    double most = (double)s->set->max_chunk_texels * 16 * (double)tensor_texel_bytes(s->set->dtype) / 1048576;
    error_set(e, "The adapters up to %s take more than %.0f MiB, which is all that can be placed; use fewer at once, or merge "
                 "them into the model first.", layer->target->path, most);
    return -1;
}

static bool layer_place(struct lora_stack *s, struct lora_stack_layer *layer, struct error *e) {
    if (layer->n_dense && !lora_stack_place_dense(s, layer, e)) return false;
    if (!layer->n_parts) return true;
    int columns = 0;
    for (int i = 0; i < layer->n_parts; i++) {
        layer->parts[i].first = columns;
        columns += layer->parts[i].rank;
    }
    layer->columns = (columns + 3) / 4 * 4;
    layer->layout = layout_get(s, layer);
    struct shape w = layer->target->weight;
    layer->down = lora_stack_slot(s, layer, "lora_down", (struct shape){w.n, 1, layer->columns, w.c}, e);
    if (layer->down >= 0) layer->up = lora_stack_slot(s, layer, "lora_up", (struct shape){1, 1, w.w, layer->columns}, e);
    return layer->up >= 0;
}

bool lora_stack_seal(struct lora_stack *s, struct error *e) {
    assert(!s->sealed);
    s->sealed = true;
    s->layouts = arena_alloc_n(s->arena, (size_t)s->n_layers, sizeof *s->layouts);
    /* In the models' order, so that the bytes of a training run do not depend on the order of adding. */
    for (int m = 0; m < s->n_models; m++)
        for (int t = 0; t < s->models[m].targets->n + s->models[m].targets->n_norms; t++)
            if (s->models[m].layer_of[t] >= 0 && !layer_place(s, &s->layers[s->models[m].layer_of[t]], e)) return false;
    for (int i = 0; i < s->n_own; i++) {
        struct lora_stack_own *o = &s->own[i];
        if (!tensor_set_has_room(s->set, o->shape)) return error_set(e, "%s is larger than what can be placed.", o->name);
        o->slot = tensor_set_add(s->set, o->name, o->shape);
    }
    lora_stack_seal_dense(s);
    return true;
}

static const struct lora_stack_layer *layer_of_slot(const struct lora_stack *s, int slot) {
    for (int i = 0; i < s->n_layers; i++)
        if (s->layers[i].down == slot || s->layers[i].up == slot) return &s->layers[i];
    return NULL;
}

/* Where a part's row 0 of a tap lies in its layer's down slot. */
static size_t down_at(const struct lora_stack_layer *layer, const struct lora_stack_part *part, int tap) {
    return ((size_t)tap * (size_t)layer->columns + (size_t)part->first) * (size_t)layer->target->weight.c;
}

bool lora_stack_read_slot(const struct lora_stack *s, int slot, float *dst, struct error *e) {
    assert(s->sealed && slot >= 0 && slot < s->set->n_slots);
    const struct lora_stack_layer *layer = layer_of_slot(s, slot);
    for (int i = 0; i < s->n_own; i++)
        if (s->own[i].slot == slot)
            return memcpy(dst, s->own[i].start, (size_t)shape_elems(s->own[i].shape) * sizeof *dst), true;
    if (!layer) return lora_stack_read_dense(s, slot, dst, e);
    memset(dst, 0, (size_t)shape_elems(s->set->slots[slot].shape) * sizeof *dst);
    size_t out = (size_t)layer->target->weight.w, columns = (size_t)layer->columns;
    size_t in = (size_t)layer->target->weight.c;
    int taps = layer->target->weight.n;
    for (int p = 0; p < layer->n_parts; p++) {
        const struct lora_stack_part *part = &layer->parts[p];
        float scale = s->set->trainable ? 1 : part->scale;
        if (slot == layer->down)
            for (int t = 0; t < taps; t++)
                memcpy(dst + down_at(layer, part, t), part->down + (size_t)t * part->rank * in,
                       (size_t)part->rank * in * sizeof *dst);
        else
            for (size_t o = 0; o < out; o++)
                for (size_t r = 0; r < (size_t)part->rank; r++)
                    dst[o * columns + (size_t)part->first + r] = part->up[o * (size_t)part->rank + r] * scale;
    }
    return true;
}

void lora_stack_extract(const struct lora_stack_layer *layer, const struct lora_stack_part *part,
                        const float *down_slot, const float *up_slot, float *down, float *up) {
    size_t out = (size_t)layer->target->weight.w, columns = (size_t)layer->columns, rank = (size_t)part->rank;
    size_t in = (size_t)layer->target->weight.c;
    for (int t = 0; down && t < layer->target->weight.n; t++)
        memcpy(down + (size_t)t * rank * in, down_slot + down_at(layer, part, t), rank * in * sizeof *down);
    for (size_t o = 0; up && o < out; o++)
        memcpy(up + o * rank, up_slot + o * columns + (size_t)part->first, rank * sizeof *up);
}

void lora_stack_fill_strengths(const struct lora_stack *s, int n, const float *strength, float *dst) {
    memset(dst, 0, (size_t)n * (size_t)s->n_columns * sizeof *dst);
    for (int l = 0; l < s->n_layouts; l++) {
        const struct lora_stack_layer *like = s->layouts[l].like;
        for (int p = 0; p < like->n_parts; p++) {
            const struct lora_stack_part *part = &like->parts[p];
            float scale = s->set->trainable ? part->scale : 1;
            for (int image = 0; image < n; image++)
                for (int r = 0; r < part->rank; r++)
                    dst[image * s->n_columns + s->layouts[l].first + part->first + r] =
                        strength[image * s->n_adapters + part->adapter] * scale;
        }
    }
    for (int a = 0; a < s->n_adapters; a++)
        for (int image = 0; s->dense_column[a] >= 0 && image < n; image++)
            dst[image * s->n_columns + s->dense_column[a]] = strength[image * s->n_adapters + a];
}
