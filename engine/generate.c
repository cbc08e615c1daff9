#include "engine/generate.h"

#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/os.h"
#include "diffusion/guidance.h"
#include "diffusion/sampler.h"

struct generator {
    struct arena *arena;
    struct engine *e;
    struct generate_params params;
    struct schedule *schedule;
    struct denoiser *unet;
    struct vae_session *vae;
    int lw, lh, channels, images; /* latent size; pictures per UNet run: 2 with guidance */
    int tokens, width;
    int32_t *ids[MODEL_MAX_TEXTS]; /* [2][tokens]: negative, prompt */
    float *context;       /* [2][tokens][width] */
    float *pooled;        /* [2][model_pooled_dim] */
    float *strength;      /* [images][adapters] */
    float *x, *out, *t;   /* UNet side, [images][h][w][c] */
    float *prediction;    /* sampler side, [c][h][w] */
    char *encoded_prompt, *encoded_negative; /* what `context` and `pooled` hold; encoded_negative NULL: zeros */
    float *encoded_strength;
    double created, first_step;
};

static int latent_values(const struct generator *g) { return g->lw * g->lh * g->channels; }

static void rows_from_chw(const struct generator *g, const float *chw, float *rows) {
    int plane = g->lw * g->lh;
    for (int c = 0; c < g->channels; c++)
        for (int i = 0; i < plane; i++) rows[i * g->channels + c] = chw[c * plane + i];
}

static void chw_from_rows(const struct generator *g, const float *rows, float *chw) {
    int plane = g->lw * g->lh;
    for (int c = 0; c < g->channels; c++)
        for (int i = 0; i < plane; i++) chw[c * plane + i] = rows[i * g->channels + c];
}

static bool make_schedule(struct generator *g, struct error *err) {
    struct schedule_params sp = g->e->model->schedule;
    if (!schedule_choose(&sp, g->params.schedule, err)) return false;
    g->schedule = schedule_create(&sp, err);
    return g->schedule != NULL;
}

static void allocate(struct generator *g) {
    struct arena *a = g->arena;
    size_t n = (size_t)latent_values(g), adapters = g->params.adapter ? (size_t)g->params.adapter->n : 0;
    for (int i = 0; i < g->e->model->n_texts; i++) g->ids[i] = arena_alloc(a, 2 * (size_t)g->tokens * sizeof *g->ids[i]);
    g->context = arena_alloc(a, 2 * (size_t)g->tokens * (size_t)g->width * sizeof(float));
    g->pooled = arena_alloc(a, 2 * ((size_t)model_pooled_dim(g->e->model) + 1) * sizeof(float));
    g->strength = arena_alloc(a, 2 * (adapters + 1) * sizeof(float));
    g->encoded_strength = arena_alloc(a, (adapters + 1) * sizeof(float));
    g->x = arena_alloc(a, 2 * n * sizeof(float));
    g->out = arena_alloc(a, 2 * n * sizeof(float));
    g->t = arena_alloc(a, 2 * sizeof(float));
    g->prediction = arena_alloc(a, 2 * n * sizeof(float));
}

struct generator *generator_create(struct engine *e, const struct generate_params *p, struct error *err) {
    struct arena *a = arena_create(e->arena);
    struct generator *g = arena_alloc(a, sizeof *g);
    g->arena = a, g->e = e, g->params = *p;
    g->created = os_now_seconds();
    if (!g->params.sampler) g->params.sampler = "ddim";
    if (!g->params.schedule) g->params.schedule = "default";
    int f = vae_config_factor(&e->model->vae);
    if (p->w <= 0 || p->h <= 0 || p->w % f || p->h % f) {
        error_set(err, "A picture of %dx%d cannot be made: --width and --height must be multiples of %d.", p->w, p->h, f);
        goto fail;
    }
    g->lw = p->w / f, g->lh = p->h / f, g->channels = e->model->vae.latent_channels;
    /* A consistency model's UNet applies the guidance by itself. */
    g->images = guidance_is_needed(p->cfg) && !e->model->unet.time_cond_dim ? 2 : 1;
    g->tokens = model_window(e->model), g->width = model_context_dim(e->model);
    allocate(g);
    if (!make_schedule(g, err)) goto fail;
    struct denoiser_params dp = {g->images, g->lw, g->lh, g->tokens, p->adapter};
    if (!(g->unet = denoiser_create(e, &dp, err)) || !(g->vae = vae_session_create(e, false, 1, p->w, p->h, err))) goto fail;
    return g;
fail:
    generator_destroy(&g);
    return NULL;
}

void generator_destroy(struct generator **p) {
    struct generator *g = *p;
    if (!g) return;
    *p = NULL;
    denoiser_destroy(&g->unet);
    vae_session_destroy(&g->vae);
    schedule_destroy(&g->schedule);
    struct arena *a = g->arena;
    arena_destroy(&a);
}

