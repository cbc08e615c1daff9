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

/* --- binding to files ------------------------------------------------------------------------------ */

bool nn_params_fits(const struct st_tensor *t, struct shape s) {
    int rank = t->rank;
    const int64_t *d = t->dims;
    if (s.n > 1) return rank == 4 && d[0] == s.w && d[1] == s.c && d[2] * d[3] == s.n && d[2] == d[3];
    if (rank == 4 && d[2] == 1 && d[3] == 1) rank = 2;
    if (rank == 1) return s.w == 1 && d[0] == s.c;
    return rank == 2 && d[0] == s.w && d[1] == s.c;
}

static void expected_text(struct shape s, char *dst, size_t bytes) {
    int k = 1;
    while (k * k < s.n) k++;
    if (s.n > 1)
        snprintf(dst, bytes, "[%d, %d, %d, %d]", s.w, s.c, k, k);
    else if (s.w == 1)
        snprintf(dst, bytes, "[%d]", s.c);
    else
        snprintf(dst, bytes, "[%d, %d]", s.w, s.c);
}

/* Canonical path with the alias applied, false if it does not occur or the result is too long. */
static bool alias_apply(const struct nn_alias *alias, const char *path, char *dst, size_t bytes) {
    const char *at = strstr(path, alias->canonical);
    if (!at) return false;
    int n =
        snprintf(dst, bytes, "%.*s%s%s", (int)(at - path), path, alias->file, at + strlen(alias->canonical));
    return n > 0 && (size_t)n < bytes;
}

static const struct st_tensor *find_tensor(const struct st_file *const *files, int n_files, const char *path,
                                           const struct nn_alias *aliases, int n_aliases, int *file) {
    char other[320];
    for (int a = -1; a < n_aliases; a++) {
        const char *name = path;
        if (a >= 0) {
            if (!alias_apply(&aliases[a], path, other, sizeof other)) continue;
            name = other;
        }
        for (int f = 0; f < n_files; f++) {
            const struct st_tensor *t = st_find(files[f], name);
            if (t) return *file = f, t;
        }
    }
    return NULL;
}

/* Kept in old text checkpoints although it is only a count from 0. */
static bool is_ignored(const char *name) {
    static const char tail[] = "position_ids";
    size_t n = strlen(name), m = sizeof tail - 1;
    return n >= m && !strcmp(name + n - m, tail);
}

static int compare_pointers(const void *a, const void *b) {
    const uintptr_t x = (uintptr_t) * (const void *const *)a, y = (uintptr_t) * (const void *const *)b;
    return (x > y) - (x < y);
}

static void report_fill(struct nn_params *p, const struct st_file *const *files, int n_files,
                        struct nn_load_report *report) {
    size_t n_used = (size_t)p->set->n_slots, total = 0;
    const struct st_tensor **used = arena_alloc_n(p->arena, n_used, sizeof *used);
    if (n_used) memcpy(used, p->tensors, n_used * sizeof *used);
    qsort(used, n_used, sizeof *used, compare_pointers);
    for (int f = 0; f < n_files; f++) total += st_count(files[f]);
    const char **unused = arena_alloc_n(p->arena, total, sizeof *unused);
    int n_unused = 0;
    for (int f = 0; f < n_files; f++)
        for (size_t i = 0; i < st_count(files[f]); i++) {
            const struct st_tensor *t = st_at(files[f], i);
            if (bsearch(&t, used, n_used, sizeof *used, compare_pointers) || is_ignored(t->name)) continue;
            unused[n_unused++] = arena_strdup(p->arena, t->name);
        }
    *report = (struct nn_load_report){.n_used = (int)n_used, .n_unused = n_unused, .unused = unused};
}

static bool bind_slot(struct nn_params *p, int slot, const struct st_file *const *files, int n_files,
                      const struct nn_alias *aliases, int n_aliases, struct error *e) {
    const struct tensor_slot *s = &p->set->slots[slot];
    int file = 0;
    char want[96], have[ST_SHAPE_TEXT_BYTES];
    const struct st_tensor *t = find_tensor(files, n_files, s->name, aliases, n_aliases, &file);
    expected_text(s->shape, want, sizeof want);
    if (!t)
        return error_set(e,
                         "%s has no tensor %s (%s expected); the file is not this model's or is incomplete",
                         n_files ? st_path(files[0]) : "the model", s->name, want);
    if (!nn_params_fits(t, s->shape))
        return error_set(e, "%s: %s has shape %s, but config.json asks for %s", st_path(files[file]), t->name,
                         st_tensor_shape_text(t, have), want);
    if (t->dtype != ST_F32 && t->dtype != ST_F16 && t->dtype != ST_BF16)
        return error_set(e, "%s: %s is stored as %s; weights must be F32, F16 or BF16", st_path(files[file]),
                         t->name, st_dtype_name(t->dtype));
    p->tensors[slot] = t;
    return true;
}

bool nn_params_bind(struct nn_params *p, const struct st_file *const *files, int n_files,
                    const struct nn_alias *aliases, int n_aliases, struct nn_load_report *report,
                    struct error *e) {
    p->sealed = true;
    p->tensors = arena_alloc_n(p->arena, (size_t)p->set->n_slots, sizeof *p->tensors);
    for (int s = 0; s < p->set->n_slots; s++)
        if (!bind_slot(p, s, files, n_files, aliases, n_aliases, e)) return false;
    if (report) report_fill(p, files, n_files, report);
    return true;
}
