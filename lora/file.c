#include "lora/file.h"

#include "base/arena.h"
#include "base/os.h"
#include "base/path.h"
#include "base/text.h"
#include "lora/delta.h"
#include "lora/dialect.h"
#include "lora/family.h"
#include "lora/position.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SHOWN = 3 }; /* examples per sort in a report */

/* One tensor and what its name says. */
struct entry {
    struct lora_key key;
    const struct st_tensor *tensor;
};

const char *lora_status_name(enum lora_status s) {
    static const char *const names[LORA_N_STATUS] = {"matched", "unmatched", "misshaped", "incomplete", "unsupported"};
    return names[s];
}

static int by_module(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    int order = strcmp(x->key.module, y->key.module);
    return order ? order : strcmp(x->tensor->name, y->tensor->name);
}

static void fail(struct lora_module *m, enum lora_status status, const char *why) {
    if (m->status != LORA_MATCHED) return; /* the first reason stays */
    m->status = status;
    m->why = why;
}

static int slot_of(const struct lora_kind *kind, const char *slot) {
    for (int i = 0; i < kind->n_slots; i++)
        if (strcmp(kind->slots[i], slot) == 0) return i;
    return -1;
}

/* kohya's scripts and LyCORIS write side by side; any other pair in one module is a mix-up. */
static const char *spelling_group(const char *dialect) { return strcmp(dialect, "lycoris") == 0 ? "kohya" : dialect; }

static const struct entry *entry_of_slot(const struct entry *entries, size_t n, const char *slot) {
    for (size_t i = 0; i < n; i++)
        if (!entries[i].key.kind && strcmp(entries[i].key.slot, slot) == 0) return &entries[i];
    return NULL;
}

/* The kind that a module's own tensors name; shared ones decide only where they stand alone or make a LoRA a DoRA. */
static const char *kind_of(const struct entry *entries, size_t n) {
    const struct entry *best = NULL;
    for (size_t i = 0; i < n; i++)
        if (entries[i].key.kind && (!best || entries[i].key.precedence > best->key.precedence)) best = &entries[i];
    bool lengths = entry_of_slot(entries, n, "magnitude") || entry_of_slot(entries, n, "row_magnitude");
    if (best && lengths && strcmp(best->key.kind, "lora") == 0) return "dora";
    if (best) return best->key.kind;
    const struct entry *bias = entry_of_slot(entries, n, "bias");
    return !bias ? NULL : strstr(bias->tensor->name, ".b_norm") ? "norm" : "full";
}

/* False for tensors of several kinds or spellings in one module. */
static bool check_unity(struct lora_file *f, struct lora_module *m, const struct entry *entries, size_t n) {
    const char *kind = NULL, *dialect = NULL;
    for (size_t i = 0; i < n; i++) {
        const struct lora_key *key = &entries[i].key;
        if (key->kind && kind && strcmp(key->kind, kind) != 0)
            fail(m, LORA_INCOMPLETE, arena_printf(f->arena, "has tensors of two kinds, %s and %s", kind, key->kind));
        if (key->dialect && dialect && strcmp(spelling_group(key->dialect), dialect) != 0)
            fail(m, LORA_INCOMPLETE,
                 arena_printf(f->arena, "is spelled half in %s's way, half in %s's", dialect, spelling_group(key->dialect)));
        if (key->kind) kind = key->kind;
        if (key->dialect) dialect = spelling_group(key->dialect);
    }
    return m->status == LORA_MATCHED;
}

static bool choose_kind(struct lora_file *f, struct lora_module *m, const struct entry *entries, size_t n) {
    const char *kind = kind_of(entries, n);
    m->kind_name = kind ? kind : "unknown";
    if (!kind) fail(m, LORA_INCOMPLETE, arena_printf(f->arena, "has its %s and nothing else", entries[0].key.slot));
    if (!kind || !check_unity(f, m, entries, n)) return false;
    m->kind = lora_kind_find(kind);
    if (!m->kind) fail(m, LORA_UNSUPPORTED, arena_printf(f->arena, "is of the kind %s, which cannot be applied", kind));
    return m->kind != NULL;
}

