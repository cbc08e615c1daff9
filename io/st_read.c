#include "io/st_priv.h"
#include "io/damage_priv.h"
#include "io/json.h"
#include "io/zip.h"
#include "base/arena.h"
#include "base/path.h"
#include "base/sha256.h"
#include "base/text.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* The format allows headers of 100 MB. The counts keep what parsing costs in proportion: kohya metadata holds some ten
 * thousand tags. */
enum { MAX_HEADER = 100000000, MAX_COMMAS = 4000000, MAX_SHARDS = 1000 };

/* ---- Lookup ---- */

struct named {
    const char *name;
    uint32_t index;
};

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct named *)a)->name, ((const struct named *)b)->name);
}

/* Sorted, not hashed: names from outside cannot make it slow. */
static bool index_names(struct st_file *f, struct error *e) {
    struct arena *scratch = arena_create(f->arena);
    struct named *names = arena_alloc_n(scratch, f->n_tensors, sizeof *names);
    for (size_t i = 0; i < f->n_tensors; i++) names[i] = (struct named){f->tensors[i].name, (uint32_t)i};
    if (f->n_tensors) qsort(names, f->n_tensors, sizeof *names, by_name);
    f->by_name = arena_alloc_n(f->arena, f->n_tensors, sizeof *f->by_name);
    bool ok = true;
    for (size_t i = 0; ok && i < f->n_tensors; i++) {
        f->by_name[i] = names[i].index;
        if (i && !strcmp(names[i].name, names[i - 1].name))
            ok = error_set(e, "'%s' has two tensors called '%s'", f->path, TEXT_SHOW(names[i].name));
    }
    arena_destroy(&scratch);
    return ok;
}

const struct st_tensor *st_find(const struct st_file *f, const char *name) {
    for (size_t low = 0, high = f->n_tensors; low < high;) {
        size_t middle = low + (high - low) / 2;
        const struct st_tensor *t = &f->tensors[f->by_name[middle]];
        int order = strcmp(name, t->name);
        if (order == 0) return t;
        if (order < 0) high = middle;
        else low = middle + 1;
    }
    return NULL;
}

size_t st_count(const struct st_file *f) { return f->n_tensors; }

const struct st_tensor *st_at(const struct st_file *f, size_t i) {
    assert(i < f->n_tensors);
    return &f->tensors[i];
}

const char *st_path(const struct st_file *f) { return f->path; }

size_t st_meta_count(const struct st_file *f) { return f->n_meta; }

const char *st_meta_key(const struct st_file *f, size_t i) {
    assert(i < f->n_meta);
    return f->meta[2 * i];
}

const char *st_meta_value(const struct st_file *f, size_t i) {
    assert(i < f->n_meta);
    return f->meta[2 * i + 1];
}

const char *st_meta_find(const struct st_file *f, const char *key) {
    for (size_t i = 0; i < f->n_meta; i++)
        if (strcmp(f->meta[2 * i], key) == 0) return f->meta[2 * i + 1];
    return NULL;
}

bool st_intact(const struct st_file *f, struct error *e) {
    for (size_t i = 0; i < f->n_maps; i++)
        if (!os_map_intact(&f->maps[i], e)) return false;
    return true;
}

void st_data_sha256(const struct st_file *f, char hex[65]) {
    assert(f->n_maps == 1);
    struct sha256 s;
    sha256_begin(&s);
    sha256_update(&s, f->maps[0].data + f->data_begin, f->maps[0].bytes - f->data_begin);
    sha256_end(&s, hex);
}

/* ---- One file ---- */

struct span {
    struct st_tensor t;
    uint64_t begin, end;
};

static bool parse_shape(const json_t *shape, struct st_tensor *t, uint64_t *elements, const char *shown, struct error *e) {
    if (!json_is_array(shape)) return error_set(e, "tensor '%s' lacks a list \"shape\"", shown);
    if (json_array_size(shape) > ST_MAX_RANK)
        return error_set(e, "tensor '%s' has %zu dimensions, at most %d are supported", shown, json_array_size(shape),
                         ST_MAX_RANK);
    t->rank = (int)json_array_size(shape);
    *elements = 1;
    for (int i = 0; i < t->rank; i++) {
        const json_t *d = json_array_get(shape, (size_t)i);
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return error_set(e, "tensor '%s' has a dimension that is not a whole number", shown);
        t->dims[i] = json_integer_value(d);
        if (__builtin_mul_overflow(*elements, (uint64_t)t->dims[i], elements))
            return error_set(e, "tensor '%s' has an impossible size: its dimensions multiply past 64 bits", shown);
    }
    return true;
}

