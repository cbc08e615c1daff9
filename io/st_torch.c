/* What torch.save writes since 1.6: a zip of one pickle, NAME/data.pkl, and one storage per member, NAME/data/KEY. */
#include "io/st_priv.h"
#include "base/arena.h"
#include "base/text.h"
#include "io/pickle.h"
#include "io/zip.h"

#include <string.h>

/* Nested dictionaries of weights are two or three deep; the count bounds pickles whose parts repeat. */
enum { MAX_DEPTH = 6, MAX_VISITS = 1000000 };

static const struct {
    const char *name;
    enum st_dtype dtype;
} storages[] = {{"torch.FloatStorage", ST_F32}, {"torch.HalfStorage", ST_F16}, {"torch.BFloat16Storage", ST_BF16},
                {"torch.DoubleStorage", ST_F64}, {"torch.LongStorage", ST_I64}, {"torch.IntStorage", ST_I32},
                {"torch.ShortStorage", ST_I16}, {"torch.CharStorage", ST_I8}, {"torch.ByteStorage", ST_U8},
                {"torch.BoolStorage", ST_BOOL}};
static const char rebuild_tensor[] = "torch._utils._rebuild_tensor_v2",
                  rebuild_parameter[] = "torch._utils._rebuild_parameter",
                  parameter_dict[] = "torch.nn.modules.container.ParameterDict"; /* textual inversion's first program */

/* Names that training programs leave beside the weights. They stay words here; nothing is called or imported. */
static const char *const inert[] = {"_codecs.encode", "numpy.dtype", "numpy.ndarray", "numpy.core.multiarray.scalar",
                                    "numpy.core.multiarray._reconstruct", "numpy._core.multiarray.scalar",
                                    "numpy._core.multiarray._reconstruct", "collections.defaultdict", "builtins.dict",
                                    "builtins.set", "builtins.int", "builtins.float", "__builtin__.dict", "__builtin__.set",
                                    "torch.Size", "torch.device", "torch.float32", "torch.float16", "torch.bfloat16",
                                    "torch.int64",
                                    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
                                    "pytorch_lightning.utilities.enums.LightningEnum"};

static bool allowed(const char *name) {
    for (size_t i = 0; i < sizeof storages / sizeof *storages; i++)
        if (!strcmp(name, storages[i].name)) return true;
    for (size_t i = 0; i < sizeof inert / sizeof *inert; i++)
        if (!strcmp(name, inert[i])) return true;
    return !strcmp(name, rebuild_tensor) || !strcmp(name, rebuild_parameter) || !strcmp(name, parameter_dict) ||
           !strcmp(name, "collections.OrderedDict");
}

struct reader {
    struct st_file *f;
    struct zip zip;
    const char *root; /* folder inside the archive, with its slash */
    const uint8_t **contents; /* per member, once needed */
    uint64_t budget; /* bytes that may still be unpacked or rearranged */
    size_t tensors_cap, meta_cap, n_visits;
    struct error *e;
};

static bool spend(struct reader *r, uint64_t bytes, const char *name) {
    if (bytes > r->budget) return error_set(r->e, "tensor '%s' would unpack to more than is plausible", TEXT_SHOW(name));
    r->budget -= bytes;
    return true;
}

struct storage {
    enum st_dtype dtype;
    const uint8_t *data;
    uint64_t bytes;
};

/* ("storage", type, key, device, elements) */
static bool find_storage(struct reader *r, const char *name, const struct pickle_value *v, struct storage *s) {
    const char *shown = TEXT_SHOW(name);
    const struct pickle_value *id = v->kind == PICKLE_PERSISTENT ? v->items[0] : NULL;
    if (!id || id->kind != PICKLE_TUPLE || id->n < 5 || id->items[1]->kind != PICKLE_GLOBAL ||
        id->items[2]->kind != PICKLE_TEXT)
        return error_set(r->e, "tensor '%s' names no storage", shown);
    size_t type = 0, n_types = sizeof storages / sizeof *storages;
    while (type < n_types && strcmp(id->items[1]->text, storages[type].name)) type++;
    if (type == n_types) return error_set(r->e, "tensor '%s' has the unknown storage %s", shown, TEXT_SHOW(id->items[1]->text));
    struct arena *scratch = arena_create(NULL);
    const struct zip_member *m = zip_find(&r->zip, arena_printf(scratch, "%sdata/%s", r->root, id->items[2]->text));
    arena_destroy(&scratch);
    if (!m) return error_set(r->e, "the storage of tensor '%s' is not in the archive", shown);
    size_t at = (size_t)(m - r->zip.members);
    if (!r->contents[at]) {
        if (m->deflated && !spend(r, m->bytes, name)) return false;
        r->contents[at] = zip_content(m, r->f->arena, r->e);
    }
    *s = (struct storage){storages[type].dtype, r->contents[at], m->bytes};
    return s->data != NULL;
}

