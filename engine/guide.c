#include "engine/guide.h"

#include <math.h>
#include <string.h>

#include "base/arena.h"
#include "diffusion/area_resize.h"
#include "diffusion/guidance.h"

/* One conditioning in the course of the steps: a term of AND, or the negative prompt. */
struct term {
    struct prompt_stage *stages;
    int n_stages;
    double weight;
};
/* Images with one way of strengths: a negative prompt, if there is one, and its terms. */
struct group {
    struct term *terms;
    int n;
    bool has_base;         /* the first term is the negative prompt */
    const float *strength; /* [n_adapters] */
    int adapter;           /* the only LoRA that acts, or -1: all */
    float *map;            /* NULL: everywhere */
};
/* What is known before anything is encoded. */
struct draft {
    struct arena *a;
    const struct guide_params *p;
    struct group *groups; /* of one step; in switch one per LoRA, of which one acts */
    int n;
    const char **texts; /* all different texts of the stages; NULL: the negative prompt that was not given */
    int n_texts;
};

static struct term single(struct arena *a, const char *text, int n_steps, double weight) {
    struct prompt_stage *stage = arena_alloc(a, sizeof *stage);
    *stage = (struct prompt_stage){n_steps, text};
    return (struct term){stage, 1, weight};
}

static struct term edited(const struct draft *l, const char *text, double weight) {
    if (l->p->style != PROMPT_A1111) return single(l->a, text, l->p->n_steps, weight);
    struct term t = {.weight = weight};
    t.n_stages = prompt_schedule(l->a, text, l->p->n_steps, &t.stages);
    return t;
}

/* A1111 takes an empty negative prompt for one that was not given. */
static struct term negative_term(const struct draft *l) {
    const char *text = l->p->negative;
    if (!text || (l->p->style == PROMPT_A1111 && !*text)) return single(l->a, NULL, l->p->n_steps, 0);
    return edited(l, text, 0);
}

static void make_terms(const struct draft *l, const char *prompt, struct group *g) {
    struct prompt_term whole = {prompt, 1}, *and = &whole;
    int n = l->p->style == PROMPT_A1111 ? prompt_split_and(l->a, prompt, &and) : 1;
    /* A sum of terms is one of differences from the negative prompt. */
    g->has_base = l->p->guided || n > 1 || and[0].weight != 1;
    g->terms = arena_alloc_n(l->a, (size_t)n + 1, sizeof *g->terms);
    if (g->has_base) g->terms[g->n++] = negative_term(l);
    for (int i = 0; i < n; i++) g->terms[g->n++] = edited(l, and[i].text, and[i].weight);
}

static struct group *add_group(struct draft *l, const char *prompt, const float *strength) {
    struct group *g = &l->groups[l->n++];
    *g = (struct group){.strength = strength, .adapter = -1};
    make_terms(l, prompt, g);
    return g;
}

/* One group per LoRA that takes part, in order. */
static bool add_adapters(struct draft *l, struct error *err) {
    for (int i = 0; i < l->p->n_adapters; i++)
        if (l->p->strength[i] != 0) add_group(l, l->p->prompt, l->p->strength)->adapter = i;
    if (l->n >= 2) return true;
    return error_set(err, "--compose %s needs two LoRAs or more, and this picture has %d; add --lora FILE, or leave --compose "
                          "out.", l->p->compose == GUIDE_SWITCH ? "switch" : "composite", l->n);
}

static bool by_attention(const struct guide_params *p) { return p->n_regions && p->regions_by == GUIDE_ATTENTION; }

/* The prompt's own map is what the regions leave. */
static void share_out(const struct draft *l) {
    size_t pixels = (size_t)l->p->w * (size_t)l->p->h;
    float *rest = l->groups[0].map;
    for (size_t i = 0; i < pixels; i++) {
        float sum = 0;
        for (int k = 1; k < l->n; k++) sum += l->groups[k].map[i];
        for (int k = 1; k < l->n && sum > 1; k++) l->groups[k].map[i] /= sum;
        rest[i] = sum < 1 ? 1 - sum : 0;
    }
}

