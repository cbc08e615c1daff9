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

static int strength_columns(struct lora_binding *b, struct graph *g, int layout) {
    const struct lora_stack_layout *l = &b->stack->layouts[layout];
    if (b->columns[layout] < 0) b->columns[layout] = graph_slice(g, b->strength, l->first, l->columns);
    return b->columns[layout];
}

static int attach(void *ctx, struct graph *g, const char *path, int x, int base, struct shape weight,
                  const struct conv_params *conv) {
    struct lora_binding *b = ctx;
    const struct lora_stack_layer *layer = find_layer(b, path);
    if (!layer) return base;
    assert(shape_equal(layer->target->weight, weight));
    size_t mark = graph_push(g, "lora_down");
    int down = graph_slot(g, b->stack->set, SET_DATA, layer->down);
    bool matrix = weight.n == 1 && (!conv || (conv->stride == 1 && !conv->up && !conv->out_h));
    int h = matrix ? graph_linear(g, x, down, -1, -1) : graph_conv2d(g, x, down, -1, -1, conv);
    graph_pop(g, mark);
    mark = graph_push(g, "lora_strength");
    h = h < 0 ? -1 : graph_mul(g, h, strength_columns(b, g, layer->layout), BCAST_IMAGE);
    graph_pop(g, mark);
    mark = graph_push(g, "lora_up");
    int up = graph_slot(g, b->stack->set, SET_DATA, layer->up);
    int y = h < 0 ? -1 : graph_linear(g, h, up, -1, base);
    graph_pop(g, mark);
    return y;
}

static int attach_linear(void *ctx, struct graph *g, const char *path, int x, int base, struct shape weight) {
    return attach(ctx, g, path, x, base, weight, NULL);
}

void lora_stack_bind_with(const struct lora_stack *s, int model, struct graph *g, int strength,
                          struct lora_binding *binding) {
    assert(s->sealed && model >= 0 && model < s->n_models);
    *binding = (struct lora_binding){.stack = s, .model = model, .strength = strength};
    binding->hook = (struct nn_hook){binding, attach_linear, attach};
    binding->columns = arena_alloc_n(g->arena, (size_t)s->n_layouts, sizeof *binding->columns);
    for (int i = 0; i < s->n_layouts; i++) binding->columns[i] = -1;
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