/* Tuple of whole numbers >= 0; -1 if it is none. */
static int read_counts(const struct pickle_value *v, int64_t dst[ST_MAX_RANK]) {
    if (v->kind != PICKLE_TUPLE || v->n > ST_MAX_RANK) return -1;
    for (uint32_t i = 0; i < v->n; i++) {
        if (v->items[i]->kind != PICKLE_INT || v->items[i]->number < 0) return -1;
        dst[i] = v->items[i]->number;
    }
    return (int)v->n;
}

static bool is_dense(const struct st_tensor *t, const int64_t *strides) {
    int64_t expected = 1;
    for (int i = t->rank - 1; i >= 0; i--) {
        if (t->dims[i] != 1 && strides[i] != expected) return false;
        expected *= t->dims[i];
    }
    return true;
}

/* A transposed or sliced view becomes rows of its own. Offsets were checked. */
static const void *gather(struct arena *a, const struct st_tensor *t, const int64_t *strides, const uint8_t *first,
                          size_t size) {
    uint8_t *dst = arena_alloc(a, t->bytes);
    int64_t at[ST_MAX_RANK] = {0}, offset = 0;
    for (size_t k = 0, n = st_tensor_elements(t); k < n; k++) {
        memcpy(dst + k * size, first + (size_t)offset * size, size);
        for (int i = t->rank - 1; i >= 0; i--) {
            offset += strides[i];
            if (++at[i] < t->dims[i]) break;
            offset -= strides[i] * t->dims[i];
            at[i] = 0;
        }
    }
    return dst;
}

/* Elements of the tensor, and the last one's place in its storage; false past 62 bits. */
static bool extent(const struct st_tensor *t, const int64_t *strides, int64_t offset, int64_t *elements, int64_t *last) {
    *elements = 1, *last = offset;
    for (int i = 0; i < t->rank; i++) {
        int64_t reach;
        if (__builtin_mul_overflow(*elements, t->dims[i], elements)) return false;
        if (t->dims[i] &&
            (__builtin_mul_overflow(t->dims[i] - 1, strides[i], &reach) || __builtin_add_overflow(*last, reach, last)))
            return false;
    }
    return *elements < INT64_MAX / 8 && *last < INT64_MAX / 8;
}

/* (storage, offset, size, stride, ...) */
static bool add_tensor(struct reader *r, const char *name, const struct pickle_value *args) {
    struct st_file *f = r->f;
    const char *shown = TEXT_SHOW(name);
    struct storage s = {0};
    struct st_tensor t = {.name = name};
    int64_t strides[ST_MAX_RANK], elements, last;
    if (!find_storage(r, name, args->items[0], &s)) return false;
    t.dtype = s.dtype;
    t.rank = read_counts(args->items[2], t.dims);
    if (args->items[1]->kind != PICKLE_INT || args->items[1]->number < 0 || t.rank < 0 ||
        read_counts(args->items[3], strides) != t.rank)
        return error_set(r->e, "tensor '%s' has no usable shape (at most %d dimensions)", shown, ST_MAX_RANK);
    if (!extent(&t, strides, args->items[1]->number, &elements, &last))
        return error_set(r->e, "tensor '%s' has an impossible size", shown);
    size_t size = (size_t)st_dtype_bits(t.dtype) / 8;
    if (elements && (uint64_t)last >= s.bytes / size)
        return error_set(r->e, "tensor '%s' reaches past the end of its storage of %llu bytes", shown,
                         (unsigned long long)s.bytes);
    t.bytes = (size_t)elements * size;
    t.data = elements ? s.data + (size_t)args->items[1]->number * size : s.data;
    if (elements && !is_dense(&t, strides)) {
        if (!spend(r, t.bytes, name)) return false;
        t.data = gather(f->arena, &t, strides, t.data, size);
    }
    if (f->n_tensors == ST_MAX_TENSORS) return error_set(r->e, "it lists more tensors than is plausible");
    if (f->n_tensors == r->tensors_cap) {
        size_t cap = r->tensors_cap ? 2 * r->tensors_cap : 1024;
        f->tensors = arena_grow(f->arena, f->tensors, f->n_tensors, cap, sizeof *f->tensors);
        r->tensors_cap = cap;
    }
    f->tensors[f->n_tensors++] = t;
    return true;
}

static void add_meta(struct reader *r, const char *key, const struct pickle_value *v) {
    struct st_file *f = r->f;
    const char *text = v->kind == PICKLE_TEXT    ? v->text
                       : v->kind == PICKLE_INT   ? arena_printf(f->arena, "%lld", (long long)v->number)
                       : v->kind == PICKLE_FLOAT ? arena_printf(f->arena, "%.9g", v->real)
                                                 : NULL;
    if (!text || !text_utf8_valid(key, strlen(key)) || !text_utf8_valid(text, strlen(text))) return;
    if (f->n_meta == r->meta_cap) {
        size_t cap = r->meta_cap ? 2 * r->meta_cap : 16;
        f->meta = arena_grow(f->arena, f->meta, 2 * f->n_meta, 2 * cap, sizeof *f->meta);
        r->meta_cap = cap;
    }
    f->meta[2 * f->n_meta] = key;
    f->meta[2 * f->n_meta++ + 1] = text;
}

