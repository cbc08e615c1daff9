#include "lora/merge.h"

#include "base/arena.h"
#include "base/path.h"
#include "base/text.h"
#include "lora/delta.h"
#include "lora/dense.h"
#include "lora/merge_prune.h"
#include "lora/save.h"
#include "lora/svd.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Methods ---- */

#define LORA_MERGER(id) extern const struct lora_merger lora_merger_##id;
#include "lora/mergers.def"
#undef LORA_MERGER

static const struct lora_merger *const mergers[] = {
#define LORA_MERGER(id) &lora_merger_##id,
#include "lora/mergers.def"
#undef LORA_MERGER
};

const struct lora_merger *lora_merger_at(int i) {
    return i >= 0 && i < (int)(sizeof mergers / sizeof *mergers) ? mergers[i] : NULL;
}

const struct lora_merger *lora_merger_find(const char *name) {
    const struct lora_merger *m;
    for (int i = 0; (m = lora_merger_at(i)); i++)
        if (strcmp(m->name, name) == 0) return m;
    return NULL;
}

/* ---- Which layers ---- */

struct use {
    const struct lora_module *module;
    int file;
};

struct merging {
    const struct lora_merge_params *p;
    struct arena *arena;
    struct use *uses; /* by layer, then in the order of the files */
    int n;
    int rank;         /* asked for, or the largest in the files; 0: whatever is needed */
    struct rng rng;
    struct lora_merge_result *result;
    struct st_writer *writer;
    const struct lora_keys *keys;
};

static int by_layer(const void *a, const void *b) {
    const struct use *x = a, *y = b;
    if (x->module->part != y->module->part) return (int)x->module->part - (int)y->module->part;
    int order = strcmp(x->module->target->path, y->module->target->path);
    return order ? order : x->file - y->file;
}

/* False with a sentence for what a LoRA cannot hold. */
static bool add_use(struct merging *m, int file, const struct lora_module *module, struct error *e) {
    bool norm = module->target->is_norm, weight = !norm && lora_module_has_weight(module);
    bool bias = !norm && lora_module_has_bias(module, m->p->base[module->part]);
    if ((norm || bias) && !m->p->partial)
        return error_set(e, "%s changes a %s, which a LoRA file cannot hold: use merge-into, or --partial to leave such "
                            "changes out.",
                         TEXT_SHOW(module->name), norm ? "norm" : "bias");
    m->result->n_left_out += norm || bias;
    if (weight && m->p->method->joins && !lora_module_is_low_rank(module))
        return error_set(e, "%s is a %s, whose factors cannot stand beside others: use --method sum or svd.",
                         TEXT_SHOW(module->name), module->kind->title);
    if (weight) m->uses[m->n++] = (struct use){module, file};
    return true;
}

static bool collect(struct merging *m, struct error *e) {
    const struct lora_merge_params *p = m->p;
    size_t cap = 1;
    for (int f = 0; f < p->n; f++) cap += (size_t)p->files[f]->n_modules;
    m->uses = arena_alloc_n(m->arena, cap, sizeof *m->uses);
    int largest = 1;
    for (int f = 0; f < p->n; f++)
        for (int i = 0; i < p->files[f]->n_modules; i++) {
            const struct lora_module *module = &p->files[f]->modules[i];
            if (module->status != LORA_MATCHED) continue;
            if (!add_use(m, f, module, e)) return error_prefix(e, "%s", TEXT_SHOW(p->files[f]->given));
            if (module->rank > largest) largest = module->rank;
        }
    m->rank = p->rank ? p->rank : p->method->whole ? 0 : largest;
    if (!m->n)
        return error_set(e, "The files change no layer that a LoRA could hold; use merge-into to bake them into a model.");
    qsort(m->uses, (size_t)m->n, sizeof *m->uses, by_layer);
    return true;
}