/* Sorts a module's tensors into its kind's slots; returns the alpha tensor, if any. */
static const struct st_tensor *fill_slots(struct lora_file *f, struct lora_module *m, const struct entry *entries,
                                          size_t n) {
    const struct st_tensor *alpha = NULL;
    if (!choose_kind(f, m, entries, n)) return NULL;
    for (size_t i = 0; i < n; i++) {
        const struct lora_key *key = &entries[i].key;
        bool is_alpha = !key->kind && strcmp(key->slot, "alpha") == 0;
        int slot = is_alpha ? -1 : slot_of(m->kind, key->slot);
        if (!is_alpha && slot < 0) {
            fail(m, LORA_INCOMPLETE, arena_printf(f->arena, "has a %s, which %s does not know", key->slot, m->kind->title));
            continue;
        }
        const struct st_tensor **to = is_alpha ? &alpha : &m->tensors[slot];
        if (*to) fail(m, LORA_INCOMPLETE, arena_printf(f->arena, "has its %s twice", key->slot));
        *to = entries[i].tensor;
    }
    for (int i = 0; i < m->kind->n_required; i++)
        if (!m->tensors[i]) fail(m, LORA_INCOMPLETE, arena_printf(f->arena, "lacks its %s", m->kind->slots[i]));
    return alpha;
}

static void read_alpha(struct lora_file *f, struct lora_module *m, const struct st_tensor *alpha,
                       const struct lora_peft *peft) {
    m->alpha = (float)m->rank;
    if (alpha) {
        m->has_alpha = st_tensor_elements(alpha) == 1 && st_read_f32(alpha, &m->alpha, 1, NULL);
        if (!m->has_alpha || !isfinite(m->alpha)) fail(m, LORA_INCOMPLETE, "has an alpha that is no number");
    } else {
        m->has_alpha = lora_peft_alpha(peft, m->name, m->rank, &m->alpha);
    }
    m->scale = m->rank ? m->alpha / (float)m->rank : lora_peft_plain_scale(peft, m->name);
    m->neumann_terms = lora_peft_neumann_terms(peft, m->name);
}

/* Where names come from: the model's own, and a file's numbers. */
struct lookup {
    const struct lora_keys *keys; /* NULL: no model */
    const struct lora_positions *positions;
    const struct lora_peft *peft;
};

/* What the name alone says, for modules that the model lacks. */
static enum lora_part part_of_name(const char *name) {
    static const struct { const char *start; enum lora_part part;
    } rows[] = {{"lora_te2_", LORA_TEXT_2},
                {"lora_te", LORA_TEXT},
                {"text_encoder_2", LORA_TEXT_2},
                {"text_encoders.clip_g", LORA_TEXT_2},
                {"text_encoder", LORA_TEXT}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strncmp(name, rows[i].start, strlen(rows[i].start)) == 0) return rows[i].part;
    return LORA_UNET;
}

static bool read_module(struct lora_file *f, struct lora_module *m, const struct entry *entries, size_t n,
                        const struct lookup *look, struct error *e) {
    *m = (struct lora_module){.name = entries[0].key.module, .part = part_of_name(entries[0].key.module)};
    struct lora_place place;
    bool found = look->keys && (lora_positions_find(look->positions, m->name, &place) ||
                                lora_keys_find(look->keys, m->name, &place));
    if (found) m->part = place.part, m->target = place.target;
    const struct st_tensor *alpha = fill_slots(f, m, entries, n);
    if (m->status != LORA_MATCHED) return true;
    struct error why;
    if (!lora_module_fit(m, &why)) fail(m, LORA_MISSHAPED, arena_strdup(f->arena, why.text));
    if (m->rank && !lora_peft_check_rank(look->peft, m->name, m->rank, e)) return error_prefix(e, "%s", TEXT_SHOW(f->path));
    read_alpha(f, m, alpha, look->peft);
    const char *why_not = look->keys ? lora_positions_why(look->positions, m->name) : NULL;
    if (!found) fail(m, LORA_UNMATCHED, why_not ? why_not : "has no counterpart in the model");
    return true;
}

