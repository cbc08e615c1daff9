#include "engine/prompt.h"

#include <string.h>

#include "base/log.h"
#include "base/text.h"
#include "engine/prompt_weight.h"

enum { MAX_WINDOWS = 8, MAX_KEPT = 256 }; /* windows encoded at once; prompts kept */

struct kept {
    const char *text;
    struct prompt_context context;
};
struct prompter {
    struct arena *arena;
    struct engine *e;
    struct prompter_params params;
    int skip, window, dim, pooled_dim;
    struct arena *cache; /* of `kept` */
    struct kept *kept;
    int n_kept;
    float *strength; /* that `kept` was encoded with */
    struct prompt_word *words; /* of params.words */
    int n_words;
};

/* One window to be encoded, and what comes out. */
struct job {
    const int32_t *ids[MODEL_MAX_TEXTS];
    const bool *unseen; /* [window] or NULL */
    const struct prompt_chunk *chunk; /* its learnt words */
    float *hidden, *pooled;
};
/* One stretch of runs on its way. */
struct piece {
    struct prompt_chunks chunks[MODEL_MAX_TEXTS]; /* per text encoder; equally many */
    int first;    /* job of the first window; the others follow */
    int *without; /* [runs]: compel, the job without that run, or -1 */
};
struct draft {
    const char *text;
    struct prompt prompt;
    struct piece **pieces; /* [part][text] */
    int pooled;            /* job whose pooled result counts */
};
struct batch {
    struct prompter *p;
    struct arena *a;
    struct job *jobs;
    int n, cap;
    int empty; /* job of the empty prompt, or -1 */
};

/* ---- Life ---- */

/* Layers left out beyond the model's own. */
static bool find_skip(const struct model *m, int clip_skip, int *skip, struct error *err) {
    int own = m->family == NN_FAMILY_SD1 || m->family == NN_FAMILY_UNKNOWN ? 1 : 2,
        least = nn_family_is_xl(m->family) ? 1 : own;
    *skip = clip_skip ? clip_skip - own : 0;
    if (clip_skip && clip_skip < least)
        return error_set(err, "--clip-skip %d is not in this model: %s leaves out the last layer; use %d or more.", clip_skip,
                         nn_family_name(m->family), least);
    for (int i = 0; i < m->n_texts; i++) {
        int most = m->texts[i].cfg.layers - (nn_family_is_xl(m->family) ? 2 : 1);
        if (*skip > most)
            return error_set(err, "--clip-skip %d leaves nothing of the %s, which has %d layers; use at most %d.", clip_skip,
                             m->texts[i].part, m->texts[i].cfg.layers, most + own);
    }
    return true;
}

struct prompter *prompter_create(struct engine *e, const struct prompter_params *params, struct error *err) {
    int skip;
    if (!find_skip(e->model, params->clip_skip, &skip, err)) return NULL;
    struct arena *a = arena_create(e->arena);
    struct prompter *p = arena_alloc(a, sizeof *p);
    *p = (struct prompter){.arena = a, .e = e, .params = *params, .skip = skip, .window = model_window(e->model),
                           .dim = model_context_dim(e->model), .pooled_dim = model_pooled_dim(e->model)};
    p->n_words = params->words ? params->words->n : 0;
    p->words = arena_alloc_n(a, (size_t)p->n_words + 1, sizeof *p->words);
    for (int i = 0; i < p->n_words; i++)
        p->words[i] = (struct prompt_word){params->words->items[i].word, params->words->items[i].n};
    p->strength = arena_alloc_n(a, params->adapter ? (size_t)params->adapter->n + 1 : 1, sizeof(float));
    return p;
}

void prompter_destroy(struct prompter **p) {
    if (!*p) return;
    struct arena *a = (*p)->arena;
    arena_destroy(&a);
    *p = NULL;
}

void prompter_forget(struct prompter *p) {
    arena_destroy(&p->cache);
    p->n_kept = 0;
}

bool prompter_heeds_strength(const struct prompter *p) { return p->params.adapter && adapter_touches_text(p->params.adapter); }