/* Every text encoder's window of one text; what is dropped is said once. */
static void window(struct generator *g, const char *text, int which, const char *what) {
    const struct model *m = g->e->model;
    struct tokenizer_cut cut;
    for (int i = 0; i < m->n_texts; i++)
        tokenizer_encode_window(m->texts[i].tokenizer, text, g->ids[i] + which * g->tokens, &cut);
    if (cut.n_dropped)
        log_warn("the %s has %zu tokens and the model looks at %d; dropped: \"%s\"", what, cut.n_tokens, g->tokens - 2, cut.text);
}

static bool is_encoded(const struct generator *g, const char *prompt, const char *negative) {
    const struct adapter *adapter = g->params.adapter;
    bool same_words = g->encoded_prompt && !strcmp(g->encoded_prompt, prompt) && !g->encoded_negative == !negative &&
                      (!negative || !strcmp(g->encoded_negative, negative));
    return same_words && (!adapter || !adapter_touches_text(adapter) ||
                          !memcmp(g->encoded_strength, g->strength, (size_t)adapter->n * sizeof(float)));
}

/* Embeddings are kept while the words, and the strengths of LoRAs on the text encoders, stay the same. */
static bool encode(struct generator *g, const struct generate_picture *p, struct error *err) {
    const struct adapter *adapter = g->params.adapter;
    bool zeros = !p->negative && g->e->model->zeros_for_empty;
    const char *negative = p->negative ? p->negative : zeros ? NULL : "";
    if (is_encoded(g, p->prompt, negative)) return true;
    window(g, negative ? negative : "", 0, "negative prompt");
    window(g, p->prompt, 1, "prompt");
    struct text_params tp = {.adapter = adapter, .strength = g->strength};
    if (!engine_encode_text(g->e, (const int32_t *const *)g->ids, 2, &tp, g->context, g->pooled, err)) return false;
    if (zeros) {
        memset(g->context, 0, (size_t)g->tokens * (size_t)g->width * sizeof(float));
        memset(g->pooled, 0, (size_t)model_pooled_dim(g->e->model) * sizeof(float));
    }
    g->encoded_prompt = arena_strdup(g->arena, p->prompt);
    g->encoded_negative = negative ? arena_strdup(g->arena, negative) : NULL;
    if (adapter) memcpy(g->encoded_strength, g->strength, (size_t)adapter->n * sizeof(float));
    return true;
}

/* What stays the same through all steps of a picture. */
static void condition(struct generator *g) {
    int skip = g->images == 2 ? 0 : 1; /* without guidance the prompt alone */
    float h = (float)g->params.h, w = (float)g->params.w;
    float time_ids[2][6] = {{h, w, 0, 0, h, w}, {h, w, 0, 0, h, w}};
    denoiser_set_context(g->unet, g->context + (size_t)skip * (size_t)g->tokens * (size_t)g->width);
    denoiser_set_added(g->unet, g->pooled + skip * model_pooled_dim(g->e->model), time_ids[0]);
    denoiser_set_guidance(g->unet, g->params.cfg);
}

/* An inpainting model without a picture: everything is masked, and the masked picture is grey. */
static bool blank_extra(struct generator *g, struct rng *rng, struct error *err) {
    const struct vae_config *vae = &g->e->model->vae;
    int n = model_extra_channels(g->e->model), pixels = g->lw * g->lh, c = g->channels;
    if (!n) return true;
    struct vae_session *s = vae_session_create(g->e, true, 1, g->params.w, g->params.h, err);
    if (!s) return false;
    struct arena *a = arena_create(NULL);
    float *grey = arena_alloc_n(a, (size_t)g->params.w * (size_t)g->params.h, 3 * sizeof *grey);
    float *moments = arena_alloc_n(a, (size_t)pixels, 2 * (size_t)c * sizeof *moments), *z = arena_alloc_n(a, (size_t)(pixels * c), sizeof *z);
    float *extra = arena_alloc_n(a, 2 * (size_t)pixels, (size_t)n * sizeof *extra);
    bool ok = vae_session_encode_values(s, grey, moments, err);
    rng_randn(rng, z, (size_t)(pixels * c)); /* after the picture's noise, as in the reference pipeline */
    for (int i = 0; i < 2 * pixels; i++) {
        const float *m = moments + (size_t)(i % pixels) * 2 * (size_t)c;
        float *dst = extra + (size_t)i * (size_t)n;
        dst[0] = 1;
        for (int k = 0; k < c; k++)
            dst[1 + k] = (m[k] + expf(0.5f * m[c + k]) * z[k * pixels + i % pixels] - vae->shift_factor) * vae->scaling_factor;
    }
    if (ok) denoiser_set_extra(g->unet, extra);
    arena_destroy(&a);
    vae_session_destroy(&s);
    return ok;
}

