#include "train/fusion.h"

#include <string.h>

#include "base/thread.h"
#include "engine/memory.h"
#include "lora/cholesky.h"
#include "train/concept.h"

enum { MAX_AT_ONCE = 4, MAX_TEXTS = 16 };
static const double ridge = 1e-7;

/* ---- What layers read ---- */

/* Pictures at once: a divisor, so that none is looked at twice. */
static int at_once(int n) {
    int k = n < MAX_AT_ONCE ? n : MAX_AT_ONCE;
    while (n % k) k--;
    return k;
}

static struct denoiser_params denoiser_of(struct engine *e, const struct adapter *a, const struct fusion_inputs *in,
                                          struct watch *w) {
    return (struct denoiser_params){.n = at_once(in->n), .w = in->w, .h = in->h, .tokens = model_window(e->model), .adapter = a,
                                    .watch = w};
}

bool fusion_plan_unet(struct engine *e, const struct adapter *a, const struct fusion_inputs *in, struct watch *w,
                      int64_t *bytes, struct error *err) {
    struct denoiser_params dp = denoiser_of(e, a, in, w);
    struct memory_choice c;
    if (!denoiser_plan(e, &dp, &c, err)) return false;
    *bytes = memory_choice_bytes(&c) + gpu_set_bytes(a->data);
    return true;
}

bool fusion_watch_unet(struct engine *e, const struct adapter *a, const float *strength, const struct fusion_inputs *in,
                       struct watch *w, const struct fusion_step *step, struct error *err) {
    struct denoiser_params dp = denoiser_of(e, a, in, w);
    struct denoiser *d = denoiser_create(e, &dp, err);
    if (!d) return false;
    const struct model *m = e->model;
    struct arena *scratch = arena_create(NULL);
    size_t n = (size_t)dp.n, latent = (size_t)(in->w * in->h) * (size_t)m->vae.latent_channels;
    size_t context = (size_t)dp.tokens * (size_t)model_context_dim(m), pooled = (size_t)model_pooled_dim(m);
    float *strengths = arena_alloc_n(scratch, n, (size_t)a->n * sizeof *strengths),
          *sizes = arena_alloc_n(scratch, n, 6 * sizeof *sizes);
    float *answer = arena_alloc_n(scratch, n, latent * sizeof *answer);
    for (size_t i = 0; i < n; i++) {
        memcpy(strengths + i * (size_t)a->n, strength, (size_t)a->n * sizeof *strengths);
        concept_time_ids(in->side, sizes + 6 * i);
    }
    denoiser_set_strength(d, strengths);
    bool ok = true;
    for (size_t k = 0; ok && k < (size_t)in->n; k += n) {
        denoiser_set_context(d, in->context + k * context);
        denoiser_set_added(d, in->pooled + k * pooled, sizes);
        ok = denoiser_run(d, in->x + k * latent, in->t + k, answer, err) && (!step || step->done(step->ctx, (int)(k + n), err));
    }
    arena_destroy(&scratch);
    denoiser_destroy(&d);
    return ok;
}

bool fusion_watch_text(struct engine *e, const struct adapter *a, const float *strength, int which, const char *const *texts,
                       int n, struct watch *w, struct error *err) {
    const struct model *m = e->model;
    size_t tokens = (size_t)model_window(m);
    struct arena *scratch = arena_create(NULL);
    int32_t *ids[MODEL_MAX_TEXTS] = {0};
    float *out = arena_alloc_n(scratch, MAX_TEXTS * tokens, (size_t)model_context_dim(m) * sizeof *out);
    float *pooled = arena_alloc_n(scratch, MAX_TEXTS, ((size_t)model_pooled_dim(m) + 1) * sizeof *pooled);
    struct text_params tp = {.adapter = a, .strength = strength};
    tp.watches[which] = w;
    for (int i = 0; i < m->n_texts; i++) ids[i] = arena_alloc_n(scratch, MAX_TEXTS * tokens, sizeof *ids[i]);
    bool ok = true;
    for (int k = 0; ok && k < n; k += MAX_TEXTS) {
        struct tokenizer_cut cut;
        int some = n - k < MAX_TEXTS ? n - k : MAX_TEXTS;
        for (int i = 0; i < m->n_texts; i++)
            for (int j = 0; j < some; j++)
                tokenizer_encode_window(m->texts[i].tokenizer, texts[k + j], ids[i] + (size_t)j * tokens, &cut);
        ok = engine_encode_text(e, (const int32_t *const *)ids, some, &tp, out, pooled, err);
    }
    arena_destroy(&scratch);
    return ok;
}

/* ---- Least squares ---- */

struct fusion_system {
    struct arena *arena;
    const double *const *grams;
    int n;
    size_t in;
    double *factor; /* of the sum of the Gram matrices */
};

struct fusion_system *fusion_system_create(struct arena *parent, const double *const *grams, int n, int in) {
    struct arena *a = arena_create(parent);
    struct fusion_system *s = arena_alloc(a, sizeof *s);
    *s = (struct fusion_system){a, grams, n, (size_t)in, NULL};
    size_t numbers = s->in * s->in;
    double *sum = arena_alloc_n(a, numbers, sizeof *sum), *m = arena_alloc_n(a, numbers, sizeof *m), mean = 0;
    for (int k = 0; k < n; k++)
        for (size_t i = 0; i < numbers; i++) sum[i] += grams[k][i];
    for (size_t i = 0; i < s->in; i++) mean += sum[i * (s->in + 1)] / (double)s->in;
    /* Sums of f32 may lie a little beside what is positive definite; a larger ridge then makes up for it. */
    for (double more = ridge; mean > 0 && more < 1; more *= 10) {
        memcpy(m, sum, numbers * sizeof *m);
        for (size_t i = 0; i < s->in; i++) m[i * (s->in + 1)] += more * mean;
        if (!cholesky_factor(m, s->in)) continue;
        s->factor = m;
        return s;
    }
    fusion_system_destroy(&s);
    return NULL;
}

struct product {
    const double *gram;
    const float *rows;
    double *out;
    size_t in;
};

static void product_rows(void *ctx, size_t begin, size_t end) {
    const struct product *p = ctx;
    for (size_t r = begin; r < end; r++) {
        double *out = p->out + r * p->in;
        for (size_t k = 0; k < p->in; k++) {
            double x = p->rows[r * p->in + k];
            for (size_t i = 0; x != 0 && i < p->in; i++) out[i] += x * p->gram[k * p->in + i];
        }
    }
}

void fusion_system_apply(const struct fusion_system *s, int k, float *rows, size_t n_rows) {
    struct arena *a = arena_create(NULL);
    double *wide = arena_alloc_n(a, n_rows, s->in * sizeof *wide);
    struct product p = {s->grams[k], rows, wide, s->in};
    thread_parallel_for(n_rows, product_rows, &p);
    cholesky_solve_rows(s->factor, s->in, wide, n_rows);
    for (size_t i = 0; i < n_rows * s->in; i++) rows[i] = (float)wide[i];
    arena_destroy(&a);
}

void fusion_system_destroy(struct fusion_system **p) {
    if (!*p) return;
    struct arena *a = (*p)->arena;
    *p = NULL;
    arena_destroy(&a);
}