static bool add_regions(struct draft *l, struct error *err) {
    const struct guide_params *p = l->p;
    size_t pixels = (size_t)p->w * (size_t)p->h;
    float *maps = arena_alloc_n(l->a, pixels * (size_t)(p->n_regions + 1), sizeof *maps);
    l->groups[0].map = maps;
    for (int r = 0; r < p->n_regions; r++) {
        const struct guide_region *region = &p->regions[r];
        struct group *g = add_group(l, region->prompt, region->strength);
        if (by_attention(p) && (g->n - g->has_base > 1 || g->terms[g->n - 1].weight != 1))
            return error_set(err, "The prompt of region %d has AND in it, for which there is no place inside the attention; "
                                  "write it as one prompt, or use --region-method predictions.", r + 1);
        g->map = maps + pixels * (size_t)(r + 1);
        area_resize(g->map, p->w, p->h, region->map, region->map_w, region->map_h);
    }
    share_out(l);
    return true;
}

static bool make_groups(struct draft *l, struct error *err) {
    const struct guide_params *p = l->p;
    l->groups = arena_alloc_n(l->a, (size_t)(p->n_adapters + p->n_regions) + 1, sizeof *l->groups);
    if (p->compose != GUIDE_SUM && p->n_regions)
        return error_set(err, "Regions and --compose do not go together; use --compose sum.");
    if (p->compose != GUIDE_SUM) return add_adapters(l, err);
    add_group(l, p->prompt, p->strength);
    return !p->n_regions || add_regions(l, err);
}

/* ---- Texts ---- */

static bool same_text(const char *a, const char *b) { return a && b ? !strcmp(a, b) : a == b; }

static int text_index(const struct draft *l, const char *text) {
    for (int i = 0; i < l->n_texts; i++)
        if (same_text(l->texts[i], text)) return i;
    return -1;
}

static void collect_texts(struct draft *l) {
    int most = 0;
    for (int k = 0; k < l->n; k++)
        for (int i = 0; i < l->groups[k].n; i++) most += l->groups[k].terms[i].n_stages;
    l->texts = arena_alloc_n(l->a, (size_t)most, sizeof *l->texts);
    for (int k = 0; k < l->n; k++)
        for (int i = 0; i < l->groups[k].n; i++) {
            const struct term *t = &l->groups[k].terms[i];
            for (int s = 0; s < t->n_stages; s++)
                if (text_index(l, t->stages[s].text) < 0) l->texts[l->n_texts++] = t->stages[s].text;
        }
}

static const char *text_at(const struct term *t, int step) {
    int k = 0;
    while (t->stages[k].last <= step) k++;
    return t->stages[k].text;
}

/* ---- Strengths ---- */

static bool is_on(const struct guide_course *c, int step, int n_steps) {
    double at = (double)step / n_steps;
    return at >= (double)c->begin - 1e-6 && at < (double)c->end - 1e-6;
}

static float strength_at(const struct guide_params *p, const struct group *g, int adapter, int step) {
    if (g->adapter >= 0 && g->adapter != adapter) return 0;
    if (!p->courses) return g->strength[adapter];
    const struct guide_course *c = &p->courses[adapter];
    if (!is_on(c, step, p->n_steps)) return 0;
    int first = step, last = step;
    while (first > 0 && is_on(c, first - 1, p->n_steps)) first--;
    while (last + 1 < p->n_steps && is_on(c, last + 1, p->n_steps)) last++;
    float share = last > first ? (float)(step - first) / (float)(last - first) : 0;
    return g->strength[adapter] * (c->from + share * (c->to - c->from));
}

/* For the text encoders, which run once: strengths of the first step in which a LoRA is on. */
static void fill_text_strengths(const struct guide_params *p, const struct group *g, float *dst) {
    for (int i = 0; i < p->n_adapters; i++) {
        dst[i] = 0;
        for (int s = 0; s < p->n_steps && dst[i] == 0; s++) dst[i] = strength_at(p, g, i, s);
    }
}

/* ---- Together ---- */

/* One set of contexts, or one per group where LoRAs change the text encoders. Always all texts, so that all get one length. */
static bool encode_texts(struct prompter *p, const struct draft *l, int sets, struct guide *g, struct error *err) {
    float *strength = arena_alloc_n(l->a, (size_t)l->p->n_adapters + 1, sizeof *strength);
    g->n_contexts = sets * l->n_texts;
    g->contexts = arena_alloc_n(l->a, (size_t)g->n_contexts, sizeof *g->contexts);
    for (int k = 0; k < sets; k++) {
        fill_text_strengths(l->p, &l->groups[k], strength);
        if (!prompter_encode(p, l->texts, l->n_texts, strength, l->a, g->contexts + k * l->n_texts, err)) return false;
    }
    g->tokens = g->contexts[0].tokens;
    return true;
}

