#include "io/safetensors.h"
#include "base/arena.h"
#include "base/half.h"
#include "base/os.h"
#include "base/sha256.h"
#include "base/text.h"

#include <assert.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* Data, or what makes it. */
struct written {
    struct st_tensor t;
    st_fill *fill;
    void *ctx;
};

struct st_writer {
    struct arena *arena;
    struct written *tensors;
    size_t n_tensors, room_tensors;
    const char **meta; /* key, value, ... */
    size_t n_meta, room_meta;
};

struct st_writer *st_writer_create(void) {
    struct arena *a = arena_create(NULL);
    struct st_writer *w = arena_alloc(a, sizeof *w);
    w->arena = a;
    return w;
}

void st_writer_destroy(struct st_writer **pw) {
    if (!*pw) return;
    struct arena *a = (*pw)->arena;
    *pw = NULL;
    arena_destroy(&a);
}

void st_writer_meta(struct st_writer *w, const char *key, const char *value) {
    for (size_t i = 0; i < w->n_meta; i++)
        if (strcmp(w->meta[2 * i], key) == 0) {
            w->meta[2 * i + 1] = arena_strdup(w->arena, value);
            return;
        }
    if (w->n_meta == w->room_meta) {
        size_t more = w->room_meta ? 2 * w->room_meta : 64;
        w->meta = arena_grow(w->arena, w->meta, w->n_meta, more, 2 * sizeof *w->meta);
        w->room_meta = more;
    }
    w->meta[2 * w->n_meta] = arena_strdup(w->arena, key);
    w->meta[2 * w->n_meta++ + 1] = arena_strdup(w->arena, value);
}

static struct st_tensor *add(struct st_writer *w, const char *name, enum st_dtype dtype, int rank, const int64_t *dims) {
    assert(dtype < ST_DTYPE_COUNT && rank >= 0 && rank <= ST_MAX_RANK);
    if (w->n_tensors == w->room_tensors) {
        size_t more = w->room_tensors ? 2 * w->room_tensors : 256;
        w->tensors = arena_grow(w->arena, w->tensors, w->n_tensors, more, sizeof *w->tensors);
        w->room_tensors = more;
    }
    struct st_tensor *t = &w->tensors[w->n_tensors++].t;
    *t = (struct st_tensor){.name = arena_strdup(w->arena, name), .dtype = dtype, .rank = rank};
    for (int i = 0; i < rank; i++) t->dims[i] = dims[i];
    size_t bits = st_tensor_elements(t) * (size_t)st_dtype_bits(dtype);
    assert(bits % 8 == 0);
    t->bytes = bits / 8;
    return t;
}

void st_writer_add(struct st_writer *w, const char *name, enum st_dtype dtype, int rank, const int64_t *dims,
                   const void *data) {
    add(w, name, dtype, rank, dims)->data = data;
}

void st_writer_add_f32(struct st_writer *w, const char *name, enum st_dtype dtype, int rank, const int64_t *dims,
                       const float *src) {
    assert(dtype == ST_F32 || dtype == ST_F16 || dtype == ST_BF16);
    struct st_tensor *t = add(w, name, dtype, rank, dims);
    void *copy = arena_alloc(w->arena, t->bytes);
    size_t n = st_tensor_elements(t);
    if (dtype == ST_F16) half_from_float_n(copy, src, n);
    else if (dtype == ST_BF16) bf16_from_float_n(copy, src, n);
    else if (n) memcpy(copy, src, n * 4);
    t->data = copy;
}

void st_writer_add_fill(struct st_writer *w, const char *name, enum st_dtype dtype, int rank,
                        const int64_t *dims, st_fill *fill, void *ctx) {
    add(w, name, dtype, rank, dims);
    w->tensors[w->n_tensors - 1].fill = fill;
    w->tensors[w->n_tensors - 1].ctx = ctx;
}

/* ---- Layout ---- */

static int by_layout(const void *pa, const void *pb) {
    const struct st_tensor *a = &((const struct written *)pa)->t, *b = &((const struct written *)pb)->t;
    if (a->dtype != b->dtype) return a->dtype > b->dtype ? -1 : 1;
    return strcmp(a->name, b->name);
}

static bool put(json_t *obj, const char *key, json_t *value, struct error *e) {
    if (json_object_get(obj, key)) {
        json_decref(value);
        return error_set(e, "two tensors would be named '%s'", TEXT_SHOW(key));
    }
    if (value && json_object_set_new(obj, key, value) == 0) return true; /* steals also on failure */
    return error_set(e, "the name or text '%s' is not valid UTF-8", TEXT_SHOW(key));
}

