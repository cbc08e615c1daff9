#include "engine/tile.h"

#include <assert.h>
#include <string.h>

struct tile {
    int y, x, h, w;  /* of the input */
    int oh, ow;      /* of the result */
    float *data;
};

static int least(int a, int b) { return a < b ? a : b; }

static void blend_rows(const struct tile *above, struct tile *t, int extent, int c) {
    int n = least(least(above->oh, t->oh), extent);
    size_t row = (size_t)t->ow * (size_t)c;
    for (int y = 0; y < n; y++) {
        const float *from = above->data + (size_t)(above->oh - n + y) * row;
        float *to = t->data + (size_t)y * row, share = (float)y / (float)n;
        for (size_t i = 0; i < row; i++) to[i] = from[i] * (1 - share) + to[i] * share;
    }
}

static void blend_columns(const struct tile *left, struct tile *t, int extent, int c) {
    int n = least(least(left->ow, t->ow), extent);
    for (int y = 0; y < t->oh; y++)
        for (int x = 0; x < n; x++) {
            const float *from = left->data + ((size_t)y * (size_t)left->ow + (size_t)(left->ow - n + x)) * (size_t)c;
            float *to = t->data + ((size_t)y * (size_t)t->ow + (size_t)x) * (size_t)c, share = (float)x / (float)n;
            for (int k = 0; k < c; k++) to[k] = from[k] * (1 - share) + to[k] * share;
        }
}

static bool make_tile(const struct tile_params *p, struct tile *t, float *room, const float *in, tile_fn *make, void *ctx,
                      struct error *err) {
    size_t row = (size_t)t->w * (size_t)p->in_channels;
    for (int y = 0; y < t->h; y++)
        memcpy(room + (size_t)y * row, in + ((size_t)(t->y + y) * (size_t)p->w + (size_t)t->x) * (size_t)p->in_channels,
               row * sizeof *room);
    return make(ctx, t->h, t->w, room, t->data, err);
}

bool tile_run(const struct tile_params *p, struct arena *a, const float *in, float *out, tile_fn *make, void *ctx,
              struct error *err) {
    int step = p->tile * 3 / 4, full = p->tile * p->up / p->down, extent = full / 4, limit = full - extent, c = p->out_channels;
    assert(p->tile % (4 * p->down) == 0);
    int rows = (p->h + step - 1) / step, cols = (p->w + step - 1) / step, out_w = p->w * p->up / p->down;
    struct tile *tiles = arena_alloc_n(a, (size_t)rows * (size_t)cols, sizeof *tiles);
    float *room = arena_alloc_n(a, (size_t)p->tile * (size_t)p->tile, (size_t)p->in_channels * sizeof *room);
    for (int i = 0; i < rows * cols; i++) {
        struct tile *t = &tiles[i];
        t->y = i / cols * step, t->x = i % cols * step;
        t->h = least(p->tile, p->h - t->y), t->w = least(p->tile, p->w - t->x);
        t->oh = t->h * p->up / p->down, t->ow = t->w * p->up / p->down;
        t->data = arena_alloc_n(a, (size_t)t->oh * (size_t)t->ow, (size_t)c * sizeof(float));
    }
    for (int first = 0; first < rows * cols; first++) { /* every size once, in order of its first tile */
        bool seen = false;
        for (int i = 0; i < first; i++) seen |= tiles[i].h == tiles[first].h && tiles[i].w == tiles[first].w;
        for (int i = first; !seen && i < rows * cols; i++)
            if (tiles[i].h == tiles[first].h && tiles[i].w == tiles[first].w &&
                !make_tile(p, &tiles[i], room, in, make, ctx, err))
                return false;
    }
    for (int i = 0; i < rows * cols; i++) {
        struct tile *t = &tiles[i];
        if (i >= cols) blend_rows(&tiles[i - cols], t, extent, c);
        if (i % cols) blend_columns(&tiles[i - 1], t, extent, c);
        for (int y = 0; y < least(t->oh, limit); y++)
            memcpy(out + ((size_t)(i / cols * limit + y) * (size_t)out_w + (size_t)(i % cols * limit)) * (size_t)c,
                   t->data + (size_t)y * (size_t)t->ow * (size_t)c, (size_t)least(t->ow, limit) * (size_t)c * sizeof *out);
    }
    return true;
}
