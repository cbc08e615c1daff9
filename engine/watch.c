#include "engine/watch.h"

#include <assert.h>
#include <string.h>

bool watch_can(const struct nn_target *t) {
    return !t->is_norm && t->weight.n == 1 &&
           (!t->is_conv || (t->conv.stride <= 1 && !t->conv.up && !t->conv.out_h && !t->conv.pad));
}

struct watch *watch_create(struct arena *parent, const struct nn_target *const *targets, int n) {
    struct arena *a = arena_create(parent);
    struct watch *w = arena_alloc(a, sizeof *w);
    *w = (struct watch){.arena = a, .n = n};
    w->layers = arena_alloc_n(a, (size_t)n + 1, sizeof *w->layers);
    w->inputs = arena_alloc_n(a, (size_t)n + 1, sizeof *w->inputs),
    w->outputs = arena_alloc_n(a, (size_t)n + 1, sizeof *w->outputs);
    for (int i = 0; i < n; i++) {
        assert(watch_can(targets[i]));
        w->layers[i] = (struct watch_layer){.target = targets[i], .same = -1};
    }
    return w;
}

int64_t watch_bytes(const struct watch *w) {
    int64_t bytes = 0;
    for (int i = 0; i < w->n; i++) {
        int64_t in = w->layers[i].target->weight.c;
        if (w->layers[i].same < 0 || w->layers[i].same == i) bytes += in * in * (int64_t)sizeof(double);
    }
    return bytes;
}

static int find(const struct watch *w, const char *path) {
    for (int i = 0; i < w->n; i++)
        if (strcmp(w->layers[i].target->path, path) == 0) return i;
    return -1;
}

static void note(struct watch *w, struct graph *g, const char *path, int x) {
    int layer = find(w, path), same = layer;
    if (layer < 0 || x < 0) return;
    w->inputs[layer] = x;
    for (int i = 0; i < w->n && same == layer; i++)
        if (i != layer && w->inputs[i] == x && w->layers[i].same == i) same = i;
    assert(w->layers[layer].same < 0 || w->layers[layer].same == same); /* the tape is always the same */
    w->layers[layer].same = same;
    if (same != layer || w->list_only) return;
    int node = graph_append(g, OP_MATMUL_TN, (int[]){x, x}, 2, (union op_attr){0});
    w->outputs[layer] = node < 0 ? -1 : graph_output(g, "sum over a layer's inputs", g->nodes[node].out[0]);
}

static int on_linear(void *ctx, struct graph *g, const char *path, int x, int base, struct shape weight) {
    struct watch *w = ctx;
    note(w, g, path, x);
    return w->inner && w->inner->linear ? w->inner->linear(w->inner->ctx, g, path, x, base, weight) : base;
}

static int on_conv(void *ctx, struct graph *g, const char *path, int x, int base, struct shape weight,
                   const struct conv_params *conv) {
    struct watch *w = ctx;
    note(w, g, path, x);
    return w->inner && w->inner->conv ? w->inner->conv(w->inner->ctx, g, path, x, base, weight, conv) : base;
}

static bool has_norm(void *ctx, const char *path, int channels) {
    struct watch *w = ctx;
    return w->inner && w->inner->has_norm && w->inner->has_norm(w->inner->ctx, path, channels);
}

static int on_norm(void *ctx, struct graph *g, const char *path, int x, int base, const struct nn_norm *norm) {
    struct watch *w = ctx;
    return w->inner->norm(w->inner->ctx, g, path, x, base, norm);
}

const struct nn_hook *watch_begin(struct watch *w, const struct nn_hook *inner) {
    for (int i = 0; i < w->n; i++) w->inputs[i] = w->outputs[i] = -1;
    w->inner = inner;
    w->hook = (struct nn_hook){w, on_linear, on_conv, has_norm, on_norm};
    return &w->hook;
}

void watch_read(struct watch *w, struct gpu_program *prog) {
    struct arena *a = arena_create(NULL);
    for (int i = 0; i < w->n; i++) {
        if (w->outputs[i] < 0) continue;
        size_t in = (size_t)w->layers[i].target->weight.c, n = in * in;
        float *sum = arena_alloc_n(a, n, sizeof *sum);
        if (!w->layers[i].gram) w->layers[i].gram = arena_alloc_n(w->arena, n, sizeof(double));
        gpu_program_read(prog, w->outputs[i], sum);
        for (size_t k = 0; k < n; k++) w->layers[i].gram[k] += sum[k];
    }
    arena_destroy(&a);
}

const double *watch_gram(const struct watch *w, const struct nn_target *t) {
    for (int i = 0; i < w->n; i++)
        if (w->layers[i].target == t && w->layers[i].same >= 0) return w->layers[w->layers[i].same].gram;
    return NULL;
}
