/* `atelier merge --method ziplora`: what the UNet answers with each LoRA alone on noised pictures of its concept is noted
 * first; then the columns learn to give those answers together (train/ziplora.h). */
#include <math.h>
#include <string.h>

#include "base/os.h"
#include "diffusion/target.h"
#include "train/merger_priv.h"
#include "train/ziplora.h"

struct state {
    struct ziplora *z;
    struct adapter **adapters; /* [n], one LoRA in each */
    int images;                /* of a step */
    size_t n_latent, n_context, n_added, n_pooled;
    float *x, *target;         /* [steps][images][latent] */
    float *t;                  /* [steps][images] */
    int *picture;              /* [steps][images]: of the image's concept */
    float **contexts, **pooled;  /* [n]: the concepts' texts as the merged LoRA will read them */
};

static int64_t noted_bytes(const struct train_merge *m, const struct state *s) {
    return (int64_t)m->params.steps * s->images * (2 * (int64_t)s->n_latent + 2) * (int64_t)sizeof(float);
}

static bool allocate(struct train_merge *m, struct state *s, bool plan_only, struct error *err) {
    const struct model *model = m->e->model;
    size_t steps = (size_t)m->params.steps, n;
    s->images = m->params.n * m->params.batch, n = steps * (size_t)s->images;
    s->n_latent = (size_t)(m->lw * m->lh) * (size_t)model->vae.latent_channels;
    s->n_context = (size_t)m->tokens * (size_t)model_context_dim(model);
    s->n_added = (size_t)model->unet.added_dim, s->n_pooled = (size_t)model_pooled_dim(model);
    m->plan.host_bytes = noted_bytes(m, s), m->plan.passes = 1;
    if ((uint64_t)m->plan.host_bytes > os_memory_total() / 2)
        return error_set(err, "%d steps' answers take %.0f MiB on the host, more than half of its memory: lower --steps or "
                              "--batch.", m->params.steps, (double)m->plan.host_bytes / 1048576);
    if (plan_only) return true;
    s->x = arena_alloc_n(m->arena, n, s->n_latent * sizeof *s->x),
    s->target = arena_alloc_n(m->arena, n, s->n_latent * sizeof *s->x);
    s->t = arena_alloc_n(m->arena, n, sizeof *s->t), s->picture = arena_alloc_n(m->arena, n, sizeof *s->picture);
    return true;
}

/* Which pictures at which times under which noise. */
static void draw_inputs(struct train_merge *m, struct state *s) {
    struct arena *a = arena_create(NULL);
    float *noise = arena_alloc_n(a, s->n_latent, sizeof *noise);
    struct rng rng;
    rng_seed(&rng, m->params.seed);
    for (int i = 0; i < m->params.steps * s->images; i++) {
        const struct concept *c = &m->concepts[i % s->images / m->params.batch];
        int time = (int)rng_randint(&rng, (uint32_t)m->schedule->n_train);
        s->picture[i] = (int)rng_randint(&rng, (uint32_t)c->n);
        s->t[i] = (float)time;
        rng_randn(&rng, noise, s->n_latent);
        target_add_noise(m->schedule, time, s->x + (size_t)i * s->n_latent, c->latents + (size_t)s->picture[i] * s->n_latent,
                         noise, s->n_latent);
    }
    arena_destroy(&a);
}

/* The images' texts, from each concept's own contexts or from others. */
static void place_texts(const struct train_merge *m, const struct state *s, int step, bool merged, float *context,
                        float *pooled) {
    for (int i = 0; i < s->images; i++) {
        int lora = i / m->params.batch, picture = s->picture[step * s->images + i];
        const struct concept *c = &m->concepts[lora];
        const float *from = merged ? s->contexts[lora] : c->contexts, *pool = merged ? s->pooled[lora] : c->pooled;
        memcpy(context + (size_t)i * s->n_context, from + (size_t)picture * s->n_context, s->n_context * sizeof *context);
        memcpy(pooled + (size_t)i * s->n_pooled, pool + (size_t)picture * s->n_pooled, s->n_pooled * sizeof *pooled);
    }
}

static bool note_answers(struct train_merge *m, struct state *s, struct error *err) {
    struct denoiser_params dp = {.n = s->images, .w = m->lw, .h = m->lh, .tokens = m->tokens, .adapter = m->adapter};
    struct denoiser *d = denoiser_create(m->e, &dp, err);
    if (!d) return false;
    struct arena *a = arena_create(NULL);
    size_t n = (size_t)s->images, step_n = n * s->n_latent;
    float *context = arena_alloc_n(a, n, s->n_context * sizeof *context),
          *pooled = arena_alloc_n(a, n, (s->n_pooled + 1) * sizeof *pooled);
    float *strength = arena_alloc_n(a, n, (size_t)m->params.n * sizeof *strength),
          *sizes = arena_alloc_n(a, n, 6 * sizeof *sizes);
    for (int i = 0; i < s->images; i++) {
        train_merge_strengths(m, i / m->params.batch, strength + i * m->params.n);
        concept_time_ids(m->side, sizes + 6 * i);
    }
    denoiser_set_strength(d, strength);
    bool ok = true;
    for (int k = 0; ok && k < m->params.steps; k++) {
        place_texts(m, s, k, false, context, pooled);
        denoiser_set_context(d, context);
        denoiser_set_added(d, pooled, sizes);
        ok = train_merge_report(m, &(struct train_merge_progress){"noting answers", k, m->params.steps, -1, 0}, err) &&
             denoiser_run(d, s->x + (size_t)k * step_n, s->t + k * s->images, s->target + (size_t)k * step_n, err);
    }
    arena_destroy(&a);
    denoiser_destroy(&d);
    return ok;
}