/* Forgets what was encoded with other strengths, or has become too much. */
static void prepare_cache(struct prompter *p, const float *strength, int n) {
    size_t bytes = prompter_heeds_strength(p) ? (size_t)p->params.adapter->n * sizeof *strength : 0;
    bool same = !bytes || !memcmp(p->strength, strength, bytes);
    if (p->cache && same && p->n_kept + n <= MAX_KEPT) return;
    arena_destroy(&p->cache);
    p->cache = arena_create(p->arena);
    p->kept = arena_alloc_n(p->cache, (size_t)(MAX_KEPT + n), sizeof *p->kept);
    p->n_kept = 0;
    if (bytes) memcpy(p->strength, strength, bytes);
}

static const struct prompt_context *find_kept(const struct prompter *p, const char *text) {
    for (int i = 0; i < p->n_kept; i++)
        if (!strcmp(p->kept[i].text, text)) return &p->kept[i].context;
    return NULL;
}

/* ---- From texts to windows ---- */

static int add_job(struct batch *b, const struct piece *piece, int window, const bool *unseen) {
    if (b->n == b->cap) {
        int cap = b->cap ? 2 * b->cap : 16;
        b->jobs = arena_grow(b->a, b->jobs, (size_t)b->n, (size_t)cap, sizeof *b->jobs);
        b->cap = cap;
    }
    struct job *j = &b->jobs[b->n];
    for (int i = 0; i < b->p->e->model->n_texts; i++) j->ids[i] = piece->chunks[i].items[window].ids;
    j->unseen = unseen, j->chunk = &piece->chunks[0].items[window];
    j->hidden = arena_alloc_n(b->a, (size_t)b->p->window, (size_t)b->p->dim * sizeof(float));
    j->pooled = arena_alloc_n(b->a, (size_t)b->p->pooled_dim + 1, sizeof(float));
    return b->n++;
}

static void cut_windows(struct batch *b, const struct prompt_runs *runs, bool split, struct piece *piece) {
    const struct model *m = b->p->e->model;
    for (int i = 0; i < m->n_texts; i++) {
        struct prompt_chunk_params cp = {.tokenizer = m->texts[i].tokenizer, .split = split, .words = b->p->words,
                                         .n_words = b->p->n_words};
        prompt_chunk(b->a, runs, &cp, &piece->chunks[i]);
        if (piece->chunks[i].n < piece->chunks[0].n) piece->chunks[0].n = piece->chunks[i].n;
    }
    piece->first = b->n;
    for (int w = 0; w < piece->chunks[0].n; w++) add_job(b, piece, w, NULL);
}

/* compel: per run of a weight below 1 the same window with its tokens hidden. */
static void add_without(struct batch *b, const struct prompt_runs *runs, struct piece *piece) {
    const struct prompt_chunk *c = piece->chunks[0].items;
    piece->without = arena_alloc_n(b->a, (size_t)runs->n, sizeof *piece->without);
    for (int r = 0; r < runs->n; r++) {
        piece->without[r] = -1;
        if (runs->items[r].weight >= 1) continue;
        bool *unseen = arena_alloc(b->a, (size_t)b->p->window), any = false;
        for (int i = 0; i < b->p->window; i++) unseen[i] = c->runs[i] == r, any |= unseen[i];
        if (any) piece->without[r] = add_job(b, piece, 0, unseen);
    }
}

static void plain_piece(struct batch *b, const char *text, struct piece *piece) {
    struct prompt_run run = {text, 1, false};
    struct prompt_runs runs = {&run, 1};
    cut_windows(b, &runs, false, piece);
}

static void need_empty(struct batch *b) {
    struct piece piece;
    if (b->empty >= 0) return;
    plain_piece(b, "", &piece);
    b->empty = piece.first;
}

static bool has_weights(const struct prompt_runs *runs) {
    for (int i = 0; i < runs->n; i++)
        if (runs->items[i].weight != 1) return true;
    return false;
}

static void warn_dropped(const struct prompter *p, const char *text, const struct prompt_chunks *c) {
    if (c->n_dropped)
        log_warn("the prompt \"%.40s\" has %zu tokens and the model looks at %d; dropped: \"%s\"%s", TEXT_SHOW(text),
                 c->n_tokens, p->window - 2, TEXT_SHOW(c->dropped),
                 p->params.style == PROMPT_DIFFUSERS ? " (--prompt-style a1111 takes long prompts)" : "");
    if (p->params.style == PROMPT_DIFFUSERS && prompt_looks_a1111(text))
        log_warn("brackets and BREAK in the prompt are read as plain words; --prompt-style a1111 gives them their meaning");
}