/* base: the negative prompt's answer. goal: base + sum of weight * (answer - base). Without maps both the mean over groups. */
static void make_shares(const struct group *k, double share, float *map, struct guide *g, int first) {
    double sum = 0;
    for (int i = k->has_base; i < k->n; i++) {
        g->goal[first + i] = (float)(k->terms[i].weight * share);
        sum += k->terms[i].weight;
    }
    if (k->has_base) g->base[first] = (float)share, g->goal[first] = (float)((1 - sum) * share);
    else g->base[first] = g->goal[first]; /* where other groups have a base: this one's guidance is none */
    for (int i = 0; map && i < k->n; i++) g->maps[first + i] = map;
}

/* The negative prompt looks the same in every part; the prompt's terms all look at a region's only one. */
static const struct term *term_of(const struct draft *l, int part, int image) {
    const struct group *own = &l->groups[0], *region = &l->groups[part];
    return part == 0 || (own->has_base && image == 0) ? &own->terms[image] : &region->terms[region->n - 1];
}

/* By attention: what the prompt's images are told at a step. */
static void tell_parts(const struct draft *l, bool own_sets, int step, struct guide *g) {
    int n_adapters = l->p->n_adapters;
    for (int part = 0; part < g->parts; part++)
        for (int i = 0; i < g->images; i++) {
            int text = text_index(l, text_at(term_of(l, part, i), step));
            g->context_of[((size_t)step * (size_t)g->parts + (size_t)part) * (size_t)g->images + (size_t)i] =
                (own_sets ? part : 0) * l->n_texts + text;
        }
    int rows = guide_strength_rows(g);
    for (int row = 0; row < rows; row++)
        for (int ad = 0; ad < n_adapters; ad++)
            g->strengths[((size_t)step * (size_t)rows + (size_t)row) * (size_t)n_adapters + (size_t)ad] =
                strength_at(l->p, &l->groups[g->part_strengths ? row : 0], ad, step);
}

/* What the images of a group are told at a step. */
static void tell_group(const struct draft *l, int k, int set, int step, struct guide *g, int first) {
    const struct group *group = &l->groups[k];
    for (int i = 0; i < group->n; i++) {
        size_t at = (size_t)step * (size_t)g->images + (size_t)(first + i);
        g->context_of[at] = set * l->n_texts + text_index(l, text_at(&group->terms[i], step));
        for (int ad = 0; ad < l->p->n_adapters; ad++)
            g->strengths[at * (size_t)l->p->n_adapters + (size_t)ad] = strength_at(l->p, group, ad, step);
    }
}

/* Images, parts, and room for what they are told. */
static void measure(const struct draft *l, int at_once, struct guide *g) {
    const struct guide_params *p = l->p;
    g->parts = by_attention(p) ? l->n : 1;
    if (g->parts > 1) g->shares = l->groups[0].map;
    for (int k = 1; k < g->parts; k++)
        for (int i = 0; i < p->n_adapters; i++) g->part_strengths |= l->groups[k].strength[i] != l->groups[0].strength[i];
    for (int k = 0; k < at_once; k++) g->images += l->groups[k].n, g->joined |= l->groups[k].has_base;
    size_t n = (size_t)g->images, rows = (size_t)guide_strength_rows(g), steps = (size_t)p->n_steps;
    g->context_of = arena_alloc_n(l->a, n * (size_t)g->parts * steps, sizeof *g->context_of);
    g->strengths = arena_alloc_n(l->a, rows * steps, ((size_t)p->n_adapters + 1) * sizeof *g->strengths);
    g->base = arena_alloc_n(l->a, n, sizeof *g->base), g->goal = arena_alloc_n(l->a, n, sizeof *g->goal);
    if (p->n_regions && g->parts == 1) g->maps = arena_alloc_n(l->a, n, sizeof *g->maps);
}