static void trace_f32(struct st_writer *w, const char *name, int rank, const int64_t *dims, const float *data) {
    if (w) st_writer_add_f32(w, name, ST_F32, rank, dims, data);
}

static void trace_latents(const struct generator *g, struct st_writer *w, int k, const float *chw) {
    char name[32];
    struct arena *a = arena_create(NULL);
    const char *text = arena_printf(a, "latents_%03d", k);
    strncpy(name, text, sizeof name - 1), name[sizeof name - 1] = 0;
    arena_destroy(&a);
    trace_f32(w, name, 4, (int64_t[]){1, g->channels, g->lh, g->lw}, chw);
}

static void trace_text(const struct generator *g, struct st_writer *w) {
    const struct model *m = g->e->model;
    static const char *const names[MODEL_MAX_TEXTS] = {"token_ids", "token_ids_2"};
    if (!w) return;
    for (int i = 0; i < m->n_texts; i++) st_writer_add(w, names[i], ST_I32, 2, (int64_t[]){2, g->tokens}, g->ids[i]);
    trace_f32(w, "text_embedding", 3, (int64_t[]){2, g->tokens, g->width}, g->context);
    if (model_pooled_dim(m)) trace_f32(w, "pooled_embedding", 2, (int64_t[]){2, model_pooled_dim(m)}, g->pooled);
}

/* One model call with guidance: the sampler's x to its prediction, both in torch's order. */
static bool predict(struct generator *g, const struct sampler_request *q, struct error *err) {
    size_t n = (size_t)latent_values(g);
    rows_from_chw(g, q->x, g->x);
    if (g->images == 2) memcpy(g->x + n, g->x, n * sizeof(float));
    g->t[0] = g->t[1] = q->t;
    if (!denoiser_run(g->unet, g->x, g->t, g->out, err)) return false;
    if (g->images == 1) {
        chw_from_rows(g, g->out, g->prediction);
        return true;
    }
    chw_from_rows(g, g->out, g->prediction);
    chw_from_rows(g, g->out + n, g->prediction + n);
    guidance_combine(g->prediction, g->prediction, g->prediction + n, n, g->params.cfg);
    if (g->params.rescale > 0) guidance_rescale(g->prediction, g->prediction + n, 1, n, g->params.rescale);
    return true;
}

static bool sample(struct generator *g, const struct generate_picture *p, const struct generate_progress *progress,
                   struct sampler *s, struct rng *rng, struct error *err) {
    sampler_start(s);
    if (!blank_extra(g, rng, err)) return false;
    trace_latents(g, p->trace, 0, sampler_x(s));
    int done = 0;
    for (struct sampler_request q; sampler_next(s, &q);) {
        if (os_interrupted()) return error_set(err, "Stopped before the picture was finished; nothing was written.");
        if (!predict(g, &q, err)) return false;
        sampler_feed(s, g->prediction);
        if (!g->first_step) g->first_step = os_now_seconds() - g->created;
        trace_latents(g, p->trace, ++done, sampler_x(s));
        if (progress && progress->step) progress->step(progress->ctx, q.step + 1, q.n_steps);
    }
    return true;
}

bool generator_run(struct generator *g, const struct generate_picture *p, const struct generate_progress *progress, uint8_t *rgb,
                   struct error *err) {
    int adapters = g->params.adapter ? g->params.adapter->n : 0;
    for (int i = 0; i < g->images * adapters; i++) g->strength[i] = p->strength ? p->strength[i % adapters] : 1;
    if (!encode(g, p, err)) return false;
    condition(g);
    if (adapters) denoiser_set_strength(g->unet, g->strength);
    trace_text(g, p->trace);
    struct rng rng;
    rng_seed(&rng, p->seed);
    struct sampler_params sp = {.schedule = g->schedule, .n_steps = g->params.steps, .n_images = 1,
                                .image_floats = (size_t)latent_values(g), .rngs = &rng, .n_rngs = 1, .eta = g->params.eta};
    struct sampler *s = sampler_create(g->params.sampler, &sp, err);
    if (!s) return false;
    bool ok = sample(g, p, progress, s, &rng, err);
    if (ok) {
        rows_from_chw(g, sampler_x(s), g->x);
        struct arena *a = arena_create(NULL);
        float *raw = arena_alloc(a, (size_t)g->params.w * (size_t)g->params.h * 3 * sizeof *raw);
        ok = vae_session_decode(g->vae, g->x, rgb, raw, err);
        if (ok) trace_f32(p->trace, "image", 3, (int64_t[]){g->params.h, g->params.w, 3}, raw);
        arena_destroy(&a);
    }
    sampler_destroy(&s);
    return ok;
}

double generator_first_step_seconds(const struct generator *g) { return g->first_step; }