static bool make_draft(struct batch *b, const char *text, struct draft *d, struct error *err) {
    struct prompter *p = b->p;
    d->text = text;
    if (!prompt_parse(b->a, p->params.style, text, &d->prompt, err)) return false;
    bool compel = p->params.style == PROMPT_COMPEL;
    d->pieces = arena_alloc_n(b->a, (size_t)d->prompt.n_parts, sizeof *d->pieces);
    for (int i = 0; i < d->prompt.n_parts; i++) {
        const struct prompt_part *part = &d->prompt.parts[i];
        d->pieces[i] = arena_alloc_n(b->a, (size_t)part->n_texts, sizeof **d->pieces);
        if (part->weight != 1) need_empty(b);
        for (int k = 0; k < part->n_texts; k++) {
            const struct prompt_runs *runs = &part->texts[k].runs;
            struct piece *piece = &d->pieces[i][k];
            cut_windows(b, runs, p->params.style == PROMPT_A1111, piece);
            warn_dropped(p, text, &piece->chunks[0]);
            if (!compel || !has_weights(runs)) continue;
            need_empty(b);
            add_without(b, runs, piece);
        }
    }
    d->pooled = d->pieces[0][0].first;
    if (compel && p->pooled_dim) { /* compel pools the text as typed */
        struct piece whole;
        plain_piece(b, text, &whole);
        d->pooled = whole.first;
    }
    return true;
}

/* ---- Encoding ---- */

/* The learnt words of n jobs. */
static struct text_splice *list_splices(const struct prompter *p, const struct job *jobs, int n, struct arena *a,
                                        int *n_splices) {
    int total = 0;
    for (int k = 0; k < n; k++) total += jobs[k].chunk->n_splices;
    struct text_splice *list = arena_alloc_n(a, (size_t)total + 1, sizeof *list);
    *n_splices = total;
    for (int k = 0, at = 0; k < n; k++)
        for (int i = 0; i < jobs[k].chunk->n_splices; i++, at++) {
            const struct prompt_splice *s = &jobs[k].chunk->splices[i];
            list[at].at = k * p->window + s->at;
            for (int t = 0; t < p->e->model->n_texts; t++)
                list[at].vectors[t] =
                    p->params.words->items[s->word].vectors[t] + (size_t)s->vector * (size_t)p->e->model->texts[t].cfg.width;
        }
    return list;
}

/* Jobs first..first+n-1, which all have masks or none. */
static bool run_some(struct batch *b, int first, int n, const float *strength, struct error *err) {
    struct prompter *p = b->p;
    struct arena *a = arena_create(b->a);
    size_t window = (size_t)p->window, dim = (size_t)p->dim, pooled_dim = (size_t)p->pooled_dim;
    int32_t *ids[MODEL_MAX_TEXTS] = {0};
    for (int i = 0; i < p->e->model->n_texts; i++) ids[i] = arena_alloc_n(a, (size_t)n * window, sizeof *ids[i]);
    bool *unseen = arena_alloc_n(a, (size_t)n, window);
    float *out = arena_alloc_n(a, (size_t)n * window, dim * sizeof *out),
          *pooled = arena_alloc_n(a, (size_t)n, (pooled_dim + 1) * sizeof *pooled);
    for (int k = 0; k < n; k++) {
        const struct job *j = &b->jobs[first + k];
        for (int i = 0; i < p->e->model->n_texts; i++) memcpy(ids[i] + (size_t)k * window, j->ids[i], window * sizeof *ids[i]);
        if (j->unseen) memcpy(unseen + (size_t)k * window, j->unseen, window);
    }
    struct text_params tp = {.skip = p->skip, .adapter = p->params.adapter, .strength = strength,
                             .unseen = b->jobs[first].unseen ? unseen : NULL};
    tp.splices = list_splices(p, b->jobs + first, n, a, &tp.n_splices);
    bool ok = engine_encode_text(p->e, (const int32_t *const *)ids, n, &tp, out, pooled, err);
    for (int k = 0; ok && k < n; k++) {
        memcpy(b->jobs[first + k].hidden, out + (size_t)k * window * dim, window * dim * sizeof *out);
        memcpy(b->jobs[first + k].pooled, pooled + (size_t)k * pooled_dim, pooled_dim * sizeof *pooled);
    }
    arena_destroy(&a);
    return ok;
}

