#include "engine/generate.h"

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
    int32_t *ids;         /* [2][tokens]: negative, prompt */
    float *context;       /* [2][tokens][width] */
    float *strength;      /* [images][adapters] */
    float *x, *out, *t;   /* UNet side, [images][h][w][c] */
    float *prediction;    /* sampler side, [c][h][w] */
    char *encoded_prompt, *encoded_negative; /* what `context` holds */
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
    g->ids = arena_alloc(a, 2 * (size_t)g->tokens * sizeof *g->ids);
    g->context = arena_alloc(a, 2 * (size_t)g->tokens * (size_t)g->width * sizeof(float));
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
    g->images = guidance_is_needed(p->cfg) ? 2 : 1;
    g->tokens = (int)tokenizer_window(e->model->tokenizer), g->width = e->model->text.width;
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

static void window(struct generator *g, const char *text, int32_t *ids, const char *what) {
    struct tokenizer_cut cut;
    tokenizer_encode_window(g->e->model->tokenizer, text, ids, &cut);
    if (cut.n_dropped)
        log_warn("the %s has %zu tokens and the model looks at %d; dropped: \"%s\"", what, cut.n_tokens, g->tokens - 2, cut.text);
}

/* Embeddings are kept while the words, and the strengths of LoRAs on the text encoder, stay the same. */
static bool encode(struct generator *g, const struct generate_picture *p, struct error *err) {
    const char *negative = p->negative ? p->negative : "";
    const struct adapter *adapter = g->params.adapter;
    size_t bytes = adapter ? (size_t)adapter->n * sizeof(float) : 0;
    bool same_words = g->encoded_prompt && !strcmp(g->encoded_prompt, p->prompt) && !strcmp(g->encoded_negative, negative);
    bool same_text = !adapter || !adapter->touches_text || !memcmp(g->encoded_strength, g->strength, bytes);
    if (same_words && same_text) return true;
    window(g, negative, g->ids, "negative prompt");
    window(g, p->prompt, g->ids + g->tokens, "prompt");
    struct text_params tp = {.adapter = adapter, .strength = g->strength};
    if (!engine_encode_text(g->e, g->ids, 2, &tp, g->context, err)) return false;
    g->encoded_prompt = arena_strdup(g->arena, p->prompt);
    g->encoded_negative = arena_strdup(g->arena, negative);
    memcpy(g->encoded_strength, g->strength, bytes);
    return true;
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
    if (!w) return;
    st_writer_add(w, "token_ids", ST_I32, 2, (int64_t[]){2, g->tokens}, g->ids);
    trace_f32(w, "text_embedding", 3, (int64_t[]){2, g->tokens, g->width}, g->context);
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
                   struct sampler *s, struct error *err) {
    sampler_start(s);
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
    denoiser_set_context(g->unet, g->context + (g->images == 2 ? 0 : (size_t)g->tokens * (size_t)g->width));
    if (adapters) denoiser_set_strength(g->unet, g->strength);
    trace_text(g, p->trace);
    struct rng rng;
    rng_seed(&rng, p->seed);
    struct sampler_params sp = {.schedule = g->schedule, .n_steps = g->params.steps, .n_images = 1,
                                .image_floats = (size_t)latent_values(g), .rngs = &rng, .n_rngs = 1, .eta = g->params.eta};
    struct sampler *s = sampler_create(g->params.sampler, &sp, err);
    if (!s) return false;
    bool ok = sample(g, p, progress, s, err);
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
