#include "engine/guide.h"

#include <math.h>
#include <string.h>

#include "base/arena.h"
#include "diffusion/guidance.h"

/* One conditioning in the course of the steps: a term of AND, or the negative prompt. */
struct term {
    struct prompt_stage *stages;
    int n_stages;
    double weight;
};
struct terms {
    struct arena *a;
    const struct guide_params *p;
    struct term *terms; /* the negative prompt first, if guided */
    int n;
    const char **texts; /* all different texts of the stages; NULL: the negative prompt that was not given */
    int n_texts;
};

static struct term single(struct arena *a, const char *text, int n_steps, double weight) {
    struct prompt_stage *stage = arena_alloc(a, sizeof *stage);
    *stage = (struct prompt_stage){n_steps, text};
    return (struct term){stage, 1, weight};
}

static struct term edited(const struct terms *l, const char *text, double weight) {
    if (l->p->style != PROMPT_A1111) return single(l->a, text, l->p->n_steps, weight);
    struct term t = {.weight = weight};
    t.n_stages = prompt_schedule(l->a, text, l->p->n_steps, &t.stages);
    return t;
}

/* A1111 takes an empty negative prompt for one that was not given. */
static struct term negative_term(const struct terms *l) {
    const char *text = l->p->negative;
    if (!text || (l->p->style == PROMPT_A1111 && !*text)) return single(l->a, NULL, l->p->n_steps, 0);
    return edited(l, text, 0);
}

static void make_terms(struct terms *l) {
    struct prompt_term whole = {l->p->prompt, 1}, *and = &whole;
    int n = l->p->style == PROMPT_A1111 ? prompt_split_and(l->a, l->p->prompt, &and) : 1;
    bool own_base = n == 1 && and[0].weight == 1; /* else the sum is one of differences from the negative prompt */
    l->terms = arena_alloc_n(l->a, (size_t)n + 1, sizeof *l->terms);
    if (l->p->guided || !own_base) l->terms[l->n++] = negative_term(l);
    for (int i = 0; i < n; i++) l->terms[l->n++] = edited(l, and[i].text, and[i].weight);
}

static bool same_text(const char *a, const char *b) { return a && b ? !strcmp(a, b) : a == b; }

static int text_index(const struct terms *l, const char *text) {
    for (int i = 0; i < l->n_texts; i++)
        if (same_text(l->texts[i], text)) return i;
    return -1;
}

static void collect_texts(struct terms *l) {
    int most = 0;
    for (int i = 0; i < l->n; i++) most += l->terms[i].n_stages;
    l->texts = arena_alloc_n(l->a, (size_t)most, sizeof *l->texts);
    for (int i = 0; i < l->n; i++)
        for (int k = 0; k < l->terms[i].n_stages; k++)
            if (text_index(l, l->terms[i].stages[k].text) < 0) l->texts[l->n_texts++] = l->terms[i].stages[k].text;
}

static const char *text_at(const struct term *t, int step) {
    int k = 0;
    while (t->stages[k].last <= step) k++;
    return t->stages[k].text;
}

/* ---- LoRAs ---- */

/* Which LoRAs take part, in order; in a sum they count as one. */
struct cast {
    int *adapter;
    int n;
    bool apart; /* each by itself */
};

static bool choose_cast(const struct guide_params *p, struct arena *a, struct cast *c, struct error *err) {
    *c = (struct cast){arena_alloc_n(a, (size_t)p->n_adapters + 1, sizeof(int)), 1, p->compose != GUIDE_SUM};
    if (!c->apart) return true;
    c->n = 0;
    for (int i = 0; i < p->n_adapters; i++)
        if (p->strength[i] != 0) c->adapter[c->n++] = i;
    if (c->n >= 2) return true;
    return error_set(err, "--compose %s needs two LoRAs or more, and this picture has %d; add --lora FILE, or leave --compose out.",
                     p->compose == GUIDE_SWITCH ? "switch" : "composite", c->n);
}

static bool is_on(const struct guide_course *c, int step, int n_steps) {
    double at = (double)step / n_steps;
    return at >= (double)c->begin - 1e-6 && at < (double)c->end - 1e-6;
}

/* A LoRA's strength at a step, not yet knowing of the others. */
static float strength_at(const struct guide_params *p, int adapter, int step) {
    if (!p->courses) return p->strength[adapter];
    const struct guide_course *c = &p->courses[adapter];
    if (!is_on(c, step, p->n_steps)) return 0;
    int first = step, last = step;
    while (first > 0 && is_on(c, first - 1, p->n_steps)) first--;
    while (last + 1 < p->n_steps && is_on(c, last + 1, p->n_steps)) last++;
    float share = last > first ? (float)(step - first) / (float)(last - first) : 0;
    return p->strength[adapter] * (c->from + share * (c->to - c->from));
}

/* Strengths for one image: of all LoRAs, or (apart) of one. */
static void fill_strengths(const struct guide_params *p, const struct cast *c, int member, int step, float *dst) {
    for (int i = 0; i < p->n_adapters; i++) dst[i] = c->apart && i != c->adapter[member] ? 0 : strength_at(p, i, step);
}

/* For the text encoders, which run once: strengths of the first step in which a LoRA is on. */
static void fill_text_strengths(const struct guide_params *p, const struct cast *c, int member, float *dst) {
    for (int i = 0; i < p->n_adapters; i++) {
        dst[i] = 0;
        for (int s = 0; s < p->n_steps && dst[i] == 0; s++) dst[i] = c->apart && i != c->adapter[member] ? 0 : strength_at(p, i, s);
    }
}