static int by_target(const void *a, const void *b) {
    const struct lora_module *x = *(struct lora_module *const *)a, *y = *(struct lora_module *const *)b;
    if (x->target != y->target) return (uintptr_t)x->target < (uintptr_t)y->target ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Two spellings of one layer in one file: neither can be trusted. */
static void refuse_doubles(struct lora_file *f, struct arena *scratch) {
    struct lora_module **found = arena_alloc_n(scratch, (size_t)f->n_modules, sizeof *found);
    size_t n = 0;
    for (int i = 0; i < f->n_modules; i++)
        if (f->modules[i].target) found[n++] = &f->modules[i];
    qsort(found, n, sizeof *found, by_target);
    for (size_t i = 1; i < n; i++) {
        if (found[i]->target != found[i - 1]->target) continue;
        fail(found[i], LORA_INCOMPLETE, arena_printf(f->arena, "means the same layer as %s", TEXT_SHOW(found[i - 1]->name)));
        fail(found[i - 1], LORA_INCOMPLETE, arena_printf(f->arena, "means the same layer as %s", TEXT_SHOW(found[i]->name)));
    }
}

static void summarise(struct lora_file *f) {
    for (int i = 0; i < f->n_modules; i++) {
        const struct lora_module *m = &f->modules[i];
        f->n_by_status[m->status]++;
        if (!m->rank) continue;
        if (!f->n_rank_min || m->rank < f->n_rank_min) f->n_rank_min = m->rank;
        if (m->rank > f->n_rank_max) f->n_rank_max = m->rank;
    }
}

/* Only beside an "on_input" is a plain ".weight" an adapter's. */
static bool parse_scale_vector(const struct st_file *file, const char *name, struct lora_key *key, struct arena *a) {
    static const char end[] = ".weight";
    size_t n = strlen(name), m = sizeof end - 1;
    if (n <= m || strcmp(name + n - m, end) != 0) return false;
    char *partner = arena_printf(a, "%.*s.on_input", (int)(n - m), name);
    if (!st_find(file, partner) || !lora_key_parse(partner, key, a)) return false;
    key->slot = "weight";
    return true;
}

/* Tensor k of a bare list. */
static bool parse_list_item(const char *name, enum lora_part part, struct lora_key *key, struct arena *a) {
    int k = atoi(name);
    return lora_key_parse(arena_printf(a, "%s:%d:%s", lora_part_name(part), k / 2, k % 2 ? "down" : "up"), key, a);
}

/* Vectors for words (textenc/embedding.h), alone or beside the factors. */
static bool is_embedding(const struct st_file *file, const char *name) {
    static const char *const names[] = {"emb_params", "string_to_param.*", "clip_l",
                                        "clip_g",     "text_encoders_0",   "text_encoders_1"};
    const char *mark = st_meta_find(file, name), *architecture = st_meta_find(file, "modelspec.architecture");
    if (architecture && strstr(architecture, "/textual-inversion")) return true;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) return true;
    return (mark && strcmp(mark, "<embed>") == 0) || strncmp(name, "bundle_emb.", 11) == 0;
}

static void note_dialect(struct lora_file *f, const char *dialect, int *lead) {
    if (*lead == 0) f->dialect = dialect;
    *lead += strcmp(dialect, f->dialect) == 0 ? 1 : -1;
}

