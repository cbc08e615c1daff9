/* `atelier merge --method gradient-fusion`: every concept's noised pictures go through the model with that concept's LoRA
 * alone; what the layers read decides their change (train/fusion.h). The published way looks along the sampling; here finished
 * pictures, drawn or given, are noised at times spread evenly, which sums up the same distributions.
 * Layers are solved in the order in which they are written, as many at a time as their sums fit in memory; for each
 * such group the pictures go through the model again. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/os.h"
#include "diffusion/target.h"
#include "train/fusion.h"
#include "train/merger_priv.h"

enum { MAX_GROUPS = 4096 };
static const int64_t most_sums = (int64_t)1 << 30; /* bytes of a group's sums, of all LoRAs */

struct layer {
    enum lora_part part;
    const struct nn_target *target;
};
struct state {
    struct layer *layers; /* in the order of lora_merge: by part, then by path */
    int n_layers;
    int *groups;          /* [n_groups + 1]: where each begins */
    int n_groups, group;  /* the one whose sums are there; -1: none */
    struct fusion_inputs *inputs; /* [n] */
    struct arena *sums;           /* of the group */
    struct watch **watches;       /* [n] */
    const struct nn_target *solved;
    struct fusion_system *system;
    const double **grams;
};

/* ---- Layers and groups ---- */

static int by_layer(const void *a, const void *b) {
    const struct layer *x = a, *y = b;
    if (x->part != y->part) return (int)x->part - (int)y->part;
    return strcmp(x->target->path, y->target->path);
}

static bool list_layers(struct train_merge *m, struct state *s, struct error *err) {
    size_t cap = 1;
    int n_summed = 0, n = 0;
    for (int f = 0; f < m->params.n; f++) cap += (size_t)m->files[f]->n_modules;
    s->layers = arena_alloc_n(m->arena, cap, sizeof *s->layers);
    for (int f = 0; f < m->params.n; f++)
        for (int i = 0; i < m->files[f]->n_modules; i++) {
            const struct lora_module *module = &m->files[f]->modules[i];
            if (module->status != LORA_MATCHED) continue;
            if (watch_can(module->target)) s->layers[n++] = (struct layer){module->part, module->target};
            else n_summed++;
        }
    qsort(s->layers, (size_t)n, sizeof *s->layers, by_layer);
    for (int i = 0; i < n; i++)
        if (!i || s->layers[i].target != s->layers[s->n_layers - 1].target) s->layers[s->n_layers++] = s->layers[i];
    if (!s->n_layers)
        return error_set(err,
                         "The LoRAs change no linear layer, which is all that gradient fusion solves for: use --method sum.");
    if (n_summed) log_info("%d changes of convolutions are added up as they are", n_summed);
    return true;
}

static struct watch *watch_group(const struct state *s, struct arena *a, int first, int end) {
    const struct nn_target **targets = arena_alloc_n(a, (size_t)(end - first) + 1, sizeof *targets);
    for (int i = first; i < end; i++) targets[i - first] = s->layers[i].target;
    return watch_create(a, targets, end - first);
}

/* Which layers of the UNet share their input, by building its tape once. Elsewhere every layer counts by itself. */
static bool find_shared(struct train_merge *m, struct state *s, int *same, struct error *err) {
    struct arena *a = arena_create(NULL);
    int n = 0;
    int64_t bytes;
    while (n < s->n_layers && s->layers[n].part == LORA_UNET) n++;
    struct watch *w = watch_group(s, a, 0, n);
    w->list_only = true;
    bool ok = !n || fusion_plan_unet(m->e, m->adapter, &s->inputs[0], w, &bytes, err);
    for (int i = 0; i < s->n_layers; i++) same[i] = i < n && ok ? w->layers[i].same : i;
    arena_destroy(&a);
    return ok;
}

/* Where the group that begins at `first` ends: at the limit, or where another part begins. */
static int group_end(const struct train_merge *m, const struct state *s, const int *same, int first, int64_t limit,
                     int64_t *bytes) {
    int end = first;
    *bytes = 0;
    for (; end < s->n_layers && s->layers[end].part == s->layers[first].part; end++) {
        bool known = false;
        for (int i = first; i < end && !known; i++) known = same[i] == same[end];
        int64_t in = s->layers[end].target->weight.c, more = known ? 0 : in * in * (int64_t)sizeof(double) * m->params.n;
        if (end > first && *bytes + more > limit) break;
        *bytes += more;
    }
    return end;
}