/* A LoRA on a text encoder acts with all others' in the end. */
static bool encode_merged(struct train_merge *m, struct state *s, struct error *err) {
    float *all = arena_alloc_n(m->arena, (size_t)m->params.n, sizeof *all);
    s->contexts = arena_alloc_n(m->arena, (size_t)m->params.n, sizeof *s->contexts);
    s->pooled = arena_alloc_n(m->arena, (size_t)m->params.n, sizeof *s->pooled);
    struct prompter_params pp = {.adapter = m->adapter, .words = &m->words};
    train_merge_strengths(m, -1, all);
    for (int i = 0; i < m->params.n; i++) {
        struct concept *c = &m->concepts[i];
        s->contexts[i] = c->contexts, s->pooled[i] = c->pooled;
        if (adapter_touches_text(m->adapter) &&
            !concept_encode(m->e, &pp, all, c, m->arena, &s->contexts[i], &s->pooled[i], err))
            return false;
    }
    return true;
}

static bool open_columns(struct train_merge *m, struct state *s, struct error *err) {
    const struct train_merge_params *p = &m->params;
    s->adapters = arena_alloc_n(m->arena, (size_t)p->n, sizeof *s->adapters);
    for (int i = 0; i < p->n; i++)
        if (!(s->adapters[i] = adapter_open(m->e, &p->loras[i], 1, err))) return false;
    struct ziplora_params zp = {.adapters = (const struct adapter *const *)s->adapters, .weights = p->weights, .n = p->n,
                                .batch = p->batch, .w = m->lw, .h = m->lh, .tokens = m->tokens, .similarity = p->similarity};
    if (!(s->z = ziplora_create(m->e, &zp, err))) return false;
    m->plan.n_layers = ziplora_layers(s->z), m->plan.device_bytes = ziplora_device_bytes(s->z);
    return true;
}

static void fill_added(const struct train_merge *m, const struct state *s, const float *pooled, float *added) {
    struct error none;
    float sizes[6];
    concept_time_ids(m->side, sizes);
    for (int i = 0; s->n_added && i < s->images; i++)
        unet_added_fill(&m->e->model->unet, pooled + (size_t)i * s->n_pooled, (int)s->n_pooled, sizes, 6,
                        added + (size_t)i * s->n_added, &none);
}

static bool learn_columns(struct train_merge *m, struct state *s, struct error *err) {
    struct arena *a = arena_create(NULL);
    size_t n = (size_t)s->images, step_n = n * s->n_latent;
    float *context = arena_alloc_n(a, n, s->n_context * sizeof *context),
          *pooled = arena_alloc_n(a, n, (s->n_pooled + 1) * sizeof *pooled);
    float *added = arena_alloc_n(a, n, (s->n_added + 1) * sizeof *added);
    double start = os_now_seconds();
    bool ok = ziplora_open(s->z, err);
    for (int k = 0; ok && k < m->params.steps; k++) {
        struct ziplora_loss loss;
        struct ziplora_batch b = {s->x + (size_t)k * step_n, s->t + k * s->images, context, added,
                                  s->target + (size_t)k * step_n};
        place_texts(m, s, k, true, context, pooled);
        fill_added(m, s, pooled, added);
        ok = ziplora_step(s->z, &b, m->params.lr, &loss, err);
        double left = (os_now_seconds() - start) / (k + 1) * (m->params.steps - k - 1);
        struct train_merge_progress now = {"learning columns", k + 1, m->params.steps, loss.distance, left};
        ok = ok && train_merge_report(m, &now, err);
    }
    arena_destroy(&a);
    return ok;
}

static bool learn(struct train_merge *m, bool plan_only, struct error *err) {
    struct state *s = m->state = arena_alloc(m->arena, sizeof *s);
    if (!allocate(m, s, plan_only, err)) return false;
    if (plan_only) return open_columns(m, s, err);
    if (!train_merge_show(m, err)) return false;
    draw_inputs(m, s);
    if (!note_answers(m, s, err) || !encode_merged(m, s, err)) return false;
    train_merge_release(m);
    return open_columns(m, s, err) && learn_columns(m, s, err);
}

static bool apply(void *ctx, int file, const struct lora_module *module, float *rows, size_t n, struct error *err) {
    const struct train_merge *m = ctx;
    const struct state *s = m->state;
    const float *columns = module->part == LORA_UNET ? ziplora_columns(s->z, file, module->target) : NULL;
    size_t in = (size_t)module->target->weight.c;
    for (size_t i = 0; columns && i < n * in; i++) rows[i] *= columns[i % in];
    return true;
}

static void destroy(struct train_merge *m) {
    struct state *s = m->state;
    ziplora_destroy(&s->z);
    for (int i = 0; s->adapters && i < m->params.n; i++) adapter_close(&s->adapters[i]);
}

static char *settings(const struct train_merge *m, struct arena *a) {
    const struct train_merge_params *p = &m->params;
    return arena_printf(a, "--steps %d --batch %d --lr %.9g --similarity %.9g", p->steps, p->batch, (double)p->lr,
                        (double)p->similarity);
}

const struct train_merger train_merger_ziplora = {
    .merger = {.name = "ziplora", .about = "a learnt factor per LoRA and input channel", .takes_rank = true, .takes_seed = true,
               .whole = true, .needs_shared = true},
    .takes = TRAIN_MERGE_STEPS | TRAIN_MERGE_BATCH | TRAIN_MERGE_LR | TRAIN_MERGE_SIMILARITY | TRAIN_MERGE_CONCEPTS,
    .learn = learn, .apply = apply, .destroy = destroy, .settings = settings};