static size_t collect(struct lora_file *f, struct entry *entries) {
    size_t n = 0;
    int lead = 0; /* majority vote over spellings */
    enum lora_part part;
    bool list = lora_position_list(f->file, &part);
    for (size_t i = 0; i < st_count(f->file); i++) {
        const struct st_tensor *t = st_at(f->file, i);
        struct lora_key *key = &entries[n].key;
        if (is_embedding(f->file, t->name)) {
            if (!f->n_embeddings++) f->first_embedding = t->name;
        } else if ((list && parse_list_item(t->name, part, key, f->arena)) ||
                   lora_key_parse(t->name, key, f->arena) ||
                   parse_scale_vector(f->file, t->name, key, f->arena)) {
            if (key->dialect) note_dialect(f, key->dialect, &lead);
            entries[n++].tensor = t;
        } else if (!f->n_foreign++) {
            f->first_foreign = t->name;
        }
    }
    for (size_t i = 0; f->dialect && i < n; i++)
        if (entries[i].key.dialect && strcmp(entries[i].key.dialect, f->dialect) != 0)
            f->other_dialect = entries[i].key.dialect;
    return n;
}

static bool refuse_foreign(const struct lora_file *f, struct error *e) {
    if (f->n_embeddings)
        return error_set(e, "%s holds no adapter but vectors for the word %s: give it with --embedding.", TEXT_SHOW(f->path),
                         TEXT_SHOW(f->first_embedding));
    return error_set(e, "%s holds no adapter: its %d tensors begin with '%s'; a LoRA's names end in .lora_down.weight, "
                     ".lora_A.weight or the like", TEXT_SHOW(f->path), f->n_foreign,
                     f->first_foreign ? TEXT_SHOW(f->first_foreign) : "nothing");
}

static bool read_modules(struct lora_file *f, const struct lora_keys *keys, struct error *e) {
    struct arena *scratch = arena_create(f->arena);
    struct entry *entries = arena_alloc_n(scratch, st_count(f->file) + 1, sizeof *entries);
    size_t n = collect(f, entries);
    if (n == 0) return refuse_foreign(f, e);
    struct lora_peft *peft = lora_peft_load(f->file, f->path, f->arena, e);
    struct lookup look = {.keys = keys, .peft = peft};
    if (!peft) return false;
    if (keys) look.positions = lora_positions_create(f->file, keys, f->arena);
    qsort(entries, n, sizeof *entries, by_module);
    f->modules = arena_alloc_n(f->arena, n, sizeof *f->modules);
    bool ok = true;
    for (size_t i = 0, end; ok && i < n; i = end) {
        end = i + 1;
        while (end < n && strcmp(entries[end].key.module, entries[i].key.module) == 0) end++;
        ok = read_module(f, &f->modules[f->n_modules++], entries + i, end - i, &look, e);
    }
    lora_peft_close(&peft);
    refuse_doubles(f, scratch);
    arena_destroy(&scratch);
    summarise(f);
    return ok;
}

/* PEFT and diffusers save adapters as folders. */
static const char *const folder_names[] = {"adapter_model.safetensors", "pytorch_lora_weights.safetensors", "adapter_model.bin",
                                           "pytorch_lora_weights.bin"};

static const char *find_inside(const char *folder, struct arena *a) {
    for (int i = 0; i < 4; i++) {
        const char *inside = path_join(a, folder, folder_names[i]);
        if (os_path_is_file(inside)) return inside;
    }
    return NULL;
}

bool lora_file_in_folder(const char *path) {
    struct arena *a = arena_create(NULL);
    bool found = find_inside(path, a) && !os_path_is_file(path_join(a, path, "model_index.json"));
    arena_destroy(&a);
    return found;
}

static const char *find_weights(const char *path, struct arena *a, struct error *e) {
    if (!os_path_is_dir(path)) return path;
    const char *inside = find_inside(path, a);
    if (inside) return inside;
    error_set(e, "The folder %s holds no adapter: it has neither %s, as PEFT writes it, nor %s, as diffusers does.",
              TEXT_SHOW(path), folder_names[0], folder_names[1]);
    return NULL;
}