static bool walk(struct reader *r, const char *prefix, const struct pickle_value *v, int depth);

static bool walk_item(struct reader *r, const char *prefix, const char *key, const struct pickle_value *v, int depth) {
    const char *name = *prefix ? arena_printf(r->f->arena, "%s.%s", prefix, key) : key;
    const struct pickle_value *args;
    if (++r->n_visits > MAX_VISITS || strlen(name) > 1000) return error_set(r->e, "it is nested deeper than weights are");
    if (pickle_is_call(v, rebuild_parameter, 1, &args)) v = args->items[0];
    if (pickle_is_call(v, rebuild_tensor, 4, &args)) return add_tensor(r, name, args);
    if (pickle_is_call(v, parameter_dict, 0, &args) && v->n > 2 && pickle_get(v->items[2], "_parameters"))
        v = pickle_get(v->items[2], "_parameters");
    if (depth == 0) add_meta(r, name, v);
    return walk(r, name, v, depth + 1);
}

static bool walk(struct reader *r, const char *prefix, const struct pickle_value *v, int depth) {
    if (depth > MAX_DEPTH) return true;
    for (uint32_t i = 0; v->kind == PICKLE_DICT && i < v->n; i += 2)
        if (v->items[i]->kind == PICKLE_TEXT && !walk_item(r, prefix, v->items[i]->text, v->items[i + 1], depth)) return false;
    for (uint32_t i = 0; (v->kind == PICKLE_LIST || v->kind == PICKLE_TUPLE) && i < v->n; i++)
        if (!walk_item(r, prefix, arena_printf(r->f->arena, "%u", i), v->items[i], depth)) return false;
    return true;
}

static const struct zip_member *find_pickle(const struct zip *z) {
    static const char tail[] = "data.pkl";
    for (size_t i = 0; i < z->n; i++) {
        size_t n = strlen(z->members[i].name), m = sizeof tail - 1;
        if (n < m || strcmp(z->members[i].name + n - m, tail)) continue;
        if (n == m || z->members[i].name[n - m - 1] == '/') return &z->members[i];
    }
    return NULL;
}

static bool check_order(struct reader *r, struct arena *scratch) {
    const struct zip_member *m = zip_find(&r->zip, arena_printf(scratch, "%sbyteorder", r->root));
    if (!m || m->bytes != 3 || m->deflated || memcmp(m->packed, "big", 3)) return true;
    return error_set(r->e, "its numbers are big-endian");
}

static bool read_archive(struct reader *r, struct arena *scratch) {
    struct st_file *f = r->f;
    const struct os_map *map = &f->maps[0];
    if (!zip_open(&r->zip, scratch, map->data, map->bytes, r->e)) return false;
    const struct zip_member *m = find_pickle(&r->zip);
    if (!m) return error_set(r->e, "it is a zip archive without a data.pkl");
    r->root = arena_strndup(scratch, m->name, strlen(m->name) - strlen("data.pkl"));
    if (!check_order(r, scratch)) return false;
    if (m->bytes > PICKLE_MAX_BYTES)
        return error_set(r->e, "its pickle of %llu bytes is longer than weights need", (unsigned long long)m->bytes);
    const uint8_t *data = zip_content(m, scratch, r->e);
    /* Names and metadata point into the pickle's values, hence the file's own arena. */
    const struct pickle_value *root =
        data && zip_check(m, r->e) ? pickle_read(f->arena, data, (size_t)m->bytes, allowed, r->e) : NULL;
    if (!root) return false;
    const struct pickle_value *state = pickle_get(root, "state_dict");
    r->contents = arena_alloc_n(scratch, r->zip.n, sizeof *r->contents);
    if (!state || state->kind != PICKLE_DICT) return walk(r, "", root, 0);
    for (uint32_t i = 0; i < root->n; i += 2)
        if (root->items[i]->kind == PICKLE_TEXT) add_meta(r, root->items[i]->text, root->items[i + 1]);
    return walk(r, "", state, 1);
}

bool st_read_torch(struct st_file *f, struct error *e) {
    struct error why = {0};
    struct reader r = {.f = f, .e = &why, .budget = 8 * (uint64_t)f->maps[0].bytes + (64 << 20)};
    struct arena *scratch = arena_create(f->arena);
    bool ok = read_archive(&r, scratch);
    arena_destroy(&scratch);
    if (ok && !f->n_tensors) ok = error_set(&why, "it holds no tensors");
    return ok || error_set(e, "'%s' is not a sound PyTorch file: %s", f->path, why.text);
}

bool st_is_old_torch(const uint8_t *data, size_t bytes) {
    static const uint8_t magic[] = {0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};
    return bytes >= sizeof magic && !memcmp(data, magic, sizeof magic);
}
