#include "nn/target.h"

#include <string.h>

static void record(struct arena *a, struct nn_target **items, int *n, int *cap, struct nn_target t) {
    if (*n == *cap) {
        int more = *cap ? 2 * *cap : 64;
        *items = arena_grow(a, *items, (size_t)*n, (size_t)more, sizeof **items);
        *cap = more;
    }
    t.path = arena_strdup(a, t.path);
    (*items)[(*n)++] = t;
}

static void record_layer(struct nn_target_list *l, struct nn_target t) { record(l->arena, &l->items, &l->n, &l->cap, t); }

static int record_linear(void *ctx, struct graph *g, const char *path, int x, int base, struct shape weight) {
    record_layer(ctx, (struct nn_target){path, weight, .conv = {.k = 1, .stride = 1}});
    return base;
}

static int record_conv(void *ctx, struct graph *g, const char *path, int x, int base, struct shape weight,
                       const struct conv_params *conv) {
    record_layer(ctx, (struct nn_target){path, weight, .is_conv = true, .conv = *conv});
    return base;
}

/* Seen, and left as it is. */
static bool record_norm(void *ctx, const char *path, int channels) {
    struct nn_target_list *l = ctx;
    struct nn_target t = {path, {1, 1, 1, channels}, .is_norm = true};
    record(l->arena, &l->norms, &l->n_norms, &l->cap_norms, t);
    return false;
}

struct nn_hook nn_target_recorder(struct nn_target_list *list) {
    return (struct nn_hook){.ctx = list, .linear = record_linear, .conv = record_conv, .has_norm = record_norm};
}

const struct nn_target *nn_target_find(const struct nn_target_list *list, const char *path) {
    for (int i = 0; i < list->n; i++)
        if (!strcmp(list->items[i].path, path)) return &list->items[i];
    for (int i = 0; i < list->n_norms; i++)
        if (!strcmp(list->norms[i].path, path)) return &list->norms[i];
    return NULL;
}

int nn_target_index(const struct nn_target_list *list, const struct nn_target *t) {
    return t->is_norm ? list->n + (int)(t - list->norms) : (int)(t - list->items);
}

const struct nn_target *nn_target_at(const struct nn_target_list *list, int index) {
    return index < list->n ? &list->items[index] : &list->norms[index - list->n];
}