struct lora_file *lora_file_open(const char *path, const struct lora_keys *keys, struct error *e) {
    struct arena *arena = arena_create(NULL);
    struct lora_file *f = arena_alloc(arena, sizeof *f);
    f->arena = arena;
    const char *weights = find_weights(path, arena, e);
    f->given = arena_strdup(arena, path);
    f->path = weights ? arena_strdup(arena, weights) : NULL;
    f->file = weights ? st_open(weights, e) : NULL;
    if (!f->file || !read_modules(f, keys, e)) lora_file_close(&f);
    return f;
}

void lora_file_close(struct lora_file **f) {
    if (!*f) return;
    struct arena *arena = (*f)->arena;
    if ((*f)->file) st_close(&(*f)->file);
    arena_destroy(&arena);
    *f = NULL;
}

bool lora_module_read(const struct lora_module *m, float *down, float *up, struct error *e) {
    assert(m->status == LORA_MATCHED && m->kind->factors);
    return m->kind->factors(m, down, up, e) || error_prefix(e, "%s", TEXT_SHOW(m->name));
}

/* ---- Telling a person ---- */

char *lora_file_report(const struct lora_file *f, struct arena *a) {
    char *text = arena_printf(a, "%d of %d modules can be applied", f->n_by_status[LORA_MATCHED], f->n_modules);
    for (int s = LORA_UNMATCHED; s < LORA_N_STATUS; s++) {
        if (!f->n_by_status[s]) continue;
        text = arena_printf(a, "%s; %d %s:", text, f->n_by_status[s], lora_status_name((enum lora_status)s));
        int shown = 0;
        for (int i = 0; i < f->n_modules && shown < SHOWN; i++) {
            const struct lora_module *m = &f->modules[i];
            if ((int)m->status != s) continue;
            bool plain = s == LORA_UNMATCHED && !strchr(m->name, ':'); /* the heading says it */
            text = arena_printf(a, "%s%s %s%s%s", text, shown++ ? "," : "", TEXT_SHOW(m->name), plain ? "" : " ",
                                plain ? "" : m->why);
        }
        if (f->n_by_status[s] > shown) text = arena_printf(a, "%s and %d more", text, f->n_by_status[s] - shown);
    }
    if (f->n_foreign)
        text = arena_printf(a, "%s; %d tensors belong to no adapter known, the first is %s", text, f->n_foreign,
                            TEXT_SHOW(f->first_foreign));
    if (f->n_embeddings)
        text = arena_printf(a, "%s; %d tensors are vectors for words (%s%s), which --embedding %s loads", text, f->n_embeddings,
                            TEXT_SHOW(f->first_embedding), f->n_embeddings > 1 ? ", ..." : "", TEXT_SHOW(path_base(f->path)));
    return text;
}

bool lora_file_is_whole(const struct lora_file *f) {
    return f->n_by_status[LORA_MATCHED] == f->n_modules && !f->n_foreign;
}

bool lora_file_require_match(const struct lora_file *f, const struct lora_keys *keys, struct error *e) {
    if (!lora_family_check(f, keys, e)) return false;
    if (f->n_by_status[LORA_MATCHED]) return true;
    struct arena *scratch = arena_create(NULL);
    const struct lora_model *model = lora_keys_model(keys);
    const char *example = "nothing";
    for (int p = LORA_N_PARTS; p-- > 0;)
        if (model->targets[p] && model->targets[p]->n)
            example = lora_keys_kohya(keys, (enum lora_part)p, model->targets[p]->items[0].path, scratch);
    error_set(e, "%s does not fit this model: %s. The model has layers like %s.", TEXT_SHOW(f->path),
              lora_file_report(f, scratch), example);
    arena_destroy(&scratch);
    return false;
}
