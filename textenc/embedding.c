#include "textenc/embedding.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "base/log.h"
#include "base/os.h"
#include "base/path.h"
#include "base/text.h"
#include "io/safetensors.h"

enum { MAX_WORD_BYTES = 200, MAX_WORDS = 1024 };

/* A word while its file is read: tensors of one tower or two. */
struct found {
    const char *word;
    const struct st_tensor *tensors[EMBEDDING_TOWERS]; /* by tower, or alone: the first */
    bool towers;                                       /* the file says which tower is which */
};
struct reader {
    struct embedding_list *list;
    const struct st_file *file;
    const char *path, *name; /* name: what the file's own word is called */
    bool renamed;            /* on the command line */
    bool bundled;            /* only words that a LoRA file carries along */
    const int *widths;
    int n_towers;
    struct error *e;
};

static const char *family(int64_t width) {
    switch (width) {
    case 768: return " (Stable Diffusion 1, or the first text encoder of SDXL)";
    case 1024: return " (Stable Diffusion 2)";
    case 1280: return " (the second text encoder of SDXL)";
    default: return "";
    }
}

/* ---- Names ---- */

/* Tower that a name ends in, or -1. */
static int tower_of(const char *name) {
    static const char *const names[][EMBEDDING_TOWERS] = {{"clip_l", "clip_g"}, {"text_encoders_0", "text_encoders_1"}};
    for (int i = 0; i < 2; i++)
        for (int t = 0; t < EMBEDDING_TOWERS; t++)
            if (strcmp(name, names[i][t]) == 0) return t;
    return -1;
}

static bool is_own(const char *name) { return strcmp(name, "emb_params") == 0 || strcmp(name, "string_to_param.*") == 0; }

/* "bundle_emb.WORD.string_to_param.*" -> WORD and the rest; NULL for other names. */
static const char *bundled(struct arena *a, const char *name, const char **rest) {
    static const char start[] = "bundle_emb.";
    static const char *const ends[] = {".string_to_param.*", ".emb_params", ".clip_l", ".clip_g"};
    size_t n = strlen(name);
    if (strncmp(name, start, sizeof start - 1) != 0) return NULL;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t m = strlen(ends[i]);
        if (n <= sizeof start - 1 + m || strcmp(name + n - m, ends[i]) != 0) continue;
        *rest = ends[i] + 1;
        return arena_strndup(a, name + sizeof start - 1, n - m - (sizeof start - 1));
    }
    return NULL;
}

static bool is_adapter(const char *name) {
    return strstr(name, "lora_") || strchr(name, ':') || strstr(name, ".alpha") || strstr(name, ".weight") ||
           strstr(name, ".bias");
}

/* Whether the tensor is a word's, whose, and of which tower (-1: it does not say). */
static bool name_of(const struct reader *r, const struct st_tensor *t, const char **word, int *tower) {
    const char *mark = st_meta_find(r->file, t->name), *rest;
    *tower = -1;
    if (mark && strcmp(mark, "<embed>") == 0) return *word = t->name, true;
    if ((*word = bundled(r->list->arena, t->name, &rest))) return *tower = tower_of(rest), true;
    if (r->bundled) return false;
    *tower = tower_of(t->name);
    if (*tower >= 0 || is_own(t->name)) return *word = r->name, true;
    /* diffusers: the name is the word. Whole numbers are an optimiser's or a tokenizer's. */
    *word = t->name;
    bool floats = t->dtype == ST_F32 || t->dtype == ST_F16 || t->dtype == ST_BF16 || t->dtype == ST_F64;
    return floats && (t->rank == 1 || t->rank == 2) && !is_adapter(t->name);
}

/* ---- Vectors ---- */

static int rows_of(const struct st_tensor *t) { return t->rank == 1 ? 1 : (int)t->dims[0]; }
static int64_t width_of(const struct st_tensor *t) { return t->dims[t->rank - 1]; }

static bool check_tensor(const struct reader *r, const struct st_tensor *t) {
    char shape[ST_SHAPE_TEXT_BYTES];
    if ((t->rank == 1 || t->rank == 2) && width_of(t) > 0 &&
        (t->rank == 1 || (t->dims[0] > 0 && t->dims[0] <= EMBEDDING_MAX_VECTORS)))
        return true;
    return error_set(r->e, "%s: the vectors %s have the shape %s; 1 to %d vectors of one width are needed.", TEXT_SHOW(r->path),
                     TEXT_SHOW(t->name), st_tensor_shape_text(t, shape), EMBEDDING_MAX_VECTORS);
}

