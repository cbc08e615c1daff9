#include "nn/target.h"

#include <string.h>

static void record(struct nn_target_list *list, struct nn_target t) {
    if (list->n == list->cap) {
        int cap = list->cap ? 2 * list->cap : 64;
        list->items = arena_grow(list->arena, list->items, (size_t)list->n, (size_t)cap, sizeof *list->items);
        list->cap = cap;
    }
    t.path = arena_strdup(list->arena, t.path);
    list->items[list->n++] = t;
}

static int record_linear(void *ctx, struct graph *g, const char *path, int x, int base, struct shape weight) {
    record(ctx, (struct nn_target){path, weight, false, {.k = 1, .stride = 1}});
    return base;
}

static int record_conv(void *ctx, struct graph *g, const char *path, int x, int base, struct shape weight,
                       const struct conv_params *conv) {
    record(ctx, (struct nn_target){path, weight, true, *conv});
    return base;
}

struct nn_hook nn_target_recorder(struct nn_target_list *list) {
    return (struct nn_hook){list, record_linear, record_conv};
}

const struct nn_target *nn_target_find(const struct nn_target_list *list, const char *path) {
    for (int i = 0; i < list->n; i++)
        if (!strcmp(list->items[i].path, path)) return &list->items[i];
    return NULL;
}
