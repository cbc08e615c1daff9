#include <assert.h>
#include <string.h>

#include "graph/graph.h"

/* Offsets are multiples of 8 texels: 64 bytes at f16, 128 at f32. */
enum { SLOT_ALIGN = 8 };

struct tensor_set *tensor_set_create(struct arena *parent, const char *name, enum tensor_dtype dtype,
                                     bool trainable, int64_t max_chunk_bytes) {
    struct arena *a = arena_create(parent);
    struct tensor_set *set = arena_alloc(a, sizeof *set);
    set->arena = a;
    set->name = arena_strdup(a, name);
    set->dtype = set->matrix_dtype = dtype;
    set->trainable = trainable;
    int64_t bytes = max_chunk_bytes ? max_chunk_bytes : ((int64_t)2 << 30) - 65536;
    set->max_chunk_texels = bytes / (int64_t)tensor_texel_bytes(dtype);
    return set;
}

void tensor_set_narrow(struct tensor_set *set, enum tensor_dtype dtype, int least) {
    assert(!set->trainable);
    set->matrix_dtype = dtype, set->narrow_least = least;
}

int64_t tensor_bytes(enum tensor_dtype dtype, struct shape shape) {
    return quant_is_coded(dtype) ? quant_bytes(dtype, shape) : shape_texels(shape) * (int64_t)tensor_texel_bytes(dtype);
}

static enum tensor_dtype slot_dtype(const struct tensor_set *set, struct shape shape) {
    bool large = shape.w >= set->narrow_least && shape.c >= set->narrow_least;
    return quant_fits(shape) && shape.w > 1 && large ? set->matrix_dtype : set->dtype;
}

static int64_t slot_texels(const struct tensor_set *set, enum tensor_dtype dtype, struct shape shape) {
    int64_t texel = (int64_t)tensor_texel_bytes(set->dtype), texels = (tensor_bytes(dtype, shape) + texel - 1) / texel;
    return (texels + SLOT_ALIGN - 1) / SLOT_ALIGN * SLOT_ALIGN;
}

enum { MAX_CHUNKS = sizeof((struct tensor_set *)0)->chunk_texels / sizeof((struct tensor_set *)0)->chunk_texels[0] };

bool tensor_set_has_room(const struct tensor_set *set, struct shape shape) {
    int64_t texels = slot_texels(set, slot_dtype(set, shape), shape);
    if (SET_ZERO_TEXELS + texels > set->max_chunk_texels) return false;
    return set->n_chunks < MAX_CHUNKS || set->chunk_texels[MAX_CHUNKS - 1] + texels <= set->max_chunk_texels;
}

int tensor_set_add(struct tensor_set *set, const char *name, struct shape shape) {
    enum tensor_dtype dtype = slot_dtype(set, shape);
    int64_t texels = slot_texels(set, dtype, shape);
    int last = set->n_chunks - 1;
    if (last < 0 || set->chunk_texels[last] + texels > set->max_chunk_texels) {
        assert(set->n_chunks < MAX_CHUNKS);
        last = set->n_chunks++;
        set->chunk_texels[last] = SET_ZERO_TEXELS;
    }
    if (set->n_slots == set->cap_slots) {
        int cap = set->cap_slots ? set->cap_slots * 2 : 64;
        struct tensor_slot *slots = arena_alloc(set->arena, (size_t)cap * sizeof *slots);
        if (set->n_slots) memcpy(slots, set->slots, (size_t)set->n_slots * sizeof *slots);
        set->slots = slots, set->cap_slots = cap;
    }
    set->slots[set->n_slots] =
        (struct tensor_slot){arena_strdup(set->arena, name), shape, dtype, last, set->chunk_texels[last]};
    set->chunk_texels[last] += texels;
    return set->n_slots++;
}

int tensor_set_find(const struct tensor_set *set, const char *name) {
    for (int i = 0; i < set->n_slots; i++)
        if (!strcmp(set->slots[i].name, name)) return i;
    return -1;
}