static bool run_all(struct batch *b, const float *strength, struct error *err) {
    for (int first = 0, n; first < b->n; first += n) {
        for (n = 1; n < MAX_WINDOWS && first + n < b->n && !b->jobs[first + n].unseen == !b->jobs[first].unseen;) n++;
        if (!run_some(b, first, n, strength, err)) return false;
    }
    return true;
}

/* ---- From windows to a context ---- */

/* A weight's rows, per text encoder: A1111 does not know of the others' means. */
static void weigh_a1111(const struct prompter *p, float *rows, const struct piece *piece, int window) {
    int first = 0;
    for (int i = 0; i < p->e->model->n_texts; i++) {
        const struct prompt_chunk *c = &piece->chunks[i].items[window];
        int width = p->e->model->texts[i].cfg.width;
        if (c->weighted) prompt_weight_a1111(rows + first, p->window, width, p->dim, c->weights);
        first += width;
    }
}

static void add_scaled(float *sum, const float *x, size_t n, double factor) {
    for (size_t i = 0; i < n; i++) sum[i] += (float)factor * x[i];
}

/* The window, and those without its weak fragments, averaged. */
static void weigh_compel(const struct batch *b, float *rows, const struct prompt_runs *runs, const struct piece *piece) {
    const struct prompter *p = b->p;
    const float *weights = piece->chunks[0].items[0].weights;
    size_t n = (size_t)p->window * (size_t)p->dim;
    double total = 1;
    if (!piece->without) return;
    prompt_weight_compel(rows, b->jobs[b->empty].hidden, p->window, p->dim, weights);
    for (int r = 0; r < runs->n; r++) {
        if (piece->without[r] < 0) continue;
        struct job *j = &b->jobs[piece->without[r]];
        double share = prompt_weight_without(runs->items[r].weight);
        prompt_weight_compel(j->hidden, b->jobs[b->empty].hidden, p->window, p->dim, weights);
        add_scaled(rows, j->hidden, n, share);
        total += share;
    }
    for (size_t i = 0; i < n && total != 1; i++) rows[i] = (float)(rows[i] / total);
}

/* rows: [windows of the part][window][dim]. */
static void build_part(const struct batch *b, const struct draft *d, int part, float *rows) {
    const struct prompter *p = b->p;
    const struct prompt_part *pp = &d->prompt.parts[part];
    size_t n = (size_t)p->window * (size_t)p->dim;
    bool plain = pp->n_texts == 1 && pp->texts[0].weight == 1;
    for (int k = 0; k < pp->n_texts; k++) {
        const struct piece *piece = &d->pieces[part][k];
        for (int w = 0; w < piece->chunks[0].n; w++) {
            float *own = b->jobs[piece->first + w].hidden, *to = rows + (size_t)w * n;
            if (p->params.style == PROMPT_A1111) weigh_a1111(p, own, piece, w);
            if (p->params.style == PROMPT_COMPEL) weigh_compel(b, own, &pp->texts[k].runs, piece);
            if (plain) memcpy(to, own, n * sizeof *to);
            else add_scaled(to, own, n, pp->texts[k].weight);
        }
    }
    for (size_t i = 0; i < n && pp->weight != 1; i++) {
        float empty = b->jobs[b->empty].hidden[i];
        rows[i] = empty + (rows[i] - empty) * (float)pp->weight;
    }
}

