/* Device copies of tensor_sets. */
#include <assert.h>
#include <string.h>

#include "gpu/gpu_priv.h"

struct gpu_set {
    struct arena *arena;
    struct gpu_device *dev;
    const struct tensor_set *set;
    enum set_bank bank;
    struct gpu_chunk chunks[16];
    void *pack; /* host room for one slot when the chunk is not mapped */
    size_t pack_bytes;
};

static int64_t chunk_bytes(const struct tensor_set *set, int chunk) {
    int64_t texels = (set->chunk_texels[chunk] + SHAPE_ROW_TILE - 1) / SHAPE_ROW_TILE * SHAPE_ROW_TILE;
    return texels * (int64_t)tensor_texel_bytes(set->dtype);
}

/* Zeros where no slot is: before the first one and between them. Slots lie in order. */
static void clear_gaps(struct gpu_set *s) {
    int64_t at[16] = {0}, texel = (int64_t)tensor_texel_bytes(s->set->dtype);
    for (int i = 0; i < s->set->n_slots; i++) {
        const struct tensor_slot *t = &s->set->slots[i];
        int64_t begin = t->offset * texel;
        if (begin > at[t->chunk]) memset(s->chunks[t->chunk].mapped + at[t->chunk], 0, (size_t)(begin - at[t->chunk]));
        at[t->chunk] = begin + tensor_bytes(t->dtype, t->shape);
    }
    for (int i = 0; i < s->set->n_chunks; i++)
        if (s->chunks[i].bytes > at[i]) memset(s->chunks[i].mapped + at[i], 0, (size_t)(s->chunks[i].bytes - at[i]));
}

static struct gpu_set *create(struct gpu_device *dev, const struct tensor_set *set, enum set_bank bank, bool clear, struct error *err) {
    int64_t total = 0;
    for (int i = 0; i < set->n_chunks; i++) total += chunk_bytes(set, i);
    if (dev->memory_used + total > dev->memory_total) {
        error_set(err, "%s needs %.0f MiB on %s, which has %.0f of %.0f MiB left; allow more with --memory, or choose a larger "
                  "device with --device.", set->name, (double)total / 1048576, dev->properties.deviceName, (double)(dev->memory_total - dev->memory_used) / 1048576,
                  (double)dev->memory_total / 1048576);
        return NULL;
    }
    struct arena *a = arena_create(dev->arena);
    struct gpu_set *s = arena_alloc(a, sizeof *s);
    *s = (struct gpu_set){.arena = a, .dev = dev, .set = set, .bank = bank};
    for (int i = 0; i < set->n_chunks; i++)
        if (!gpu_chunk_create(dev, &s->chunks[i], chunk_bytes(set, i), true, clear, set->name, err)) {
            gpu_set_destroy(&s);
            return NULL;
        }
    return s;
}

struct gpu_set *gpu_set_create(struct gpu_device *dev, const struct tensor_set *set, enum set_bank bank, struct error *err) {
    return create(dev, set, bank, true, err);
}

struct gpu_set *gpu_set_create_unfilled(struct gpu_device *dev, const struct tensor_set *set, enum set_bank bank, struct error *err) {
    struct gpu_set *s = create(dev, set, bank, false, err);
    for (int i = 0; s && i < set->n_chunks; i++)
        if (!s->chunks[i].mapped) { /* the device clears faster than it takes zeros */
            gpu_set_destroy(&s);
            return create(dev, set, bank, true, err);
        }
    if (s) clear_gaps(s);
    return s;
}

void gpu_set_destroy(struct gpu_set **p) {
    struct gpu_set *s = *p;
    if (!s) return;
    *p = NULL;
    for (int i = 0; i < s->set->n_chunks; i++) gpu_chunk_destroy(s->dev, &s->chunks[i]);
    struct arena *a = s->arena;
    arena_destroy(&a);
}

int64_t gpu_set_bytes(const struct gpu_set *s) {
    int64_t total = 0;
    for (int i = 0; i < s->set->n_chunks; i++) total += s->chunks[i].bytes;
    return total;
}

struct gpu_chunk *gpu_set_chunk(struct gpu_set *s, int chunk) { return &s->chunks[chunk]; }

static void *pack_room(struct gpu_set *s, size_t bytes) {
    if (bytes > s->pack_bytes) {
        s->pack = arena_alloc(s->arena, bytes);
        s->pack_bytes = bytes;
    }
    return s->pack;
}

void *gpu_set_slot(struct gpu_set *s, int slot) {
    const struct tensor_slot *t = &s->set->slots[slot];
    const struct gpu_chunk *c = &s->chunks[t->chunk];
    return c->mapped ? c->mapped + t->offset * (int64_t)tensor_texel_bytes(s->set->dtype) : NULL;
}

bool gpu_set_write(struct gpu_set *s, int slot, const float *data, struct error *err) {
    const struct tensor_slot *t = &s->set->slots[slot];
    int64_t texel = (int64_t)tensor_texel_bytes(s->set->dtype), bytes = tensor_bytes(t->dtype, t->shape);
    struct gpu_chunk *c = &s->chunks[t->chunk];
    if (c->mapped) {
        gpu_layout_pack(c->mapped + t->offset * texel, t->dtype, t->shape, data);
        return true;
    }
    void *room = pack_room(s, (size_t)bytes);
    gpu_layout_pack(room, t->dtype, t->shape, data);
    return gpu_chunk_upload(s->dev, c, t->offset * texel, room, bytes, err);
}

bool gpu_set_read(struct gpu_set *s, int slot, float *data, struct error *err) {
    const struct tensor_slot *t = &s->set->slots[slot];
    int64_t texel = (int64_t)tensor_texel_bytes(s->set->dtype), bytes = tensor_bytes(t->dtype, t->shape);
    void *room = pack_room(s, (size_t)bytes);
    if (!gpu_chunk_download(s->dev, &s->chunks[t->chunk], t->offset * texel, room, bytes, err)) return false;
    gpu_layout_unpack(data, t->dtype, t->shape, room);
    return true;
}

int64_t gpu_set_chunk_bytes(const struct gpu_set *s, int chunk) { return chunk_bytes(s->set, chunk); }

bool gpu_set_read_raw(struct gpu_set *s, int chunk, void *data, struct error *err) {
    return gpu_chunk_download(s->dev, &s->chunks[chunk], 0, data, chunk_bytes(s->set, chunk), err);
}

bool gpu_set_write_raw(struct gpu_set *s, int chunk, const void *data, struct error *err) {
    return gpu_chunk_upload(s->dev, &s->chunks[chunk], 0, data, chunk_bytes(s->set, chunk), err);
}
