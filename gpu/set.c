/* Device copies of tensor_sets. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/gpu_priv.h"

enum { MAX_CHUNKS = 16, AWAY = MAX_CHUNKS, SMALL_BYTES = 16384, HOME_ALIGN = 256 };

struct gpu_home {
    int chunk;
    int64_t offset; /* bytes */
};
struct gpu_set {
    struct arena *arena;
    struct gpu_device *dev;
    const struct tensor_set *set;
    enum set_bank bank;
    struct gpu_chunk chunks[2 * MAX_CHUNKS]; /* the set's; streamed: on the device, then from AWAY on with the host */
    struct gpu_home *homes;          /* streamed: per slot */
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

static struct gpu_set *create(struct gpu_device *dev, const struct tensor_set *set, enum set_bank bank, bool clear,
                              struct error *err) {
    int64_t total = 0;
    for (int i = 0; i < set->n_chunks; i++) total += chunk_bytes(set, i);
    if (dev->memory_used + total > dev->memory_total) {
        error_set(err, "%s needs %.0f MiB on %s, which has %.0f of %.0f MiB left; allow more with --memory, or choose a larger "
                  "device with --device.", set->name, (double)total / 1048576, dev->properties.deviceName,
                  (double)(dev->memory_total - dev->memory_used) / 1048576, (double)dev->memory_total / 1048576);
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

struct gpu_set *gpu_set_create_unfilled(struct gpu_device *dev, const struct tensor_set *set, enum set_bank bank,
                                        struct error *err) {
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
    for (int i = 0; i < 2 * MAX_CHUNKS; i++) gpu_chunk_destroy(s->dev, &s->chunks[i]);
    struct arena *a = s->arena;
    arena_destroy(&a);
}

int64_t gpu_set_bytes(const struct gpu_set *s) {
    int64_t total = 0;
    for (int i = 0; i < MAX_CHUNKS; i++) total += s->chunks[i].bytes;
    return total;
}

struct gpu_chunk *gpu_set_chunk(struct gpu_set *s, int chunk) { return &s->chunks[chunk]; }
bool gpu_set_is_streamed(const struct gpu_set *s) { return s->homes != NULL; }

struct gpu_chunk *gpu_set_place(struct gpu_set *s, int slot, int64_t *offset) {
    const struct tensor_slot *t = &s->set->slots[slot];
    *offset = s->homes ? s->homes[slot].offset : t->offset * (int64_t)tensor_texel_bytes(s->set->dtype);
    return &s->chunks[s->homes ? s->homes[slot].chunk : t->chunk];
}

/* Places slots one after the other in chunks from `first` on; sizes[i] grows. */
static bool find_home(struct gpu_set *s, int slot, int first, int64_t *sizes, struct error *err) {
    const struct tensor_slot *t = &s->set->slots[slot];
    int64_t bytes = (tensor_bytes(t->dtype, t->shape) + HOME_ALIGN - 1) / HOME_ALIGN * HOME_ALIGN;
    for (int c = first; c < first + MAX_CHUNKS; c++) {
        if (!sizes[c]) sizes[c] = PLAN_ZERO_BYTES;
        if (sizes[c] + bytes > s->dev->max_chunk) continue;
        s->homes[slot] = (struct gpu_home){c, sizes[c]};
        sizes[c] += bytes;
        return true;
    }
    return error_set(err, "%s needs more than %d buffers.", s->set->name, MAX_CHUNKS);
}

static int64_t slot_bytes(const struct tensor_set *set, int slot) {
    return tensor_bytes(set->slots[slot].dtype, set->slots[slot].shape);
}

static int falling(const void *x, const void *y) {
    int64_t a = *(const int64_t *)x, b = *(const int64_t *)y;
    return a < b ? 1 : a > b ? -1 : 0;
}

/* A ring costs twice the largest tensor that goes through it, so a few outsized ones (token tables) had better stay:
 * the k largest, for the k with the least of their sum and twice the next. */
struct gpu_stay gpu_set_stay(const struct tensor_set *set) {
    struct arena *a = arena_create(NULL);
    int64_t *sizes = arena_alloc_n(a, (size_t)set->n_slots + 1, sizeof *sizes), sum = 0, best = INT64_MAX;
    struct gpu_stay stay = {.below = SMALL_BYTES, .above = INT64_MAX};
    for (int i = 0; i < set->n_slots; i++) sizes[i] = slot_bytes(set, i);
    qsort(sizes, (size_t)set->n_slots, sizeof *sizes, falling);
    for (int k = 0; k < set->n_slots; k++) {
        bool tied = k > 0 && sizes[k] == sizes[k - 1]; /* equal ones go together */
        if (!tied && sum + 2 * sizes[k] < best) best = sum + 2 * sizes[k], stay.above = sizes[k];
        sum += sizes[k];
    }
    arena_destroy(&a);
    return stay;
}

int64_t gpu_set_streamed_least(const struct tensor_set *set) {
    struct gpu_stay stay = gpu_set_stay(set);
    int64_t kept = PLAN_ZERO_BYTES;
    for (int i = 0; i < set->n_slots; i++)
        if (gpu_stays(stay, slot_bytes(set, i))) kept += slot_bytes(set, i) + HOME_ALIGN;
    return kept;
}

struct gpu_set *gpu_set_create_streamed(struct gpu_device *dev, const struct tensor_set *set, int64_t resident_bytes,
                                        struct error *err) {
    assert(!set->trainable);
    struct arena *a = arena_create(dev->arena);
    struct gpu_set *s = arena_alloc(a, sizeof *s);
    *s = (struct gpu_set){.arena = a, .dev = dev, .set = set, .bank = SET_DATA};
    s->homes = arena_alloc_n(a, (size_t)set->n_slots, sizeof *s->homes);
    struct gpu_stay stay = gpu_set_stay(set);
    int64_t sizes[2 * MAX_CHUNKS] = {0}, kept = gpu_set_streamed_least(set);
    bool ok = true;
    for (int i = 0; ok && i < set->n_slots; i++) {
        int64_t bytes = slot_bytes(set, i);
        bool must = gpu_stays(stay, bytes), stays = must || kept + bytes + HOME_ALIGN <= resident_bytes;
        if (stays && !must) kept += bytes + HOME_ALIGN;
        ok = find_home(s, i, stays ? 0 : AWAY, sizes, err);
    }
    for (int c = 0; ok && c < 2 * MAX_CHUNKS; c++) {
        if (!sizes[c]) continue;
        ok = c < AWAY ? gpu_chunk_create(dev, &s->chunks[c], sizes[c], true, true, set->name, err)
                      : gpu_chunk_create_away(dev, &s->chunks[c], sizes[c], set->name, err);
    }
    if (!ok) gpu_set_destroy(&s);
    return s;
}

static void *pack_room(struct gpu_set *s, size_t bytes) {
    if (bytes > s->pack_bytes) {
        s->pack = arena_alloc(s->arena, bytes);
        s->pack_bytes = bytes;
    }
    return s->pack;
}

void *gpu_set_slot(struct gpu_set *s, int slot) {
    int64_t offset;
    const struct gpu_chunk *c = gpu_set_place(s, slot, &offset);
    return c->mapped ? c->mapped + offset : NULL;
}

bool gpu_set_write(struct gpu_set *s, int slot, const float *data, struct error *err) {
    const struct tensor_slot *t = &s->set->slots[slot];
    int64_t offset, bytes = tensor_bytes(t->dtype, t->shape);
    struct gpu_chunk *c = gpu_set_place(s, slot, &offset);
    if (c->mapped) {
        gpu_layout_pack(c->mapped + offset, t->dtype, t->shape, data);
        return true;
    }
    void *room = pack_room(s, (size_t)bytes);
    gpu_layout_pack(room, t->dtype, t->shape, data);
    return gpu_chunk_upload(s->dev, c, offset, room, bytes, err);
}

bool gpu_set_read(struct gpu_set *s, int slot, float *data, struct error *err) {
    const struct tensor_slot *t = &s->set->slots[slot];
    int64_t offset, bytes = tensor_bytes(t->dtype, t->shape);
    struct gpu_chunk *c = gpu_set_place(s, slot, &offset);
    void *room = pack_room(s, (size_t)bytes);
    if (!gpu_chunk_download(s->dev, c, offset, room, bytes, err)) return false;
    gpu_layout_unpack(data, t->dtype, t->shape, room);
    return true;
}

int64_t gpu_set_chunk_bytes(const struct gpu_set *s, int chunk) { return chunk_bytes(s->set, chunk); }

bool gpu_set_read_raw(struct gpu_set *s, int chunk, void *data, struct error *err) {
    assert(!s->homes);
    return gpu_chunk_download(s->dev, &s->chunks[chunk], 0, data, chunk_bytes(s->set, chunk), err);
}

bool gpu_set_write_raw(struct gpu_set *s, int chunk, const void *data, struct error *err) {
    assert(!s->homes);
    return gpu_chunk_upload(s->dev, &s->chunks[chunk], 0, data, chunk_bytes(s->set, chunk), err);
}