static bool parse_offsets(const json_t *pair, struct span *s, const char *shown, struct error *e) {
    const json_t *b = json_array_get(pair, 0), *n = json_array_get(pair, 1);
    if (!json_is_array(pair) || json_array_size(pair) != 2 || !json_is_integer(b) || !json_is_integer(n) ||
        json_integer_value(b) < 0 || json_integer_value(n) < json_integer_value(b))
        return error_set(e, "tensor '%s' lacks usable \"data_offsets\" [begin, end]", shown);
    s->begin = (uint64_t)json_integer_value(b);
    s->end = (uint64_t)json_integer_value(n);
    return true;
}

static bool parse_tensor(const char *name, const json_t *info, struct span *s, struct error *e) {
    const char *shown = TEXT_SHOW(name);
    if (!json_is_object(info) || json_object_size(info) != 3)
        return error_set(e, "tensor '%s' must have exactly dtype, shape and data_offsets", shown);
    const char *dtype = json_string_value(json_object_get(info, "dtype"));
    if (!dtype || !st_dtype_parse(dtype, &s->t.dtype))
        return error_set(e, "tensor '%s' has the unknown dtype '%s'", shown, dtype ? TEXT_SHOW(dtype) : "(none)");
    uint64_t elements = 0, bits;
    if (!parse_shape(json_object_get(info, "shape"), &s->t, &elements, shown, e)) return false;
    if (!parse_offsets(json_object_get(info, "data_offsets"), s, shown, e)) return false;
    if (__builtin_mul_overflow(elements, (uint64_t)st_dtype_bits(s->t.dtype), &bits) || bits % 8)
        return error_set(e, "tensor '%s' has an impossible size: it does not fill whole bytes", shown);
    if (bits / 8 != s->end - s->begin)
        return error_set(e, "tensor '%s' should take %llu bytes by its shape, but its offsets span %llu", shown,
                         (unsigned long long)(bits / 8), (unsigned long long)(s->end - s->begin));
    s->t.bytes = (size_t)(bits / 8);
    return true;
}

static int by_begin(const void *pa, const void *pb) {
    const struct span *a = pa, *b = pb;
    if (a->begin != b->begin) return a->begin < b->begin ? -1 : 1;
    if (a->end != b->end) return a->end < b->end ? -1 : 1; /* empty tensors first */
    return strcmp(a->t.name, b->t.name);
}

static bool check_cover(struct span *spans, size_t n, uint64_t data_bytes, struct error *e) {
    uint64_t at = 0;
    for (size_t i = 0; i < n; i++) {
        if (spans[i].begin != at)
            return error_set(e, "tensor '%s' starts at byte %llu of the data, %llu was expected: %s",
                             TEXT_SHOW(spans[i].t.name), (unsigned long long)spans[i].begin, (unsigned long long)at,
                             spans[i].begin < at ? "tensors overlap" : "there is a gap");
        at = spans[i].end;
    }
    if (at == data_bytes) return true;
    return error_set(e, "the tensors take %llu bytes but the file holds %llu: it is %s", (unsigned long long)at,
                     (unsigned long long)data_bytes, at > data_bytes ? "cut short; " FETCH_AGAIN : "too long");
}

static bool parse_meta(struct st_file *f, const json_t *meta, struct error *e) {
    if (!json_is_object(meta)) return error_set(e, "__metadata__ is not an object");
    f->meta = arena_alloc_n(f->arena, json_object_size(meta), 2 * sizeof *f->meta);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)meta, key, value) {
        if (!json_is_string(value)) return error_set(e, "the metadata '%s' is not a text", TEXT_SHOW(key));
        f->meta[2 * f->n_meta] = arena_strdup(f->arena, key);
        f->meta[2 * f->n_meta++ + 1] = arena_strdup(f->arena, json_string_value(value));
    }
    return true;
}

static json_t *parse_header(const char *text, size_t n, struct error *e) {
    size_t objects = 0, commas = 0;
    for (size_t i = 0; i < n; i++) {
        objects += text[i] == '{';
        commas += text[i] == ',';
    }
    if (n == 0 || text[0] != '{') return error_set(e, "its header is not a JSON object"), NULL;
    if (objects > ST_MAX_TENSORS || commas > MAX_COMMAS)
        return error_set(e, "its header lists more than is plausible (%zu objects, %zu values)", objects, commas), NULL;
    json_error_t why;
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_DISABLE_EOF_CHECK, &why);
    if (!root) return error_set(e, "its header is not valid JSON (%s); " FETCH_AGAIN, TEXT_SHOW(why.text)), NULL;
    for (size_t i = (size_t)why.position; i < n; i++)
        if (text[i] != ' ') {
            json_decref(root);
            return error_set(e, "its header is followed by something else than spaces"), NULL;
        }
    return root;
}

