#include "tests/support/small_net.h"
#include <stdio.h>

enum { C = 8, RANK = 4, HEADS = 2 };

static int weight(struct small_net *n, bool trainable, const char *what, struct shape s) {
    struct tensor_set *set = trainable ? n->adapter : n->frozen;
    char name[300];
    snprintf(name, sizeof name, "%s.%s", n->g->prefix, what);
    return graph_slot(n->g, set, SET_DATA, tensor_set_add(set, name, s));
}

static int adapted(struct small_net *n, const char *name, int x, int res) {
    struct graph *g = n->g;
    size_t mark = graph_push(g, "%s", name);
    int base = graph_linear(g, x, weight(n, false, "weight", (struct shape){1, 1, C, C}), -1, res);
    int down = graph_linear(g, x, weight(n, true, "down", (struct shape){1, 1, RANK, C}), -1, -1);
    down = graph_mul(g, down, weight(n, false, "strength", (struct shape){1, 1, 1, RANK}), BCAST_ALL);
    int y = graph_linear(g, down, weight(n, true, "up", (struct shape){1, 1, C, RANK}), -1, base);
    graph_pop(g, mark);
    return y;
}

static int block(struct small_net *n, int index, int x) {
    struct graph *g = n->g;
    size_t mark = graph_push(g, "block%d", index);
    graph_segment_begin(g);
    int gamma = weight(n, false, "gamma", (struct shape){1, 1, 1, C}),
        beta = weight(n, false, "beta", (struct shape){1, 1, 1, C});
    int h = graph_group_norm(g, x, gamma, beta, 2, 1e-5f, true);
    int kernel = weight(n, false, "conv", (struct shape){9, 1, C, C});
    h = graph_conv2d(g, h, kernel, beta, x, &(struct conv_params){.k = 3, .pad = 1});
    struct shape s = graph_shape(g, h);
    int tokens = graph_reshape(g, h, s.n, 1, s.h * s.w);
    int normed = graph_layer_norm(g, tokens, gamma, weight(n, true, "shift", (struct shape){1, 1, 1, C}), 1e-5f);
    int q = adapted(n, "q", normed, -1), k = adapted(n, "k", normed, -1), v = adapted(n, "v", normed, -1);
    int o = graph_attention(g, q, k, v, HEADS, 0.5f, false);
    h = graph_reshape(g, adapted(n, "out", o, tokens), s.n, s.h, s.w);
    graph_segment_end(g);
    graph_pop(g, mark);
    return h;
}

struct small_net small_net_build(struct arena *a) {
    struct small_net n = {.g = graph_create(a, TENSOR_F32)};
    struct graph *g = n.g;
    n.frozen = tensor_set_create(g->arena, "frozen", TENSOR_F32, false, 1 << 24);
    n.adapter = tensor_set_create(g->arena, "adapter", TENSOR_F32, true, 1 << 24);
    struct shape image = {2, 4, 6, C};
    int x = graph_io(g, "x", image);
    int a0 = block(&n, 0, x), a1 = block(&n, 1, a0);
    int wide = graph_concat(g, a1, a0);
    int merge = weight(&n, false, "merge", (struct shape){1, 1, C, 2 * C});
    int a2 = block(&n, 2, graph_linear(g, wide, merge, -1, -1));
    n.loss = graph_mse(g, a2, graph_io(g, "target", image));
    n.seed = graph_io(g, "seed", graph_shape(g, n.loss));
    graph_output(g, "loss", n.loss);
    return n;
}

int small_net_gradient(const struct small_net *n, int slot) {
    int found = -1;
    for (int v = 0; v < n->g->n_values; v++) {
        const struct value *value = graph_value(n->g, v);
        if (value->cls == VALUE_SET && value->set == n->adapter && value->bank == SET_GRAD && value->slot == slot &&
            value->producer >= 0)
            found = v;
    }
    return found;
}