static bool check_width(const struct reader *r, const struct found *f, int tower) {
    const struct st_tensor *t = f->tensors[tower];
    if (!t)
        return error_set(r->e,
                         "%s has vectors for one text encoder, and this model has %d: SDXL's embeddings hold "
                         "clip_l and clip_g.",
                         TEXT_SHOW(r->path), r->n_towers);
    if (width_of(t) == r->widths[tower]) return true;
    return error_set(r->e, "%s was made for a text encoder of width %lld%s; this model's is %d wide%s.", TEXT_SHOW(r->path),
                     (long long)width_of(t), family(width_of(t)), r->widths[tower], family(r->widths[tower]));
}

static const float *read_vectors(const struct reader *r, const struct st_tensor *t) {
    size_t n = st_tensor_elements(t);
    float *v = arena_alloc_n(r->list->arena, n, sizeof *v);
    if (!st_read_f32(t, v, n, r->e)) return error_prefix(r->e, "%s", TEXT_SHOW(r->path)), NULL;
    for (size_t i = 0; i < n; i++)
        if (!isfinite(v[i]))
            return error_set(r->e, "%s: the vectors %s hold a value that is not finite.", TEXT_SHOW(r->path),
                             TEXT_SHOW(t->name)),
                   NULL;
    return v;
}

static bool add_word(const struct reader *r, const char *word, int n, const float *const vectors[EMBEDDING_TOWERS]) {
    struct embedding_list *l = r->list;
    if (!word[0] || strlen(word) > MAX_WORD_BYTES || !text_utf8_valid(word, strlen(word)))
        return error_set(r->e, "%s: \"%s\" cannot be a word in a prompt.", TEXT_SHOW(r->path), TEXT_SHOW(word));
    if (embedding_find(l, word) && r->bundled) {
        log_warn("the word \"%s\" of %s is left out: another embedding has the name", TEXT_SHOW(word), TEXT_SHOW(r->path));
        return true;
    }
    if (embedding_find(l, word))
        return error_set(r->e,
                         "%s: the word \"%s\" is taken by another embedding; give one of them another name "
                         "with --embedding NAME=FILE.",
                         TEXT_SHOW(r->path), TEXT_SHOW(word));
    if (l->n == l->cap) {
        int cap = l->cap ? 2 * l->cap : 8;
        l->items = arena_grow(l->arena, l->items, (size_t)l->n, (size_t)cap, sizeof *l->items);
        l->cap = cap;
    }
    struct embedding *m = &l->items[l->n++];
    *m = (struct embedding){.word = arena_strdup(l->arena, word), .n = n};
    for (int t = 0; t < r->n_towers; t++) m->vectors[t] = vectors[t];
    return true;
}

/* diffusers' pivotal tuning learns words <s0>, <s1>, ... of a vector each. */
static bool add_pivotal(const struct reader *r, int n, const float *const vectors[EMBEDDING_TOWERS]) {
    for (int i = 0; i < n; i++) {
        char word[16];
        const float *row[EMBEDDING_TOWERS] = {0};
        for (int t = 0; t < r->n_towers; t++) row[t] = vectors[t] + (size_t)i * (size_t)r->widths[t];
        snprintf(word, sizeof word, "<s%d>", i);
        if (!add_word(r, word, 1, row)) return false;
    }
    return true;
}

static bool add_found(const struct reader *r, const struct found *f) {
    const float *vectors[EMBEDDING_TOWERS] = {0};
    int n = 0;
    for (int t = 0; t < EMBEDDING_TOWERS; t++)
        if (f->tensors[t] && !check_tensor(r, f->tensors[t])) return false;
    if (f->towers && r->n_towers == 1 && f->tensors[1])
        return error_set(r->e, "%s has vectors for two text encoders, as SDXL has them; this model has one, of width %d%s.",
                         TEXT_SHOW(r->path), r->widths[0], family(r->widths[0]));
    for (int t = 0; t < r->n_towers; t++) {
        if (!check_width(r, f, t) || !(vectors[t] = read_vectors(r, f->tensors[t]))) return false;
        if (t && rows_of(f->tensors[t]) != n)
            return error_set(r->e, "%s has %d vectors for one text encoder and %d for the other.", TEXT_SHOW(r->path), n,
                             rows_of(f->tensors[t]));
        n = rows_of(f->tensors[t]);
    }
    bool pivotal = strncmp(f->tensors[0]->name, "text_encoders_", 14) == 0;
    return add_word(r, f->word, n, vectors) && (!pivotal || add_pivotal(r, n, vectors));
}