static int layer_end(const struct merging *m, int from) {
    int to = from + 1;
    while (to < m->n && m->uses[to].module->target == m->uses[from].module->target) to++;
    return to;
}

static int edge_of(const struct nn_target *t) {
    int in = t->weight.c * t->weight.n;
    return t->weight.w < in ? t->weight.w : in;
}

/* What can be said before any arithmetic. */
static bool check(struct merging *m, struct error *e) {
    int edge = 0;
    for (int from = 0, to; from < m->n; from = to) {
        to = layer_end(m, from);
        if (edge_of(m->uses[from].module->target) > edge) edge = edge_of(m->uses[from].module->target);
        m->result->n_layers++;
        m->result->n_shared += to - from > 1;
    }
    if (m->p->method->takes_rank && m->rank > edge && m->p->rank)
        return error_set(e, "No layer of these files can hold rank %d; the largest has room for %d: give --rank up to that.",
                         m->rank, edge);
    if (m->p->method->needs_shared && !m->result->n_shared)
        return error_set(e, "The files have no layer in common, so %s has nothing to weigh against each other: use "
                            "--method concat.",
                         m->p->method->name);
    return true;
}

/* ---- One layer ---- */

static bool fits(const struct merging *m, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(x[i]) < (m->p->dtype == ST_F16 ? 65520 : INFINITY))) return false;
    return true;
}

static bool put(struct merging *m, const struct lora_module *from, int rank, const float *down, const float *up,
                struct error *e) {
    const struct nn_target *t = from->target;
    size_t r = (size_t)rank;
    if (!fits(m, up, (size_t)t->weight.w * r) || !fits(m, down, (size_t)(t->weight.n * t->weight.c) * r))
        return error_set(e, "%s would hold numbers that its type cannot: are the weights right, or does --dtype f32 help?",
                         TEXT_SHOW(from->name));
    struct lora_save_module module = {{from->part, t}, rank, (float)rank, down, up};
    struct lora_save_params p = {.modules = &module, .n_modules = 1, .dtype = m->p->dtype};
    lora_save_tensors(m->writer, m->keys, &p);
    if (!m->result->rank_max || rank < m->result->rank_min) m->result->rank_min = rank;
    if (rank > m->result->rank_max) m->result->rank_max = rank;
    return true;
}

static bool map_rows(const struct merging *m, const struct use *u, float *rows, size_t n, struct error *e) {
    const struct lora_merge_maps *maps = m->p->maps;
    return !maps || maps->apply(maps->ctx, u->file, u->module, rows, n, e);
}

/* All factors side by side: down[taps][rank][in], up[out][rank] with scale and weight in it. */
static bool join(const struct merging *m, const struct use *u, int n, int rank, float *down, float *up, struct error *e) {
    struct shape s = u->module->target->weight;
    size_t taps = (size_t)s.n, in = (size_t)s.c, out = (size_t)s.w, at = 0;
    struct arena *scratch = arena_create(NULL);
    bool ok = true;
    for (int k = 0; ok && k < n; k++) {
        const struct lora_module *module = u[k].module;
        size_t r = (size_t)module->rank;
        float *d = arena_alloc_n(scratch, taps * r * in, sizeof *d), *p = arena_alloc_n(scratch, out * r, sizeof *p);
        float factor = module->scale * m->p->weights[u[k].file];
        ok = (lora_module_read(module, d, p, e) && map_rows(m, &u[k], d, taps * r, e)) ||
             error_prefix(e, "%s", TEXT_SHOW(module->name));
        for (size_t t = 0; t < taps; t++) memcpy(down + (t * (size_t)rank + at) * in, d + t * r * in, r * in * sizeof *d);
        for (size_t o = 0; o < out; o++)
            for (size_t i = 0; i < r; i++) up[o * (size_t)rank + at + i] = factor * p[o * r + i];
        at += r;
    }
    arena_destroy(&scratch);
    return ok;
}