static bool take_tensors(struct st_file *f, const json_t *root, const uint8_t *data, uint64_t data_bytes, struct error *e) {
    struct arena *scratch = arena_create(f->arena);
    struct span *spans = arena_alloc_n(scratch, json_object_size(root), sizeof *spans);
    size_t n = 0;
    bool ok = true;
    const char *key;
    json_t *info;
    json_object_foreach((json_t *)root, key, info) {
        if (strcmp(key, "__metadata__") == 0) {
            ok = parse_meta(f, info, e);
        } else {
            spans[n].t.name = arena_strdup(f->arena, key);
            ok = parse_tensor(key, info, &spans[n++], e);
        }
        if (!ok) break;
    }
    if (ok && n) qsort(spans, n, sizeof *spans, by_begin);
    ok = ok && check_cover(spans, n, data_bytes, e);
    if (ok) {
        f->tensors = arena_alloc_n(f->arena, n, sizeof *f->tensors);
        f->n_tensors = n;
        for (size_t i = 0; i < n; i++) {
            f->tensors[i] = spans[i].t;
            f->tensors[i].data = data + spans[i].begin;
        }
    }
    arena_destroy(&scratch);
    return ok;
}

static bool begins(const struct os_map *m, const char *text) {
    size_t n = strlen(text);
    return m->bytes >= n && strncasecmp((const char *)m->data, text, n) == 0;
}

/* What often lies where weights should: said as what it is, whatever the file is called. */
static bool check_is_weights(const struct st_file *f, const struct os_map *m, uint64_t header, struct error *e) {
    static const char *const torch_endings[] = {"ckpt", "pt", "pth", "bin"};
    if (!m->bytes) return error_set(e, "'%s' is empty; " FETCH_AGAIN, f->path);
    if (begins(m, "version https://git-lfs"))
        return error_set(e, "'%s' is a Git LFS pointer and not the file itself; fetch that with `git lfs pull`", f->path);
    if (begins(m, "<!doctype html") || begins(m, "<html"))
        return error_set(e, "'%s' is a web page, perhaps an error message that was saved in place of the file; fetch the file "
                            "again", f->path);
    for (size_t i = 0; i < sizeof torch_endings / sizeof *torch_endings; i++) {
        bool sound = m->bytes > 8 && header <= m->bytes - 8 && m->data[8] == '{'; /* a safetensors file by another name */
        if (path_has_ext(f->path, torch_endings[i]) && !sound)
            return error_set(e, "'%s' is no checkpoint: a .%s file is a zip archive written by torch.save, and this one of %zu "
                                "bytes is not; "
                             FETCH_AGAIN, f->path, torch_endings[i], m->bytes);
    }
    return true;
}

static bool read_single(struct st_file *f, struct error *e) {
    f->maps = arena_alloc(f->arena, sizeof *f->maps);
    if (!os_file_map(&f->maps[0], f->path, e)) return false;
    f->n_maps = 1;
    const struct os_map *m = &f->maps[0];
    if (zip_is(m->data, m->bytes)) return st_read_torch(f, e);
    if (st_is_old_torch(m->data, m->bytes))
        return error_set(e, "'%s' is a checkpoint in the format of PyTorch before 1.6, which is not read; load it once with "
                         "torch and save it as safetensors", f->path);
    uint64_t n = 0;
    struct error why = {0};
    bool ok = false;
    if (m->bytes >= 8) memcpy(&n, m->data, 8);
    if (!check_is_weights(f, m, n, e)) return false;
    if (m->bytes < 8) error_set(&why, "it has only %zu bytes; " FETCH_AGAIN, m->bytes);
    else if (n > MAX_HEADER || n > m->bytes - 8)
        error_set(&why, "its header claims %llu bytes, the file has %zu; " FETCH_AGAIN, (unsigned long long)n, m->bytes);
    else {
        json_t *root = parse_header((const char *)m->data + 8, (size_t)n, &why);
        f->data_begin = 8 + (size_t)n;
        ok = root && take_tensors(f, root, m->data + f->data_begin, m->bytes - f->data_begin, &why);
        json_decref(root);
    }
    return ok || error_set(e, "'%s' is not a sound safetensors file: %s", f->path, why.text);
}

/* ---- Shards ---- */