/* ---- Files ---- */

static struct found *found_of(struct found *list, size_t *n, const char *word) {
    for (size_t i = 0; i < *n; i++)
        if (strcmp(list[i].word, word) == 0) return &list[i];
    list[*n] = (struct found){.word = word};
    return &list[(*n)++];
}

/* Gathers words until one tensor contradicts another; -1 with a sentence then. */
static int gather(const struct reader *r, struct found *list) {
    size_t n = 0;
    for (size_t i = 0; i < st_count(r->file); i++) {
        const struct st_tensor *t = st_at(r->file, i);
        const char *word;
        int tower;
        if (!name_of(r, t, &word, &tower)) continue;
        if (n == MAX_WORDS) return error_set(r->e, "%s has more than %d words.", TEXT_SHOW(r->path), MAX_WORDS), -1;
        struct found *f = found_of(list, &n, word);
        const struct st_tensor **to = &f->tensors[tower < 0 ? 0 : tower];
        if (*to) return error_set(r->e, "%s has vectors for \"%s\" twice.", TEXT_SHOW(r->path), TEXT_SHOW(word)), -1;
        *to = t;
        f->towers |= tower >= 0;
    }
    return (int)n;
}

static bool read_file(const struct reader *r) {
    struct arena *scratch = arena_create(NULL);
    struct found *list = arena_alloc_n(scratch, st_count(r->file) + 1, sizeof *list);
    int n = gather(r, list), at = r->list->n;
    bool ok = n > 0 || (n == 0 && r->bundled);
    if (n == 0 && !r->bundled)
        error_set(r->e,
                  "%s holds no textual-inversion vectors: those are called emb_params, clip_l and clip_g, "
                  "string_to_param "
                  "or like the word they stand for.",
                  TEXT_SHOW(r->path));
    if (n > 1 && r->renamed)
        ok = error_set(r->e, "%s holds %d words, \"%s\" and others: they cannot all be called %s.", TEXT_SHOW(r->path), n,
                       TEXT_SHOW(list[0].word), TEXT_SHOW(r->name));
    if (n == 1 && r->renamed) list[0].word = r->name;
    for (int i = 0; ok && i < n; i++) ok = add_found(r, &list[i]);
    if (!ok) r->list->n = at;
    arena_destroy(&scratch);
    return ok;
}

bool embedding_load(struct embedding_list *list, const char *text, const int *widths, int n_towers, struct error *e) {
    const char *equals = strchr(text, '='), *path = text;
    struct reader r = {.list = list, .widths = widths, .n_towers = n_towers, .e = e};
    if (equals && !os_path_exists(text)) {
        r.name = arena_strndup(list->arena, text, (size_t)(equals - text));
        r.renamed = true;
        path = equals + 1;
    } else {
        r.name = path_stem(list->arena, path_base(path));
    }
    r.path = path;
    if (!os_path_is_file(path))
        return error_set(e, "There is no embedding %s (--embedding FILE or --embedding NAME=FILE).",
                         TEXT_SHOW(path));
    struct st_file *file = st_open(path, e);
    if (!file) return false;
    r.file = file;
    bool ok = read_file(&r) && st_intact(file, e);
    st_close(&file);
    return ok;
}

bool embedding_load_bundled(struct embedding_list *list, const char *path, const int *widths, int n_towers, struct error *e) {
    struct reader r = {.list = list, .path = path, .name = path, .bundled = true, .widths = widths, .n_towers = n_towers,
                       .e = e};
    struct st_file *file = st_open(path, e);
    if (!file) return false;
    r.file = file;
    bool ok = read_file(&r) && st_intact(file, e);
    st_close(&file);
    return ok;
}

const struct embedding *embedding_find(const struct embedding_list *list, const char *word) {
    for (int i = 0; i < list->n; i++)
        if (strcmp(list->items[i].word, word) == 0) return &list->items[i];
    return NULL;
}