/* The layer's change, [out][in*k*k]. */
static bool combine(struct merging *m, const struct use *u, int n, float *dst, struct arena *a, struct error *e) {
    struct shape s = u->module->target->weight;
    size_t taps = (size_t)s.n, in = (size_t)s.c, out = (size_t)s.w, all = out * in * taps;
    float **deltas = arena_alloc_n(a, (size_t)n, sizeof *deltas), *weights = arena_alloc_n(a, (size_t)n, sizeof *weights);
    float *rows = arena_alloc_n(a, all, sizeof *rows);
    for (int k = 0; k < n; k++) {
        if (!lora_module_delta(u[k].module, m->p->base[u[k].module->part], rows, NULL, e) ||
            !map_rows(m, &u[k], rows, taps * out, e))
            return false;
        deltas[k] = arena_alloc_n(a, all, sizeof **deltas);
        lora_dense_taps_last(deltas[k], rows, out, in, taps);
        weights[k] = m->p->weights[u[k].file];
    }
    struct lora_merge_layer l = {n, deltas, weights, all, m->p->density > 0 ? m->p->density : 0.5, &m->rng};
    (m->p->method->combine ? m->p->method->combine : lora_merge_weighted_sum)(&l, dst);
    return true;
}

static bool decompose(struct merging *m, const struct use *u, int n, int joint, struct lora_svd *svd, struct arena *a,
                      struct error *e) {
    struct shape s = u->module->target->weight;
    size_t taps = (size_t)s.n, in = (size_t)s.c, out = (size_t)s.w, rank = (size_t)joint;
    if (!joint) {
        float *d = arena_alloc_n(a, out * in * taps, sizeof *d);
        return combine(m, u, n, d, a, e) &&
               (lora_svd_dense(svd, d, out, in * taps, a, e) || error_prefix(e, "%s", TEXT_SHOW(u->module->name)));
    }
    float *down = arena_alloc_n(a, taps * rank * in, sizeof *down), *up = arena_alloc_n(a, out * rank, sizeof *up);
    float *flat = arena_alloc_n(a, taps * rank * in, sizeof *flat);
    if (!join(m, u, n, joint, down, up, e)) return false;
    lora_dense_taps_last(flat, down, rank, in, taps);
    return lora_svd_product(svd, up, flat, out, rank, in * taps, a, e) || error_prefix(e, "%s", TEXT_SHOW(u->module->name));
}

static bool merge_layer(struct merging *m, const struct use *u, int n, struct error *e) {
    const struct nn_target *t = u->module->target;
    size_t taps = (size_t)t->weight.n, in = (size_t)t->weight.c, out = (size_t)t->weight.w;
    int joint = 0;
    for (int k = 0; k < n; k++) {
        if (!lora_module_is_low_rank(u[k].module) || m->p->method->combine) {
            joint = 0;
            break;
        }
        joint += u[k].module->rank;
    }
    struct arena *a = arena_create(NULL);
    bool ok = true;
    int rank = joint;
    float *down, *up;
    if (m->p->method->joins) {
        down = arena_alloc_n(a, taps * (size_t)rank * in, sizeof *down), up = arena_alloc_n(a, out * (size_t)rank, sizeof *up);
        ok = join(m, u, n, rank, down, up, e);
    } else {
        struct lora_rank_rule rule = {.by = LORA_RANK_NUMERICAL, .max = m->p->method->takes_rank ? m->rank : 0};
        struct lora_svd svd;
        down = up = NULL;
        if ((ok = decompose(m, u, n, joint, &svd, a, e))) {
            rank = lora_svd_rank(&svd, &rule);
            size_t r = (size_t)rank;
            float *flat = arena_alloc_n(a, r * in * taps, sizeof *flat);
            down = arena_alloc_n(a, taps * r * in, sizeof *down), up = arena_alloc_n(a, out * r, sizeof *up);
            lora_svd_factors(&svd, r, up, flat);
            lora_dense_taps_first(down, flat, r, in, taps);
        }
    }
    ok = ok && put(m, u->module, rank, down, up, e);
    arena_destroy(&a);
    return ok;
}