static json_t *describe(const struct st_tensor *t, uint64_t begin) {
    json_t *shape = json_array();
    for (int i = 0; i < t->rank; i++) json_array_append_new(shape, json_integer(t->dims[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", st_dtype_name(t->dtype), "shape", shape, "data_offsets",
                     (json_int_t)begin, (json_int_t)(begin + t->bytes));
}

/* Header text with its length in front, padded so that the data starts at a multiple of 8. In arena a. */
static uint8_t *header(struct st_writer *w, struct arena *a, size_t *bytes, struct error *e) {
    json_t *root = json_object(), *meta = w->n_meta ? json_object() : NULL;
    uint64_t at = 0;
    bool ok = true;
    for (size_t i = 0; ok && i < w->n_meta; i++)
        ok = put(meta, w->meta[2 * i], json_string(w->meta[2 * i + 1]), e);
    if (meta) ok = put(root, "__metadata__", meta, e) && ok;
    for (size_t i = 0; ok && i < w->n_tensors; at += w->tensors[i++].t.bytes)
        ok = put(root, w->tensors[i].t.name, describe(&w->tensors[i].t, at), e);
    char *text = ok ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    if (!text) return ok ? (error_set(e, "out of memory"), NULL) : NULL;
    size_t n = strlen(text), padded = (n + 7) & ~(size_t)7;
    uint8_t *out = arena_alloc(a, 8 + padded);
    uint64_t n64 = padded;
    memcpy(out, &n64, 8);
    memset(out + 8, ' ', padded);
    memcpy(out + 8, text, n);
    free(text);
    *bytes = 8 + padded;
    return out;
}

static uint8_t *lay_out(struct st_writer *w, struct arena *a, size_t *bytes, struct error *e) {
    if (w->n_tensors) qsort(w->tensors, w->n_tensors, sizeof *w->tensors, by_layout);
    return header(w, a, bytes, e);
}

/* A tensor's bytes; *made is what has to be freed afterwards. NULL and a sentence on failure. */
static const void *data_of(const struct written *x, void **made, struct error *e) {
    *made = NULL;
    if (!x->fill) return x->t.data;
    if (!(*made = malloc(x->t.bytes + 1))) return error_set(e, "there is no memory for '%s'", TEXT_SHOW(x->t.name)), NULL;
    if (x->fill(x->ctx, *made, x->t.bytes, e)) return *made;
    free(*made);
    *made = NULL;
    return NULL;
}

static bool append(struct os_writer *out, const struct written *x, struct error *e) {
    if (!x->t.bytes) return true;
    void *made;
    const void *data = data_of(x, &made, e);
    bool ok = data && os_writer_append(out, data, x->t.bytes, e);
    free(made);
    return ok;
}

bool st_writer_save(struct st_writer *w, const char *path, struct error *e) {
    struct arena *scratch = arena_create(NULL);
    size_t bytes;
    uint8_t *head = lay_out(w, scratch, &bytes, e);
    struct os_writer *out = NULL;
    bool ok = head ? (out = os_writer_open(path, e)) != NULL : error_prefix(e, "cannot write '%s'", path);
    ok = ok && os_writer_append(out, head, bytes, e);
    for (size_t i = 0; ok && i < w->n_tensors; i++) ok = append(out, &w->tensors[i], e);
    if (ok) ok = os_writer_commit(&out, e);
    else os_writer_abort(&out);
    arena_destroy(&scratch);
    return ok;
}

/* Feeds the part of [at, at + bytes) that lies in the window [begin, end). */
static void window(struct sha256 *s, uint64_t at, const uint8_t *p, size_t bytes, uint64_t begin, uint64_t end) {
    uint64_t lo = at > begin ? at : begin, hi = at + bytes < end ? at + bytes : end;
    if (lo < hi) sha256_update(s, p + (lo - at), (size_t)(hi - lo));
}

bool st_writer_hashes(struct st_writer *w, char model[65], char legacy[9], struct error *e) {
    struct arena *scratch = arena_create(NULL);
    size_t bytes;
    uint8_t *head = lay_out(w, scratch, &bytes, e);
    bool ok = head != NULL;
    if (ok) {
        struct sha256 all, part;
        char hex[65];
        sha256_begin(&all);
        sha256_begin(&part);
        uint64_t at = bytes, begin = 0x100000, end = 0x110000;
        window(&part, 0, head, bytes, begin, end);
        for (size_t i = 0; ok && i < w->n_tensors; at += w->tensors[i++].t.bytes) {
            if (!w->tensors[i].t.bytes) continue;
            void *made;
            const void *data = data_of(&w->tensors[i], &made, e);
            if (!(ok = data != NULL)) break;
            sha256_update(&all, data, w->tensors[i].t.bytes);
            window(&part, at, data, w->tensors[i].t.bytes, begin, end);
            free(made);
        }
        sha256_end(&all, model);
        sha256_end(&part, hex);
        memcpy(legacy, hex, 8);
        legacy[8] = 0;
    }
    arena_destroy(&scratch);
    return ok;
}
