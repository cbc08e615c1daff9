#include "lora/file.h"

#include "base/arena.h"
#include "lora/delta.h"
#include "lora/dialect.h"

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

/* Sorts a module's tensors into its kind's slots; returns the alpha tensor, if any. */
static const struct st_tensor *fill_slots(struct lora_file *f, struct lora_module *m, const struct entry *entries,
                                          size_t n) {
    const struct st_tensor *alpha = NULL;
    int best = -1;
    for (size_t i = 0; i < n; i++)
        if (entries[i].key.kind && entries[i].key.precedence > best) {
            best = entries[i].key.precedence;
            m->kind_name = entries[i].key.kind;
        }
    if (!m->kind_name) {
        m->kind_name = "unknown";
        fail(m, LORA_INCOMPLETE, "has an alpha and nothing else");
        return NULL;
    }
    m->kind = lora_kind_find(m->kind_name);
    if (!m->kind) {
        fail(m, LORA_UNSUPPORTED, arena_printf(f->arena, "is of the kind %s, which cannot be applied", m->kind_name));
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        const struct lora_key *key = &entries[i].key;
        int slot = key->kind ? slot_of(m->kind, key->slot) : -1;
        const struct st_tensor **to = key->kind ? &m->tensors[slot < 0 ? 0 : slot] : &alpha;
        if (key->kind && slot < 0) {
            fail(m, LORA_INCOMPLETE, arena_printf(f->arena, "has a %s, which %s does not know", key->slot, m->kind->title));
            continue;
        }
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
    if (m->rank) m->scale = m->alpha / (float)m->rank;
}

static void read_module(struct lora_file *f, struct lora_module *m, const struct entry *entries, size_t n,
                        const struct lora_keys *keys, const struct lora_peft *peft) {
    *m = (struct lora_module){.name = entries[0].key.module, .scale = 1};
    struct lora_place place;
    bool found = keys && lora_keys_find(keys, m->name, &place);
    if (found) m->part = place.part, m->target = place.target;
    const struct st_tensor *alpha = fill_slots(f, m, entries, n);
    if (m->status != LORA_MATCHED) return;
    struct error why;
    if (!lora_module_fit(m, &why)) fail(m, LORA_MISSHAPED, arena_strdup(f->arena, why.text));
    read_alpha(f, m, alpha, peft);
    if (!found) fail(m, LORA_UNMATCHED, "has no counterpart in the model");
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
        fail(found[i], LORA_INCOMPLETE, arena_printf(f->arena, "means the same layer as %s", found[i - 1]->name));
        fail(found[i - 1], LORA_INCOMPLETE, arena_printf(f->arena, "means the same layer as %s", found[i]->name));
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

static size_t collect(struct lora_file *f, struct entry *entries) {
    size_t n = 0;
    int lead = 0; /* majority vote over spellings */
    for (size_t i = 0; i < st_count(f->file); i++) {
        const struct st_tensor *t = st_at(f->file, i);
        if (lora_key_parse(t->name, &entries[n].key, f->arena)) {
            const char *dialect = entries[n].key.dialect;
            if (dialect && lead == 0) f->dialect = dialect, lead = 1;
            else if (dialect) lead += strcmp(dialect, f->dialect) == 0 ? 1 : -1;
            entries[n++].tensor = t;
            continue;
        }
        if (!f->n_foreign++) f->first_foreign = t->name;
    }
    return n;
}

static bool read_modules(struct lora_file *f, const struct lora_keys *keys, struct error *e) {
    struct arena *scratch = arena_create(f->arena);
    struct entry *entries = arena_alloc_n(scratch, st_count(f->file) + 1, sizeof *entries);
    size_t n = collect(f, entries);
    if (n == 0) {
        const char *first = f->first_foreign ? f->first_foreign : "nothing";
        return error_set(e, "%s holds no adapter: its %d tensors begin with '%.100s'; a LoRA's names end in "
                            ".lora_down.weight, .lora_A.weight or the like", f->path, f->n_foreign, first);
    }
    const struct lora_peft *peft = lora_peft_load(f->file, f->path, f->arena, e);
    if (!peft) return false;
    qsort(entries, n, sizeof *entries, by_module);
    f->modules = arena_alloc_n(f->arena, n, sizeof *f->modules);
    for (size_t i = 0, end; i < n; i = end) {
        end = i + 1;
        while (end < n && strcmp(entries[end].key.module, entries[i].key.module) == 0) end++;
        read_module(f, &f->modules[f->n_modules++], entries + i, end - i, keys, peft);
    }
    refuse_doubles(f, scratch);
    arena_destroy(&scratch);
    summarise(f);
    return true;
}

struct lora_file *lora_file_open(const char *path, const struct lora_keys *keys, struct error *e) {
    struct st_file *file = st_open(path, e);
    if (!file) return NULL;
    struct arena *arena = arena_create(NULL);
    struct lora_file *f = arena_alloc(arena, sizeof *f);
    f->arena = arena;
    f->file = file;
    f->path = arena_strdup(arena, path);
    if (!read_modules(f, keys, e)) lora_file_close(&f);
    return f;
}

void lora_file_close(struct lora_file **f) {
    if (!*f) return;
    struct arena *arena = (*f)->arena;
    st_close(&(*f)->file);
    arena_destroy(&arena);
    *f = NULL;
}

bool lora_module_read(const struct lora_module *m, float *down, float *up, struct error *e) {
    assert(m->status == LORA_MATCHED && m->kind->factors);
    return m->kind->factors(m, down, up, e) || error_prefix(e, "%s", m->name);
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
            bool plain = s == LORA_UNMATCHED; /* the heading says it */
            text = arena_printf(a, "%s%s %s%s%s", text, shown++ ? "," : "", m->name, plain ? "" : " ",
                                plain ? "" : m->why);
        }
        if (f->n_by_status[s] > shown) text = arena_printf(a, "%s and %d more", text, f->n_by_status[s] - shown);
    }
    if (f->n_foreign)
        text = arena_printf(a, "%s; %d tensors belong to no adapter known, the first is %s", text, f->n_foreign,
                            f->first_foreign);
    return text;
}