/* Beside the index, and not an index itself. */
static bool is_shard_name(const char *s) {
    return s && s[0] != '.' && !strchr(s, '/') && (path_has_ext(s, "safetensors") || path_has_ext(s, "bin"));
}

/* Opens each named shard once; shard i stays at files[i]. Returns NULL on error. */
static struct st_file *shard_open(struct st_file *f, struct st_file **files, size_t *n, const char *name, struct error *e) {
    for (size_t i = 0; i < *n; i++)
        if (strcmp(path_base(files[i]->path), name) == 0) return files[i];
    if (*n == MAX_SHARDS) return error_set(e, "'%s' names more than %d files", f->path, MAX_SHARDS), NULL;
    struct st_file *shard = st_open(path_join(f->arena, path_dir(f->arena, f->path), name), e);
    if (shard) files[(*n)++] = shard;
    return shard;
}

static int by_address(const void *pa, const void *pb) {
    const struct st_tensor *a = pa, *b = pb;
    if (a->data != b->data) return (uintptr_t)a->data < (uintptr_t)b->data ? -1 : 1;
    return strcmp(a->name, b->name);
}

static bool merge(struct st_file *f, const json_t *map, struct st_file **files, size_t *n_files, struct error *e) {
    if (json_object_size(map) > ST_MAX_TENSORS) return error_set(e, "'%s' lists more tensors than is plausible", f->path);
    f->tensors = arena_alloc_n(f->arena, json_object_size(map), sizeof *f->tensors);
    const char *name;
    json_t *file;
    json_object_foreach((json_t *)map, name, file) {
        const char *shard_name = json_string_value(file);
        if (!is_shard_name(shard_name))
            return error_set(e, "'%s' gives tensor '%s' no plain name of a .safetensors or .bin file", f->path,
                             TEXT_SHOW(name));
        struct st_file *shard = shard_open(f, files, n_files, shard_name, e);
        if (!shard) return error_prefix(e, "opening what '%s' names", f->path);
        const struct st_tensor *t = st_find(shard, name);
        if (!t)
            return error_set(e, "'%s' says that tensor '%s' is in '%s', but it is not there", f->path, TEXT_SHOW(name),
                             TEXT_SHOW(shard_name));
        f->tensors[f->n_tensors] = *t;
        f->tensors[f->n_tensors++].name = arena_strdup(f->arena, name);
    }
    if (f->n_tensors) qsort(f->tensors, f->n_tensors, sizeof *f->tensors, by_address);
    return true;
}

/* Takes over the shards' mappings and the first one's metadata. */
static void adopt(struct st_file *f, struct st_file **files, size_t n) {
    f->maps = arena_alloc_n(f->arena, n, sizeof *f->maps);
    for (size_t i = 0; i < n; i++) {
        f->maps[f->n_maps++] = files[i]->maps[0];
        files[i]->n_maps = 0;
    }
    if (n == 0) return;
    f->meta = arena_alloc_n(f->arena, files[0]->n_meta, 2 * sizeof *f->meta);
    for (size_t i = 0; i < 2 * files[0]->n_meta; i++) f->meta[i] = arena_strdup(f->arena, files[0]->meta[i]);
    f->n_meta = files[0]->n_meta;
}

static bool read_index(struct st_file *f, struct error *e) {
    json_t *root = json_file_load(f->path, 0, e);
    if (!root) return false;
    struct st_file **files = arena_alloc_n(f->arena, MAX_SHARDS, sizeof *files);
    size_t n = 0;
    const json_t *map = json_object_get(root, "weight_map");
    bool ok = json_is_object(map) ? merge(f, map, files, &n, e)
                                  : error_set(e, "'%s' has no \"weight_map\" object", f->path);
    if (ok) adopt(f, files, n);
    for (size_t i = 0; i < n; i++) st_close(&files[i]);
    json_decref(root);
    return ok;
}

struct st_file *st_open(const char *path, struct error *e) {
    struct arena *a = arena_create(NULL);
    struct st_file *f = arena_alloc(a, sizeof *f);
    f->arena = a;
    f->path = arena_strdup(a, path);
    if (!(path_has_ext(path, "json") ? read_index(f, e) : read_single(f, e)) || !index_names(f, e)) {
        st_close(&f);
        return NULL;
    }
    return f;
}

void st_close(struct st_file **pf) {
    struct st_file *f = *pf;
    if (!f) return;
    *pf = NULL;
    for (size_t i = 0; i < f->n_maps; i++) os_file_unmap(&f->maps[i]);
    struct arena *a = f->arena;
    arena_destroy(&a);
}