bool guide_create(struct prompter *p, const struct guide_params *params, struct arena *a, struct guide *g, struct error *err) {
    struct draft l = {.a = a, .p = params};
    bool turns = params->compose == GUIDE_SWITCH;
    *g = (struct guide){.params = *params};
    if (!make_groups(&l, err)) return false;
    collect_texts(&l);
    int sets = l.n > 1 && prompter_heeds_strength(p) ? l.n : 1, at_once = turns || by_attention(params) ? 1 : l.n;
    if (!encode_texts(p, &l, sets, g, err)) return false;
    measure(&l, at_once, g);
    for (int k = 0, first = 0; k < at_once; first += l.groups[k++].n) {
        make_shares(&l.groups[k], params->n_regions ? 1 : 1.0 / at_once, g->maps ? l.groups[k].map : NULL, g, first);
        for (int s = 0; s < params->n_steps; s++) {
            int acting = turns ? s / params->every % l.n : k;
            if (g->parts > 1) tell_parts(&l, sets > 1, s, g);
            else tell_group(&l, acting, sets > 1 ? acting : 0, s, g, first);
        }
    }
    return true;
}

bool guide_changes_context(const struct guide *g, int before, int step) {
    size_t n = (size_t)g->images * (size_t)g->parts;
    return before < 0 ||
           memcmp(g->context_of + (size_t)before * n, g->context_of + (size_t)step * n, n * sizeof *g->context_of);
}

int guide_strength_rows(const struct guide *g) { return g->part_strengths ? g->parts : g->images; }

static size_t strength_values(const struct guide *g) { return (size_t)guide_strength_rows(g) * (size_t)g->params.n_adapters; }

const float *guide_strengths(const struct guide *g, int step) { return g->strengths + (size_t)step * strength_values(g); }

bool guide_changes_strength(const struct guide *g, int before, int step) {
    size_t n = strength_values(g);
    return n && (before < 0 || memcmp(guide_strengths(g, before), guide_strengths(g, step), n * sizeof *g->strengths));
}

bool guide_goes_with(const struct guide *a, const struct guide *b) {
    if (a->tokens != b->tokens || a->parts != b->parts || a->part_strengths != b->part_strengths) return false;
    return !a->part_strengths ||
           !memcmp(a->strengths, b->strengths, (size_t)a->params.n_steps * strength_values(a) * sizeof *a->strengths);
}

void guide_fill(const struct guide *g, const struct model *m, int step, int part, float *context, float *pooled) {
    size_t rows = (size_t)g->tokens * (size_t)model_context_dim(m), width = (size_t)model_pooled_dim(m);
    const int *of = g->context_of + (size_t)(step * g->parts + part) * (size_t)g->images;
    for (int i = 0; i < g->images; i++) {
        const struct prompt_context *c = &g->contexts[of[i]];
        memcpy(context + (size_t)i * rows, c->rows, rows * sizeof *context);
        if (part == 0) memcpy(pooled + (size_t)i * width, c->pooled, width * sizeof *pooled);
    }
}

/* The answers' sum by shares and maps; answers and out are [channels][pixels]. */
static void mix(const struct guide *g, const float *share, const float *answers, size_t n, float *out) {
    size_t pixels = g->maps ? (size_t)g->params.w * (size_t)g->params.h : n;
    bool first = true;
    for (int i = 0; i < g->images; i++) {
        const float *x = answers + (size_t)i * n, *map = g->maps ? g->maps[i] : NULL;
        if (share[i] == 0) continue;
        for (size_t k = 0; k < n; k++) {
            float part = (map ? share[i] * map[k % pixels] : share[i]) * x[k];
            out[k] = first ? part : out[k] + part;
        }
        first = false;
    }
    if (first) memset(out, 0, n * sizeof *out);
}

void guide_combine(const struct guide *g, const float *answers, size_t n, float *scratch, float *out) {
    mix(g, g->goal, answers, n, scratch);
    if (!g->joined) {
        memcpy(out, scratch, n * sizeof *out);
        return;
    }
    mix(g, g->base, answers, n, out);
    guidance_combine(out, out, scratch, n, g->params.guided ? g->params.cfg : 1);
    if (g->params.rescale > 0) guidance_rescale(out, scratch, 1, n, g->params.rescale);
}
