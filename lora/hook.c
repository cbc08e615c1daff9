/* The adapter hook: what a stack adds to a layer's output. */
#include "lora/stack.h"

#include <assert.h>
#include <string.h>

#include "graph/build.h"

static const struct lora_stack_layer *find_layer(struct lora_binding *b, const char *path) {
    const struct lora_stack_model *m = &b->stack->models[b->model];
    int n = m->targets->n;
    for (int i = 0; i < n; i++) {
        int t = (b->next + i) % n;
        if (strcmp(m->targets->items[t].path, path)) continue;
        b->next = t + 1;
        return m->layer_of[t] < 0 ? NULL : &b->stack->layers[m->layer_of[t]];
    }
    return NULL;
}

static const struct lora_stack_layer *find_norm(struct lora_binding *b, const char *path) {
    const struct lora_stack_model *m = &b->stack->models[b->model];
    int n = m->targets->n_norms;
    for (int i = 0; i < n; i++) {
        int t = (b->next_norm + i) % n, layer = m->layer_of[m->targets->n + t];
        if (strcmp(m->targets->norms[t].path, path)) continue;
        b->next_norm = t; /* asked for twice */
        return layer < 0 ? NULL : &b->stack->layers[layer];
    }
    return NULL;
}

/* By region: what the features in `like` get of a slice of the strengths, {n,h,w,columns} in their shape. */
static int spread(struct lora_binding *b, struct graph *g, int index, int slice, int like) {
    if (slice < 0 || like < 0) return -1;
    struct shape s = graph_shape(g, like);
    int share = -1;
    for (int i = 0; i < b->n_shares && share < 0; i++) {
        struct shape at = graph_shape(g, b->shares[i]);
        if (at.n == s.n && at.h * at.w == s.h * s.w) share = b->shares[i];
    }
    if (share < 0) return graph_fail(g, "the adapter has no shares of regions for %dx%d pixels", s.w, s.h);
    struct lora_map *m = &b->maps[index];
    if (m->share != share) *m = (struct lora_map){share, graph_product(g, share, slice)};
    return graph_reshape(g, m->map, s.n, s.h, s.w);
}

/* The layout's columns of the strengths, or by region its map. */
static int strength_columns(struct lora_binding *b, struct graph *g, int layout, int like) {
    const struct lora_stack_layout *l = &b->stack->layouts[layout];
    if (b->columns[layout] < 0) b->columns[layout] = graph_slice(g, b->strength, l->first, l->columns);
    return b->shares ? spread(b, g, layout, b->columns[layout], like) : b->columns[layout];
}

/* {n,1,1,4}: the adapter's strength and zeros; by region {n,h,w,4}. */
static int dense_strength(struct lora_binding *b, struct graph *g, int adapter, int like) {
    int index = b->stack->n_layouts + adapter, *slice = &b->columns[index];
    if (*slice < 0) *slice = graph_slice(g, b->strength, b->stack->dense_column[adapter], 4);
    return b->shares ? spread(b, g, index, *slice, like) : *slice;
}

/* Each layer and kind has its own stream: no two layers drop the same places. */
static int drop(const struct lora_binding *b, struct graph *g, const struct lora_stack_layer *layer, int h) {
    const struct lora_dropout *d = &b->dropout;
    uint32_t stream = (uint32_t)(layer - b->stack->layers) * 3;
    if (h >= 0 && d->network > 0) h = graph_dropout(g, h, b->dropout_key, DROPOUT_NUMBER, d->network, true, stream);
    if (h >= 0 && d->rank > 0) h = graph_dropout(g, h, b->dropout_key, DROPOUT_CHANNEL, d->rank, true, stream + 1);
    if (h >= 0 && d->module > 0) h = graph_dropout(g, h, b->dropout_key, DROPOUT_ALL, d->module, false, stream + 2);
    return h;
}

static bool is_matrix(struct shape weight, const struct conv_params *conv) {
    return weight.n == 1 && (!conv || (conv->stride == 1 && !conv->up && !conv->out_h));
}

/* The layer with another weight and no bias. */
static int apply(struct graph *g, int x, int w, struct shape weight, const struct conv_params *conv, int res) {
    if (x < 0 || w < 0) return -1;
    return is_matrix(weight, conv) ? graph_linear(g, x, w, -1, res) : graph_conv2d(g, x, w, -1, res, conv);
}

static int attach_factors(struct lora_binding *b, struct graph *g, const struct lora_stack_layer *layer, int x, int base,
                          const struct conv_params *conv) {
    size_t mark = graph_push(g, "lora_down");
    int h = apply(g, x, graph_slot(g, b->stack->set, SET_DATA, layer->down), layer->target->weight, conv, -1);
    graph_pop(g, mark);
    mark = graph_push(g, "lora_strength");
    if (h >= 0)
        h = graph_mul(g, drop(b, g, layer, h), strength_columns(b, g, layer->layout, h), b->shares ? BCAST_NONE : BCAST_IMAGE);
    graph_pop(g, mark);
    mark = graph_push(g, "lora_up");
    int up = graph_slot(g, b->stack->set, SET_DATA, layer->up);
    int y = h < 0 ? -1 : graph_linear(g, h, up, -1, base);
    graph_pop(g, mark);
    return y;
}