static void finish(const struct batch *b, const struct draft *d) {
    struct prompter *p = b->p;
    size_t window = (size_t)p->window, windows = 0;
    for (int i = 0; i < d->prompt.n_parts; i++) windows += (size_t)d->pieces[i][0].chunks[0].n;
    float *rows = arena_alloc_n(p->cache, windows * window, (size_t)p->dim * sizeof *rows), *to = rows;
    float *pooled = arena_alloc_n(p->cache, (size_t)p->pooled_dim + 1, sizeof *pooled);
    int32_t *ids[MODEL_MAX_TEXTS] = {0};
    for (int t = 0; t < p->e->model->n_texts; t++) ids[t] = arena_alloc_n(p->cache, windows * window, sizeof *ids[t]);
    memcpy(pooled, b->jobs[d->pooled].pooled, (size_t)p->pooled_dim * sizeof *pooled);
    size_t at = 0;
    for (int i = 0; i < d->prompt.n_parts; i++) {
        const struct piece *piece = &d->pieces[i][0];
        build_part(b, d, i, to);
        for (int w = 0; w < piece->chunks[0].n; w++, at += window, to += window * (size_t)p->dim)
            for (int t = 0; t < p->e->model->n_texts; t++)
                memcpy(ids[t] + at, piece->chunks[t].items[w].ids, window * sizeof *ids[t]);
    }
    struct kept *k = &p->kept[p->n_kept++];
    *k = (struct kept){arena_strdup(p->cache, d->text), {.rows = rows, .pooled = pooled, .tokens = (int)(windows * window)}};
    for (int t = 0; t < p->e->model->n_texts; t++) k->context.ids[t] = ids[t];
}

/* Those of the texts that are not kept yet. */
static bool encode_new(struct prompter *p, const char *const *texts, int n, const float *strength, struct error *err) {
    struct batch b = {.p = p, .a = arena_create(p->arena), .empty = -1};
    struct draft *drafts = arena_alloc_n(b.a, (size_t)n, sizeof *drafts);
    int n_drafts = 0;
    bool ok = true;
    for (int i = 0; ok && i < n; i++) {
        bool known = find_kept(p, texts[i]) != NULL;
        for (int k = 0; k < n_drafts && !known; k++) known = !strcmp(drafts[k].text, texts[i]);
        if (!known) ok = make_draft(&b, texts[i], &drafts[n_drafts++], err);
    }
    ok = ok && run_all(&b, strength, err);
    for (int i = 0; ok && i < n_drafts; i++) finish(&b, &drafts[i]);
    arena_destroy(&b.a);
    return ok;
}

/* ---- Handing out ---- */

/* A copy of `tokens` tokens: c and then windows of the empty prompt, or zeros throughout. */
static void hand_out(const struct prompter *p, const struct prompt_context *c, const struct prompt_context *empty, int tokens,
                     bool zeros, struct arena *a, struct prompt_context *out) {
    size_t dim = (size_t)p->dim, own = (size_t)c->tokens, window = (size_t)p->window;
    float *rows = arena_alloc_n(a, (size_t)tokens, dim * sizeof *rows),
          *pooled = arena_alloc_n(a, (size_t)p->pooled_dim + 1, sizeof *pooled);
    *out = (struct prompt_context){.rows = rows, .pooled = pooled, .tokens = tokens};
    for (int t = 0; t < p->e->model->n_texts; t++) {
        int32_t *ids = arena_alloc_n(a, (size_t)tokens, sizeof *ids);
        memcpy(ids, c->ids[t], own * sizeof *ids);
        for (size_t at = own; at < (size_t)tokens; at += window) memcpy(ids + at, empty->ids[t], window * sizeof *ids);
        out->ids[t] = ids;
    }
    if (zeros) return;
    memcpy(pooled, c->pooled, (size_t)p->pooled_dim * sizeof *pooled);
    memcpy(rows, c->rows, own * dim * sizeof *rows);
    for (size_t at = own; at < (size_t)tokens; at += window) memcpy(rows + at * dim, empty->rows, window * dim * sizeof *rows);
}

bool prompter_encode(struct prompter *p, const char *const *texts, int n, const float *strength, struct arena *a,
                     struct prompt_context *out, struct error *err) {
    const char **own = arena_alloc_n(a, (size_t)n, sizeof *own);
    for (int i = 0; i < n; i++) own[i] = texts[i] ? texts[i] : "";
    prepare_cache(p, strength, n + 1);
    if (!encode_new(p, own, n, strength, err)) return false;
    int most = 0;
    bool uneven = false;
    for (int i = 0; i < n; i++) {
        int tokens = find_kept(p, own[i])->tokens;
        uneven |= i > 0 && tokens != most;
        if (tokens > most) most = tokens;
    }
    if (uneven && !encode_new(p, (const char *const[]){""}, 1, strength, err)) return false;
    for (int i = 0; i < n; i++)
        hand_out(p, find_kept(p, own[i]), find_kept(p, ""), most, !texts[i] && p->e->model->zeros_for_empty, a, &out[i]);
    return true;
}