/* Width of the text that the cross-attention reads: 768, 1024 and 2048 tell the model families apart. */
static int64_t file_context_width(const struct lora_file *f) {
    for (int i = 0; i < f->n_modules; i++) {
        const struct lora_module *m = &f->modules[i];
        const struct st_tensor *down = m->tensors[0];
        size_t n = strlen(m->name);
        if (n > 9 && strncmp(m->name + n - 10, "attn2", 5) == 0 && down && down->rank >= 2) return down->dims[1];
    }
    return 0;
}

static int64_t model_context_width(const struct lora_model *model) {
    const struct nn_target_list *unet = model->targets[LORA_UNET];
    for (int i = 0; unet && i < unet->n; i++)
        if (strstr(unet->items[i].path, "attn2.to_k")) return unet->items[i].weight.c;
    return 0;
}

bool lora_file_require_match(const struct lora_file *f, const struct lora_keys *keys, struct error *e) {
    if (f->n_by_status[LORA_MATCHED]) return true;
    struct arena *scratch = arena_create(NULL);
    const struct lora_model *model = lora_keys_model(keys);
    int64_t theirs = file_context_width(f), ours = model_context_width(model);
    const char *example = "nothing", *family = "";
    for (int p = LORA_N_PARTS; p-- > 0;)
        if (model->targets[p] && model->targets[p]->n)
            example = lora_keys_kohya(keys, (enum lora_part)p, model->targets[p]->items[0].path, scratch);
    if (theirs && ours && theirs != ours)
        family = arena_printf(scratch, " It was made for a model whose text is %lld wide; this model's is %lld.",
                              (long long)theirs, (long long)ours);
    error_set(e, "%s does not fit this model: %s. The model has layers like %s.%s", f->path,
              lora_file_report(f, scratch), example, family);
    arena_destroy(&scratch);
    return false;
}