/* A group of the UNet must also fit the device. */
static bool fits(struct train_merge *m, struct state *s, int first, int end, int64_t *device, struct error *err) {
    if (s->layers[first].part != LORA_UNET) return true;
    struct arena *a = arena_create(NULL);
    bool ok = fusion_plan_unet(m->e, m->adapter, &s->inputs[0], watch_group(s, a, first, end), device, err);
    arena_destroy(&a);
    return ok;
}

static bool form_groups(struct train_merge *m, struct state *s, struct error *err) {
    int *same = arena_alloc_n(m->arena, (size_t)s->n_layers, sizeof *same);
    int64_t limit = m->params.sum_bytes ? m->params.sum_bytes : most_sums, quarter = (int64_t)(os_memory_total() / 4);
    if (quarter < limit) limit = quarter;
    s->groups = arena_alloc_n(m->arena, MAX_GROUPS + 1, sizeof *s->groups);
    if (!find_shared(m, s, same, err)) return false;
    for (int first = 0; first < s->n_layers;) {
        int64_t bytes, device = 0;
        int end = group_end(m, s, same, first, limit, &bytes);
        if (!fits(m, s, first, end, &device, err)) {
            if (end - first == 1) return false; /* with the sentence of that layer alone */
            limit = bytes / 2;
            continue;
        }
        if (s->n_groups == MAX_GROUPS)
            return error_set(err, "The layers' sums fit too few at a time: allow more with --memory.");
        s->groups[s->n_groups++] = first;
        if (bytes > m->plan.host_bytes) m->plan.host_bytes = bytes;
        if (device > m->plan.device_bytes) m->plan.device_bytes = device;
        s->groups[s->n_groups] = first = end;
    }
    m->plan.n_layers = s->n_layers, m->plan.passes = s->n_groups;
    return true;
}

/* ---- Inputs ---- */

/* For the plan, the numbers alone count. */
static void size_inputs(const struct train_merge *m, struct state *s) {
    for (int i = 0; i < m->params.n; i++)
        s->inputs[i] = (struct fusion_inputs){.n = m->params.times * (m->concepts ? m->concepts[i].n : m->params.pictures),
                                              .w = m->lw, .h = m->lh, .side = m->side};
}

static void noise_pictures(const struct train_merge *m, struct fusion_inputs *in, const struct concept *c, int lora) {
    size_t latent = c->n_latent, context = (size_t)m->tokens * (size_t)model_context_dim(m->e->model);
    size_t pooled = (size_t)model_pooled_dim(m->e->model), n = (size_t)in->n;
    float *x = arena_alloc_n(m->arena, n, latent * sizeof *x), *t = arena_alloc_n(m->arena, n, sizeof *t);
    float *contexts = arena_alloc_n(m->arena, n, context * sizeof *contexts),
          *pool = arena_alloc_n(m->arena, n, (pooled + 1) * sizeof *pool);
    struct arena *a = arena_create(NULL);
    float *noise = arena_alloc_n(a, latent, sizeof *noise);
    struct rng rng;
    rng_seed(&rng, m->params.seed + (uint64_t)lora);
    for (size_t i = 0; i < n; i++) {
        size_t picture = i / (size_t)m->params.times, k = i % (size_t)m->params.times;
        int time = (int)(((double)k + 0.5) / m->params.times * m->schedule->n_train);
        t[i] = (float)time;
        rng_randn(&rng, noise, latent);
        target_add_noise(m->schedule, time, x + i * latent, c->latents + picture * latent, noise, latent);
        memcpy(contexts + i * context, c->contexts + picture * context, context * sizeof *contexts);
        memcpy(pool + i * pooled, c->pooled + picture * pooled, pooled * sizeof *pool);
    }
    arena_destroy(&a);
    in->x = x, in->t = t, in->context = contexts, in->pooled = pool;
}

/* ---- Watching and solving ---- */

struct progress {
    const struct train_merge *m;
    int before, of;
};

static bool on_step(void *ctx, int pictures, struct error *err) {
    const struct progress *p = ctx;
    return train_merge_report(p->m, &(struct train_merge_progress){"watching layers", p->before + pictures, p->of, -1, 0}, err);
}

static bool watch_lora(struct train_merge *m, struct state *s, int lora, const struct progress *p, struct error *err) {
    int first = s->groups[s->group];
    float *strength = arena_alloc_n(s->sums, (size_t)m->params.n, sizeof *strength);
    struct fusion_step step = {on_step, (void *)p};
    train_merge_strengths(m, lora, strength);
    struct watch *w = s->watches[lora] = watch_group(s, s->sums, first, s->groups[s->group + 1]);
    if (s->layers[first].part == LORA_UNET)
        return fusion_watch_unet(m->e, m->adapter, strength, &s->inputs[lora], w, &step, err);
    return fusion_watch_text(m->e, m->adapter, strength, (int)s->layers[first].part - LORA_TEXT, m->concepts[lora].texts,
                             m->concepts[lora].n, w, err);
}

