#include "lora/convert_priv.h"

#include "base/arena.h"
#include "base/text.h"
#include "lora/dialect.h"
#include "lora/save.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

enum { SHOWN = 4, MAX_META = 4096 };

static const char *const spellings[LORA_N_SPELLINGS] = {"kohya", "diffusers", "peft"};

const char *lora_spelling_name(enum lora_spelling s) { return spellings[s]; }

bool lora_spelling_find(const char *name, enum lora_spelling *out) {
    for (int i = 0; i < LORA_N_SPELLINGS; i++)
        if (strcmp(name, spellings[i]) == 0) return *out = (enum lora_spelling)i, true;
    return false;
}

const struct st_tensor *lora_convert_slot(const struct lora_module *m, const char *slot) {
    for (int i = 0; i < m->kind->n_slots; i++)
        if (strcmp(m->kind->slots[i], slot) == 0) return m->tensors[i];
    return NULL;
}

/* Programs are strict about dimensions of one: factors of 1x1 convolutions have four, of linear layers two. */
void lora_convert_tensor(struct st_writer *w, const struct lora_module *m, const struct st_tensor *t, const char *name) {
    int64_t dims[ST_MAX_RANK] = {0};
    int rank = t->rank;
    memcpy(dims, t->dims, sizeof dims);
    bool factors = m->kind->factors != NULL;
    if (factors && m->target->is_conv && m->target->conv.k == 1 && rank == 2) dims[2] = dims[3] = 1, rank = 4;
    if (factors && !m->target->is_conv && rank == 4 && dims[2] == 1 && dims[3] == 1) rank = 2;
    st_writer_add(w, name, t->dtype, rank, dims, t->data);
}

/* ---- kohya ---- */

/* PEFT's bias of the upper factor is multiplied by alpha/rank; kohya's programs know a plain difference. */
static bool is_scaled_bias(const struct lora_module *m, int slot) {
    int bias = m->kind->bias;
    return slot && slot == m->kind->scaled_bias && bias && !m->tensors[bias];
}

/* PEFT multiplies a LoKr of two whole factors by alpha/rank, too; LyCORIS does not. */
static bool is_scaled_whole(const struct lora_module *m, int slot) {
    return m->rank == 0 && m->scale != 1 && strcmp(m->kind_name, "lokr") == 0 && strcmp(m->kind->slots[slot], "w1") == 0;
}

static bool add_scaled(const struct lora_conversion *c, struct st_writer *w, const struct lora_module *m,
                       const struct st_tensor *t, const char *name) {
    size_t n = st_tensor_elements(t);
    float *v = arena_alloc_n(c->arena, n, sizeof *v);
    if (!st_read_f32(t, v, n, c->e)) return error_prefix(c->e, "%s", TEXT_SHOW(m->name));
    for (size_t i = 0; i < n; i++) v[i] *= m->scale;
    st_writer_add_f32(w, name, ST_F32, t->rank, t->dims, v);
    return true;
}

/* Kinds of PEFT that have no counterpart in LyCORIS. */
static const char *kohya_cannot(const struct lora_module *m, struct arena *a) {
    for (int i = 0; i < m->kind->n_slots; i++)
        if (m->tensors[i] && !is_scaled_bias(m, i) && !lora_key_ending(m->kind_name, m->kind->slots[i], false))
            return arena_printf(a, "has %s's %s, which kohya's programs do not know", m->kind->title, m->kind->slots[i]);
    return NULL;
}

/* PEFT's lengths of rows are [out], LyCORIS' [out,1] or [out,1,1,1]. */
static void add_lengths(struct st_writer *w, const struct lora_module *m, const struct st_tensor *t, const char *name) {
    int64_t dims[] = {m->target->weight.w, 1, 1, 1};
    st_writer_add(w, name, t->dtype, m->target->is_conv ? 4 : 2, dims, t->data);
}

static bool add_kohya(const struct lora_conversion *c, struct st_writer *w, const struct lora_module *m) {
    struct arena *a = c->arena;
    const char *name = lora_keys_kohya(c->keys, m->part, m->target->path, a);
    for (int i = 0; i < m->kind->n_slots; i++) {
        if (!m->tensors[i]) continue;
        bool bias = is_scaled_bias(m, i);
        const char *ending = lora_key_ending(m->kind_name, bias ? "bias" : m->kind->slots[i], false),
                   *key = arena_printf(a, "%s%s", name, ending);
        if (bias || is_scaled_whole(m, i)) {
            if (!add_scaled(c, w, m, m->tensors[i], key)) return false;
            continue;
        }
        if (strcmp(m->kind->slots[i], "row_magnitude") == 0) add_lengths(w, m, m->tensors[i], key);
        else lora_convert_tensor(w, m, m->tensors[i], key);
    }
    bool whole = m->rank == 0 && strcmp(m->kind_name, "lokr") == 0; /* alpha means nothing then */
    if (!whole && (m->has_alpha || m->rank))
        st_writer_add_f32(w, arena_printf(a, "%s.alpha", name), ST_F32, 0, NULL, &m->alpha);
    return true;
}