/* ---- All of them ---- */

/* ---- Words that files carry along ---- */

static bool is_word(const struct st_tensor *t) { return strncmp(t->name, "bundle_emb.", 11) == 0; }

/* Two files must not mean different things by a word. */
static bool check_words(const struct lora_merge_params *p, struct error *e) {
    for (int f = 1; f < p->n; f++)
        for (size_t i = 0; i < st_count(p->files[f]->file); i++)
            for (int other = 0; other < f && is_word(st_at(p->files[f]->file, i)); other++) {
                const char *name = st_at(p->files[f]->file, i)->name;
                if (!st_find(p->files[other]->file, name)) continue;
                return error_set(e, "%s and %s both carry the word %.*s: train one of them under another name.",
                                 TEXT_SHOW(p->files[other]->given), TEXT_SHOW(p->files[f]->given), (int)strcspn(name + 11, "."),
                                 name + 11);
            }
    return true;
}

static void carry_words(struct merging *m) {
    for (int f = 0; f < m->p->n; f++)
        for (size_t i = 0; i < st_count(m->p->files[f]->file); i++) {
            const struct st_tensor *t = st_at(m->p->files[f]->file, i);
            if (is_word(t)) st_writer_add(m->writer, t->name, t->dtype, t->rank, t->dims, t->data);
        }
}

static bool save(struct merging *m, const char *out, struct error *e) {
    const struct lora_merge_params *p = m->p;
    carry_words(m);
    char *of = "";
    for (int f = 0; f < p->n; f++)
        of = arena_printf(m->arena, "%s%s%s:%.6g", of, f ? ", " : "", path_stem(m->arena, path_base(p->files[f]->given)),
                          (double)p->weights[f]);
    char *how = arena_printf(m->arena, "atelier merge --method %s", p->method->name);
    if (m->rank && p->method->takes_rank) how = arena_printf(m->arena, "%s --rank %d", how, m->rank);
    if (p->method->takes_density) how = arena_printf(m->arena, "%s --density %.9g", how, p->density > 0 ? p->density : 0.5);
    if (p->method->takes_seed) how = arena_printf(m->arena, "%s --seed %llu", how, (unsigned long long)p->seed);
    if (p->settings) how = arena_printf(m->arena, "%s %s", how, p->settings);
    const struct lora_save_meta meta[] = {{"ss_training_comment", how}, {"atelier.merged_from", of}};
    int rank = m->result->rank_min == m->result->rank_max ? m->result->rank_max : 0;
    return lora_save_metadata(m->writer, meta, 2, rank, (float)rank, e) && st_writer_save(m->writer, out, e);
}

bool lora_merge_check(const struct lora_merge_params *p, const struct lora_keys *keys, struct error *e) {
    struct lora_merge_result r = {0};
    struct merging m = {.p = p, .arena = arena_create(NULL), .result = &r, .keys = keys};
    bool ok = check_words(p, e) && collect(&m, e) && check(&m, e);
    arena_destroy(&m.arena);
    return ok;
}

bool lora_merge(const struct lora_merge_params *p, const struct lora_keys *keys, const char *out, struct lora_merge_result *r,
                struct error *e) {
    *r = (struct lora_merge_result){0};
    struct merging m = {.p = p, .arena = arena_create(NULL), .result = r, .writer = st_writer_create(), .keys = keys};
    rng_seed(&m.rng, p->seed);
    bool ok = check_words(p, e) && collect(&m, e) && check(&m, e);
    for (int from = 0, to; ok && from < m.n; from = to) {
        to = layer_end(&m, from);
        ok = merge_layer(&m, m.uses + from, to - from, e);
    }
    ok = ok && save(&m, out, e);
    st_writer_destroy(&m.writer);
    arena_destroy(&m.arena);
    return ok;
}