static bool enter_group(struct train_merge *m, struct state *s, int group, struct error *err) {
    fusion_system_destroy(&s->system);
    if (s->sums) arena_destroy(&s->sums);
    s->solved = NULL;
    s->sums = arena_create(NULL);
    s->group = group;
    struct progress p = {m, 0, 0};
    for (int i = 0; i < m->params.n; i++) p.of += s->inputs[i].n * s->n_groups;
    for (int i = 0; i < m->params.n; i++) p.before += s->inputs[i].n * group;
    for (int i = 0; i < m->params.n; i++) {
        if (!watch_lora(m, s, i, &p, err)) return false;
        p.before += s->inputs[i].n;
        if (!on_step(&p, 0, err)) return false; /* texts take no steps */
    }
    return true;
}

static bool solve(struct train_merge *m, struct state *s, int layer, struct error *err) {
    const struct nn_target *t = s->layers[layer].target;
    int group = 0;
    while (s->groups[group + 1] <= layer) group++;
    if (group != s->group && !enter_group(m, s, group, err)) return false;
    fusion_system_destroy(&s->system);
    for (int i = 0; i < m->params.n; i++)
        if (!(s->grams[i] = watch_gram(s->watches[i], t))) return error_set(err, "reads nothing that could be watched");
    s->solved = t;
    s->system = fusion_system_create(s->sums, s->grams, m->params.n, t->weight.c);
    return s->system ||
           error_set(err, "reads numbers that are not finite, or nothing but zeros; are the LoRAs meant for this model?");
}

static bool apply(void *ctx, int file, const struct lora_module *module, float *rows, size_t n, struct error *err) {
    struct train_merge *m = ctx;
    struct state *s = m->state;
    struct layer key = {module->part, module->target};
    if (!watch_can(module->target)) return true;
    if (s->solved != module->target) {
        const struct layer *found = bsearch(&key, s->layers, (size_t)s->n_layers, sizeof *s->layers, by_layer);
        if (!solve(m, s, (int)(found - s->layers), err)) return false;
    }
    fusion_system_apply(s->system, file, rows, n);
    return !os_interrupted() || error_set(err, "Stopped before the LoRAs were merged; nothing was written.");
}

/* What text encoders read is watched without learnt words. */
static bool words_fit(const struct train_merge *m, const struct state *s, struct error *err) {
    for (int i = 0; m->words.n && i < s->n_layers; i++)
        if (s->layers[i].part != LORA_UNET)
            return error_set(err, "The LoRAs bring words of their own (\"%s\") and change the text encoder too: "
                                  "gradient-fusion does not read such words there; use --method ziplora or sum.",
                             m->words.items[0].word);
    return true;
}

static bool learn(struct train_merge *m, bool plan_only, struct error *err) {
    struct state *s = m->state = arena_alloc(m->arena, sizeof *s);
    s->group = -1;
    s->inputs = arena_alloc_n(m->arena, (size_t)m->params.n, sizeof *s->inputs);
    s->watches = arena_alloc_n(m->arena, (size_t)m->params.n, sizeof *s->watches);
    s->grams = arena_alloc_n(m->arena, (size_t)m->params.n, sizeof *s->grams);
    if (!list_layers(m, s, err) || !train_merge_words(m, err) || !words_fit(m, s, err)) return false;
    if (plan_only) {
        if (!(m->adapter = adapter_open(m->e, m->params.loras, m->params.n, err))) return false;
    } else if (!train_merge_show(m, err)) {
        return false;
    }
    size_inputs(m, s);
    if (!form_groups(m, s, err)) return false;
    for (int i = 0; !plan_only && i < m->params.n; i++) noise_pictures(m, &s->inputs[i], &m->concepts[i], i);
    return true; /* the layers come in apply */
}

static void destroy(struct train_merge *m) {
    struct state *s = m->state;
    if (s->sums) arena_destroy(&s->sums);
}

static char *settings(const struct train_merge *m, struct arena *a) {
    return arena_printf(a, "--times %d", m->params.times);
}

const struct train_merger train_merger_gradient_fusion = {
    .merger = {.name = "gradient-fusion", .about = "what each LoRA's layers answer to what they read, by least squares",
               .takes_rank = true, .takes_seed = true, .whole = true},
    .takes = TRAIN_MERGE_TIMES | TRAIN_MERGE_CONCEPTS,
    .learn = learn, .apply = apply, .destroy = destroy, .settings = settings};