/* What the file said about itself, but for settings and hashes that are no longer true. */
static int keep_meta(const struct lora_file *f, struct lora_save_meta *meta) {
    int n = 0;
    for (size_t i = 0; i < st_meta_count(f->file) && n < MAX_META; i++) {
        const char *key = st_meta_key(f->file, i);
        bool ours = strncmp(key, "ss_", 3) == 0 || strncmp(key, "modelspec.", 10) == 0;
        bool stale = strcmp(key, "modelspec.hash_sha256") == 0 || strcmp(key, "ss_network_module") == 0;
        if (ours && !stale) meta[n++] = (struct lora_save_meta){key, st_meta_value(f->file, i)};
    }
    return n;
}

static bool convert_kohya(const struct lora_conversion *c, const char *out) {
    struct st_writer *w = st_writer_create();
    struct lora_save_meta *meta = arena_alloc_n(c->arena, MAX_META + 1, sizeof *meta);
    int n_meta = keep_meta(c->file, meta), rank = c->n ? c->modules[0]->rank : 0;
    bool lycoris = false, ok = true;
    for (int i = 0; ok && i < c->n; i++) {
        ok = add_kohya(c, w, c->modules[i]);
        lycoris |= strcmp(c->modules[i]->kind_name, "lora") != 0;
        if (c->modules[i]->rank != rank || c->modules[i]->alpha != c->modules[0]->alpha) rank = 0;
    }
    meta[n_meta++] = (struct lora_save_meta){"ss_network_module", lycoris ? "lycoris.kohya" : "networks.lora"};
    ok = ok && lora_save_metadata(w, meta, n_meta, rank, rank ? c->modules[0]->alpha : 0, c->e) && st_writer_save(w, out, c->e);
    st_writer_destroy(&w);
    return ok;
}

/* ---- All targets ---- */

static const char *cannot(const struct lora_module *m, enum lora_spelling to, struct arena *a) {
    if (m->status != LORA_MATCHED) return m->why;
    return to == LORA_SPELL_KOHYA ? kohya_cannot(m, a) : lora_peft_cannot(m, a);
}

/* Modules that stay behind, by reason. */
struct leftovers {
    struct { const char *name, *why; int n; } reasons[SHOWN];
    int n_reasons, n, n_unsaid;
};

static void leave_out(struct leftovers *l, const char *name, const char *why) {
    int i = 0;
    l->n++;
    while (i < l->n_reasons && strcmp(l->reasons[i].why, why) != 0) i++;
    if (i == SHOWN) {
        l->n_unsaid++;
        return;
    }
    if (i == l->n_reasons) l->n_reasons++, l->reasons[i].name = name, l->reasons[i].why = why, l->reasons[i].n = 0;
    l->reasons[i].n++;
}

static char *leftovers_text(const struct leftovers *l, struct arena *a) {
    char *text = NULL;
    for (int i = 0; i < l->n_reasons; i++) {
        char more[32] = "";
        if (l->reasons[i].n > 1) snprintf(more, sizeof more, " (and %d like it)", l->reasons[i].n - 1);
        text = arena_printf(a, "%s%s%s%s %s", text ? text : "", text ? "; " : "",
                            TEXT_SHOW(l->reasons[i].name), more, l->reasons[i].why);
    }
    return l->n_unsaid ? arena_printf(a, "%s; and %d more", text, l->n_unsaid) : text;
}

static void sort_out(struct lora_conversion *c, const struct lora_convert_params *p,
                     struct lora_convert_result *r, struct arena *a) {
    const struct lora_file *f = c->file;
    struct leftovers left = {.n = 0};
    c->modules = arena_alloc_n(c->arena, (size_t)f->n_modules + 1, sizeof(struct lora_module *));
    for (int i = 0; i < f->n_modules; i++) {
        const char *why = cannot(&f->modules[i], p->to, a);
        if (why) leave_out(&left, f->modules[i].name, why);
        else c->modules[c->n++] = &f->modules[i];
    }
    if (f->n_foreign) leave_out(&left, f->first_foreign, "belongs to no adapter known");
    if (f->n_embeddings) leave_out(&left, f->first_embedding, "is a vector for a word, not a layer's");
    *r = (struct lora_convert_result){c->n, left.n, leftovers_text(&left, a)};
}

bool lora_convert(const struct lora_file *f, const struct lora_keys *keys, const struct lora_convert_params *p, const char *out,
                  struct arena *a, struct lora_convert_result *result, struct error *e) {
    struct lora_conversion c = {.file = f, .keys = keys, .arena = arena_create(NULL), .e = e};
    *result = (struct lora_convert_result){0};
    sort_out(&c, p, result, a);
    bool ok = true;
    if (!c.n || (result->left_out && !p->partial))
        ok = error_set(e, "%s cannot be written whole in the spelling of %s: %s.%s", TEXT_SHOW(f->path),
                       lora_spelling_name(p->to), result->left_out ? result->left_out : "it has no modules",
                       c.n ? " --partial writes the rest." : "");
    if (ok)
        ok = p->to == LORA_SPELL_KOHYA       ? convert_kohya(&c, out)
             : p->to == LORA_SPELL_DIFFUSERS ? lora_convert_diffusers(&c, out)
                                             : lora_convert_peft(&c, out);
    ok = ok && st_intact(f->file, e);
    arena_destroy(&c.arena);
    return ok;
}
