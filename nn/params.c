#include "nn/params.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct nn_params *nn_params_create(struct arena *parent, const char *name, enum tensor_dtype dtype,
                                   bool trainable, int64_t max_chunk_bytes) {
    struct arena *a = arena_create(parent);
    struct nn_params *p = arena_alloc(a, sizeof *p);
    p->arena = a;
    p->set = tensor_set_create(a, name, dtype, trainable, max_chunk_bytes);
    p->n_buckets = 512;
    p->buckets = arena_alloc_n(a, (size_t)p->n_buckets, sizeof *p->buckets);
    return p;
}

void nn_params_destroy(struct nn_params **p) {
    if (!*p) return;
    struct arena *a = (*p)->arena;
    *p = NULL;
    arena_destroy(&a);
}

static uint32_t path_hash(const char *s) { /* FNV-1a */
    uint32_t h = 2166136261u;
    while (*s) h = (h ^ (uint8_t)*s++) * 16777619u;
    return h;
}

/* Bucket that holds path, or the empty one where it belongs. */
static int bucket_of(const struct nn_params *p, const char *path) {
    int i = (int)(path_hash(path) & (uint32_t)(p->n_buckets - 1));
    while (p->buckets[i] && strcmp(p->set->slots[p->buckets[i] - 1].name, path))
        i = (i + 1) & (p->n_buckets - 1);
    return i;
}

int nn_params_find(const struct nn_params *p, const char *path) {
    return p->buckets[bucket_of(p, path)] - 1;
}

static void rehash(struct nn_params *p) {
    p->n_buckets *= 2;
    p->buckets = arena_alloc_n(p->arena, (size_t)p->n_buckets, sizeof *p->buckets);
    for (int s = 0; s < p->set->n_slots; s++) p->buckets[bucket_of(p, p->set->slots[s].name)] = s + 1;
}

/* A config.json may ask for anything: what no device could hold is refused here. */
static bool check_size(const struct tensor_set *set, const char *path, struct shape shape, struct error *e) {
    int64_t texels = shape_texels(shape) + 2 * SET_ZERO_TEXELS,
            chunks = sizeof set->chunk_texels / sizeof *set->chunk_texels;
    double mib = (double)tensor_texel_bytes(set->dtype) / 1048576;
    if (texels > set->max_chunk_texels)
        return error_set(e, "%s would take %.0f MiB in one piece, but the device takes at most %.0f MiB",
                         path, (double)texels * mib, (double)set->max_chunk_texels * mib);
    if (set->n_chunks == chunks && set->chunk_texels[chunks - 1] + texels > set->max_chunk_texels)
        return error_set(
            e, "the weights up to %s would take more than %.0f MiB, which is all that this engine can place",
            path, (double)(set->max_chunk_texels * chunks) * mib);
    return true;
}

int nn_params_declare(struct nn_params *p, const char *path, struct shape shape, struct error *e) {
    int slot = nn_params_find(p, path);
    if (slot >= 0) {
        struct shape s = p->set->slots[slot].shape;
        if (shape_equal(s, shape)) return slot;
        error_set(e, "%s is wanted as %dx%dx%dx%d but was declared as %dx%dx%dx%d", path, shape.n, shape.h,
                  shape.w, shape.c, s.n, s.h, s.w, s.c);
        return -1;
    }
    if (p->sealed) {
        error_set(e, "the loaded model has no parameter %s", path);
        return -1;
    }
    if (!check_size(p->set, path, shape, e)) return -1;
    if (2 * (p->set->n_slots + 1) > p->n_buckets) rehash(p);
    slot = tensor_set_add(p->set, path, shape);
    p->buckets[bucket_of(p, path)] = slot + 1;
    return slot;
}

void nn_params_seal(struct nn_params *p) {
    p->sealed = true;
}

int64_t nn_params_count(const struct nn_params *p) {
    int64_t n = 0;
    for (int i = 0; i < p->set->n_slots; i++) n += shape_elems(p->set->slots[i].shape);
    return n;
}

bool nn_params_fits(const struct st_tensor *t, struct shape s) {
    int rank = t->rank;
    const int64_t *d = t->dims;
    if (s.n > 1) return rank == 4 && d[0] == s.w && d[1] == s.c && d[2] * d[3] == s.n && d[2] == d[3];
    if (rank == 4 && d[2] == 1 && d[3] == 1) rank = 2;
    if (rank == 1) return s.w == 1 && d[0] == s.c;
    return rank == 2 && d[0] == s.w && d[1] == s.c;
}
