/* Changes of weights and biases in a stack: one slot each per layer and adapter. */
#include "lora/stack_priv.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { BIAS_COLUMNS = 4 }; /* the bias is the first; a texel is the least that a slot has */

bool lora_stack_add_dense(struct lora_stack *s, int adapter, int model, const char *path, const struct lora_dense *d,
                          struct error *e) {
    assert(!s->sealed && adapter >= 0 && adapter < s->n_adapters && model >= 0 &&
           model < s->n_models && (d->weight || d->bias));
    const struct nn_target *t = nn_target_find(s->models[model].targets, path);
    if (!t) return error_set(e, "the %s has no layer %s", s->models[model].name, path);
    struct lora_stack_layer *layer = lora_stack_layer_get(s, model, t);
    for (int i = 0; i < layer->n_dense; i++)
        if (layer->dense[i].adapter == adapter) return error_set(e, "%s: the adapter has this layer twice", path);
    if (layer->n_dense == layer->cap_dense) {
        int cap = layer->cap_dense ? 2 * layer->cap_dense : 1;
        layer->dense = arena_grow(s->arena, layer->dense, (size_t)layer->n_dense, (size_t)cap, sizeof *layer->dense);
        layer->cap_dense = cap;
    }
    int at = layer->n_dense++;
    while (at > 0 && layer->dense[at - 1].adapter > adapter) layer->dense[at] = layer->dense[at - 1], at--;
    layer->dense[at] = (struct lora_stack_dense){adapter, *d, -1, -1};
    return true;
}

bool lora_stack_place_dense(struct lora_stack *s, struct lora_stack_layer *layer, struct error *e) {
    const struct nn_target *t = layer->target;
    struct shape bias = t->is_norm ? t->weight : (struct shape){1, 1, t->weight.w, BIAS_COLUMNS};
    char name[32];
    for (int i = 0; i < layer->n_dense; i++) {
        struct lora_stack_dense *d = &layer->dense[i];
        /* A norm's operator wants both; what the adapter lacks is zero. */
        snprintf(name, sizeof name, "diff_%d", d->adapter);
        bool weight = d->change.weight || t->is_norm, biased = d->change.bias || t->is_norm;
        if (weight && (d->weight = lora_stack_slot(s, layer, name, t->weight, e)) < 0) return false;
        snprintf(name, sizeof name, "diff_b_%d", d->adapter);
        if (biased && (d->bias = lora_stack_slot(s, layer, name, bias, e)) < 0) return false;
    }
    return true;
}

void lora_stack_seal_dense(struct lora_stack *s) {
    s->dense_column = arena_alloc_n(s->arena, (size_t)s->n_adapters, sizeof *s->dense_column);
    for (int a = 0; a < s->n_adapters; a++) s->dense_column[a] = -1;
    for (int l = 0; l < s->n_layers; l++)
        for (int i = 0; i < s->layers[l].n_dense; i++) s->dense_column[s->layers[l].dense[i].adapter] = 0;
    for (int a = 0; a < s->n_adapters; a++)
        if (s->dense_column[a] == 0) {
            s->dense_column[a] = s->n_columns;
            s->n_columns += 4; /* slices begin at whole texels */
        }
}

static bool check_finite(const struct lora_stack_layer *layer, const float *v, int64_t n, struct error *e) {
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(v[i]))
            return error_set(e, "%s: the adapter's change of this layer is not finite; the file is damaged or not meant "
                                "for this model", layer->target->path);
    return true;
}

static bool read_bias(const struct lora_stack_layer *layer, const struct lora_stack_dense *d, float *dst, struct error *e) {
    if (!d->change.read(d->change.ctx, NULL, dst, e)) return false;
    if (layer->target->is_norm) return check_finite(layer, dst, layer->target->weight.c, e);
    int64_t out = layer->target->weight.w;
    if (!check_finite(layer, dst, out, e)) return false;
    for (int64_t o = out; o-- > 0;) {
        float v = dst[o];
        for (int c = 0; c < BIAS_COLUMNS; c++) dst[o * BIAS_COLUMNS + c] = c ? 0 : v;
    }
    return true;
}

bool lora_stack_read_dense(const struct lora_stack *s, int slot, float *dst, struct error *e) {
    int64_t n = shape_elems(s->set->slots[slot].shape);
    for (int l = 0; l < s->n_layers; l++) {
        const struct lora_stack_layer *layer = &s->layers[l];
        for (int i = 0; i < layer->n_dense; i++) {
            const struct lora_stack_dense *d = &layer->dense[i];
            if (d->weight != slot && d->bias != slot) continue;
            bool there = slot == d->weight ? d->change.weight : d->change.bias;
            if (!there) return memset(dst, 0, (size_t)n * sizeof *dst), true;
            if (slot == d->bias) return read_bias(layer, d, dst, e);
            return d->change.read(d->change.ctx, dst, NULL, e) && check_finite(layer, dst, n, e);
        }
    }
    assert(!"slot of another set");
    return false;
}