/* By region the strength of a convolution goes into the result: what it reads also lies outside the region. */
static int attach_dense_map(struct lora_binding *b, struct graph *g, const struct lora_stack_layer *layer,
                            const struct lora_stack_dense *d, int x, int base, const struct conv_params *conv) {
    int strength = dense_strength(b, g, d->adapter, base), y = base;
    if (d->weight >= 0 && strength >= 0 && is_matrix(layer->target->weight, conv)) {
        int scaled = graph_mul_row(g, x, strength, 0);
        y = apply(g, scaled, graph_slot(g, b->stack->set, SET_DATA, d->weight), layer->target->weight, conv, y);
    } else if (d->weight >= 0 && strength >= 0) {
        int change = apply(g, x, graph_slot(g, b->stack->set, SET_DATA, d->weight), layer->target->weight, conv, -1);
        if (change >= 0) change = graph_mul_row(g, change, strength, 0);
        y = change < 0 ? -1 : graph_add(g, y, change, BCAST_NONE);
    }
    if (d->bias >= 0 && y >= 0 && strength >= 0)
        y = graph_linear(g, strength, graph_slot(g, b->stack->set, SET_DATA, d->bias), -1, y);
    return strength < 0 ? -1 : y;
}

/* Strength goes into x and not into the result, so that the product can add to base in place. The bias times the
 * strength is itself a product of one row per image. */
static int attach_dense(struct lora_binding *b, struct graph *g, const struct lora_stack_layer *layer,
                        const struct lora_stack_dense *d, int x, int base, const struct conv_params *conv) {
    int strength = dense_strength(b, g, d->adapter, x), y = base;
    if (d->weight >= 0 && strength >= 0) {
        int scaled = graph_mul(g, x, strength, BCAST_NUMBER);
        y = apply(g, scaled, graph_slot(g, b->stack->set, SET_DATA, d->weight), layer->target->weight, conv, y);
    }
    if (d->bias >= 0 && y >= 0) {
        int bias = graph_linear(g, strength, graph_slot(g, b->stack->set, SET_DATA, d->bias), -1, -1);
        y = bias < 0 ? -1 : graph_add(g, y, bias, BCAST_IMAGE);
    }
    return y;
}

static int attach(void *ctx, struct graph *g, const char *path, int x, int base, struct shape weight,
                  const struct conv_params *conv) {
    struct lora_binding *b = ctx;
    const struct lora_stack_layer *layer = find_layer(b, path);
    if (!layer) return base;
    assert(shape_equal(layer->target->weight, weight));
    if (layer->n_parts) base = attach_factors(b, g, layer, x, base, conv);
    size_t mark = graph_push(g, "lora_diff");
    for (int i = 0; base >= 0 && i < layer->n_dense; i++)
        base = b->shares ? attach_dense_map(b, g, layer, &layer->dense[i], x, base, conv)
                         : attach_dense(b, g, layer, &layer->dense[i], x, base, conv);
    graph_pop(g, mark);
    return base;
}

static bool has_norm(void *ctx, const char *path, int channels) { return find_norm(ctx, path) != NULL; }

/* A norm is linear in its weight and bias. */
static int attach_norm(void *ctx, struct graph *g, const char *path, int x, int base, const struct nn_norm *p) {
    struct lora_binding *b = ctx;
    const struct lora_stack_layer *layer = find_norm(b, path);
    size_t mark = graph_push(g, "lora_diff");
    for (int i = 0; base >= 0 && i < layer->n_dense; i++) {
        const struct lora_stack_dense *d = &layer->dense[i];
        int gamma = graph_slot(g, b->stack->set, SET_DATA, d->weight), beta = graph_slot(g, b->stack->set, SET_DATA, d->bias);
        int h = p->groups ? graph_group_norm(g, x, gamma, beta, p->groups, p->eps, false)
                          : graph_layer_norm(g, x, gamma, beta, p->eps);
        int strength = dense_strength(b, g, d->adapter, h);
        if (h >= 0) h = b->shares ? graph_mul_row(g, h, strength, 0) : graph_mul(g, h, strength, BCAST_NUMBER);
        base = h < 0 ? -1 : graph_add(g, base, h, BCAST_NONE);
    }
    graph_pop(g, mark);
    return base;
}

static int attach_linear(void *ctx, struct graph *g, const char *path, int x, int base, struct shape weight) {
    return attach(ctx, g, path, x, base, weight, NULL);
}

void lora_stack_bind_with(const struct lora_stack *s, int model, struct graph *g, int strength,
                          struct lora_binding *binding) {
    assert(s->sealed && model >= 0 && model < s->n_models);
    *binding = (struct lora_binding){.stack = s, .model = model, .strength = strength};
    binding->hook = (struct nn_hook){binding, attach_linear, attach, has_norm, attach_norm};
    int n = s->n_layouts + s->n_adapters;
    binding->columns = arena_alloc_n(g->arena, (size_t)n, sizeof *binding->columns);
    for (int i = 0; i < n; i++) binding->columns[i] = -1;
}

void lora_stack_bind(const struct lora_stack *s, int model, struct graph *g, const char *label, int n,
                     struct lora_binding *binding) {
    int strength = -1;
    if (s->n_columns > 0) {
        size_t mark = graph_push(g, "%s.strength", label);
        strength = graph_io(g, g->prefix, (struct shape){n, 1, 1, s->n_columns});
        graph_pop(g, mark);
    }
    lora_stack_bind_with(s, model, g, strength, binding);
}

void lora_stack_bind_regions(const struct lora_stack *s, int model, struct graph *g, const char *label, int n_parts,
                             const int *shares, int n_shares, struct lora_binding *binding) {
    assert(!s->set->trainable && n_parts % 4 == 0);
    lora_stack_bind(s, model, g, label, n_parts, binding);
    binding->shares = shares, binding->n_shares = n_shares;
    int n = s->n_layouts + s->n_adapters;
    binding->maps = arena_alloc_n(g->arena, (size_t)n, sizeof *binding->maps);
    for (int i = 0; i < n; i++) binding->maps[i].share = -1;
}