/* Which member of the cast acts on a group of images. */
static int member_at(const struct guide_params *p, const struct cast *c, int group, int step) {
    return p->compose == GUIDE_SWITCH ? step / p->every % c->n : group;
}

/* ---- Together ---- */

/* base: the negative prompt's answer. goal: base + sum of weight * (answer - base). Both the mean over the groups. */
static void make_shares(const struct terms *l, struct guide *g) {
    int first = l->n > 1 ? 1 : 0;
    double sum = 0;
    for (int i = first; i < l->n; i++) sum += l->terms[i].weight;
    for (int k = 0; k < g->groups; k++) {
        float *base = g->base + k * l->n, *goal = g->goal + k * l->n;
        for (int i = first; i < l->n; i++) goal[i] = (float)(l->terms[i].weight / g->groups);
        if (first) base[0] = (float)(1.0 / g->groups), goal[0] = (float)((1 - sum) / g->groups);
    }
}

/* One set of contexts, or one per member where LoRAs change the text encoders. */
static bool encode_texts(struct prompter *p, const struct terms *l, const struct cast *c, bool per_member, struct guide *g, struct error *err) {
    int sets = per_member ? c->n : 1;
    float *strength = arena_alloc_n(l->a, (size_t)l->p->n_adapters + 1, sizeof *strength);
    g->n_contexts = sets * l->n_texts;
    g->contexts = arena_alloc_n(l->a, (size_t)g->n_contexts, sizeof *g->contexts);
    for (int k = 0; k < sets; k++) {
        fill_text_strengths(l->p, c, k, strength);
        if (!prompter_encode(p, l->texts, l->n_texts, strength, l->a, g->contexts + k * l->n_texts, err)) return false;
    }
    g->tokens = g->contexts[0].tokens;
    return true;
}

bool guide_create(struct prompter *p, const struct guide_params *params, struct arena *a, struct guide *g, struct error *err) {
    struct terms l = {.a = a, .p = params};
    struct cast cast;
    if (!choose_cast(params, a, &cast, err)) return false;
    make_terms(&l);
    collect_texts(&l);
    *g = (struct guide){.params = *params, .groups = params->compose == GUIDE_COMPOSITE ? cast.n : 1};
    g->images = g->groups * l.n;
    bool per_member = cast.apart && prompter_heeds_strength(p);
    if (!encode_texts(p, &l, &cast, per_member, g, err)) return false;
    size_t n = (size_t)g->images, steps = (size_t)params->n_steps, adapters = (size_t)params->n_adapters;
    g->context_of = arena_alloc_n(a, steps * n, sizeof *g->context_of);
    g->strengths = arena_alloc_n(a, steps * n, (adapters + 1) * sizeof *g->strengths);
    g->base = arena_alloc_n(a, n, sizeof *g->base), g->goal = arena_alloc_n(a, n, sizeof *g->goal);
    for (int s = 0; s < params->n_steps; s++)
        for (int i = 0; i < g->images; i++) {
            size_t at = (size_t)s * n + (size_t)i;
            int member = member_at(params, &cast, i / l.n, s), text = text_index(&l, text_at(&l.terms[i % l.n], s));
            g->context_of[at] = (per_member ? member * l.n_texts : 0) + text;
            fill_strengths(params, &cast, member, s, g->strengths + at * adapters);
        }
    make_shares(&l, g);
    return true;
}

bool guide_changes_context(const struct guide *g, int before, int step) {
    size_t n = (size_t)g->images;
    return before < 0 || memcmp(g->context_of + (size_t)before * n, g->context_of + (size_t)step * n, n * sizeof *g->context_of);
}

bool guide_changes_strength(const struct guide *g, int before, int step) {
    size_t n = (size_t)g->images * (size_t)g->params.n_adapters;
    return n && (before < 0 || memcmp(g->strengths + (size_t)before * n, g->strengths + (size_t)step * n, n * sizeof *g->strengths));
}

void guide_fill(const struct guide *g, const struct model *m, int step, float *context, float *pooled) {
    size_t rows = (size_t)g->tokens * (size_t)model_context_dim(m), width = (size_t)model_pooled_dim(m);
    for (int i = 0; i < g->images; i++) {
        const struct prompt_context *c = &g->contexts[g->context_of[step * g->images + i]];
        memcpy(context + (size_t)i * rows, c->rows, rows * sizeof *context);
        memcpy(pooled + (size_t)i * width, c->pooled, width * sizeof *pooled);
    }
}

static void mix(const float *share, const float *answers, int images, size_t n, float *out) {
    bool first = true;
    for (int i = 0; i < images; i++) {
        if (share[i] == 0) continue;
        const float *x = answers + (size_t)i * n;
        for (size_t k = 0; k < n; k++) out[k] = first ? share[i] * x[k] : out[k] + share[i] * x[k];
        first = false;
    }
    if (first) memset(out, 0, n * sizeof *out);
}

void guide_combine(const struct guide *g, const float *answers, size_t n, float *scratch, float *out) {
    mix(g->goal, answers, g->images, n, scratch);
    if (g->images == g->groups) {
        memcpy(out, scratch, n * sizeof *out);
        return;
    }
    mix(g->base, answers, g->images, n, out);
    guidance_combine(out, out, scratch, n, g->params.guided ? g->params.cfg : 1);
    if (g->params.rescale > 0) guidance_rescale(out, scratch, 1, n, g->params.rescale);
}
