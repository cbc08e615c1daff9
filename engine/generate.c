#include "engine/generate.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/os.h"
#include "diffusion/guidance.h"
#include "diffusion/sampler.h"
#include "engine/guide.h"
#include "engine/memory.h"

/* One picture of those that are drawn at once. */
struct drawing {
    const struct generate_picture *p;
    struct guide guide;
    int at; /* its first image in the UNet's batch */
    struct sampler *sampler;
    struct noise_stream noise;
    struct init_start from;
};

struct generator {
    struct arena *arena;
    struct engine *e;
    struct generate_params params;
    struct schedule *schedule;
    struct denoiser *unet;
    struct vae_session *vae;
    bool in_turn; /* UNet and VAE do not fit together */
    struct prompter *prompter;
    struct init_encoder *init;
    int lw, lh, channels; /* latent size */
    bool guided;
    struct drawing *now; /* the pictures being drawn */
    int n_now;
    struct arena *shape_arena; /* what depends on the guide's images and tokens; NULL before the first picture */
    int images, tokens, parts;
    bool part_strengths;
    int told;             /* step that the UNet was last told about, -1: none */
    float *context;       /* [parts][images][tokens][model_context_dim]; images: every picture's, one after the other */
    float *pooled;        /* [images][model_pooled_dim] */
    float *time_ids;      /* [images][6] */
    float *strengths;     /* [images][adapters], or [parts][adapters] */
    float *x, *out, *t;   /* UNet side, [images][h][w][c] */
    float *answers;       /* sampler side, [images][c][h][w] */
    float *scratch, *prediction, *latents; /* [c][h][w] */
    double created, first_step;
};

static int latent_values(const struct generator *g) { return g->lw * g->lh * g->channels; }

static int n_adapters(const struct generator *g) { return g->params.adapter ? g->params.adapter->n : 0; }

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

/* The VAE after the UNet: beside it where both fit, else in its place. */
static bool open_vae(struct generator *g, struct error *err) {
    if (g->vae) return true;
    struct memory_choice c;
    int beside;
    struct error ignored;
    bool f32 = gpu_device_storage(g->e->dev) == TENSOR_F16 && g->e->model->vae.force_upcast; /* it may have to be */
    bool fits = vae_session_plan(g->e, false, f32, g->params.w, g->params.h, &c, &beside, &ignored) && !c.streamed;
    if (!fits || (beside && g->e->params.vae_tiling == ENGINE_TILING_AUTO)) {
        log_debug("the UNet makes room for the VAE");
        denoiser_destroy(&g->unet);
        g->in_turn = true;
    }
    return (g->vae = vae_session_create(g->e, false, 1, g->params.w, g->params.h, err)) != NULL;
}

/* The UNet for that many images told as by u; most pictures of a run need the same. */
static bool shape_unet(struct generator *g, int images, const struct guide *u, struct error *err) {
    int tokens = u->tokens, parts = u->parts;
    g->told = -1;
    if (g->unet && g->images == images && g->tokens == tokens && g->parts == parts && g->part_strengths == u->part_strengths)
        return true;
    denoiser_destroy(&g->unet);
    arena_destroy(&g->shape_arena);
    struct arena *a = g->shape_arena = arena_create(g->arena);
    const struct model *m = g->e->model;
    size_t n = (size_t)images, values = (size_t)latent_values(g);
    g->images = images, g->tokens = tokens, g->parts = parts, g->part_strengths = u->part_strengths;
    g->context = arena_alloc_n(a, (size_t)parts * n * (size_t)tokens, (size_t)model_context_dim(m) * sizeof(float));
    g->pooled = arena_alloc_n(a, n, ((size_t)model_pooled_dim(m) + 1) * sizeof(float));
    g->x = arena_alloc_n(a, n * values, sizeof(float));
    g->out = arena_alloc_n(a, n * values, sizeof(float));
    g->t = arena_alloc_n(a, n, sizeof(float));
    g->strengths = arena_alloc_n(a, parts > images ? (size_t)parts : n, ((size_t)n_adapters(g) + 1) * sizeof(float));
    g->answers = arena_alloc_n(a, n * values, sizeof(float));
    struct denoiser_params dp = {images, g->lw, g->lh, tokens, g->params.adapter, parts, u->part_strengths};
    if (!(g->unet = denoiser_create(g->e, &dp, err))) return false;
    float h = (float)g->params.h, w = (float)g->params.w;
    g->time_ids = arena_alloc_n(a, n, 6 * sizeof(float));
    for (size_t i = 0; i < n; i++) memcpy(g->time_ids + 6 * i, (float[]){h, w, 0, 0, h, w}, 6 * sizeof(float));
    denoiser_set_guidance(g->unet, g->params.cfg);
    return true;
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
    g->guided = guidance_is_needed(p->cfg) && !e->model->unet.time_cond_dim;
    g->scratch = arena_alloc_n(a, (size_t)latent_values(g), sizeof(float));
    g->prediction = arena_alloc_n(a, (size_t)latent_values(g), sizeof(float));
    g->latents = arena_alloc_n(a, (size_t)latent_values(g), sizeof(float));
    g->init = init_encoder_create(e, p->w, p->h);
    struct prompter_params pp = {.style = p->prompt_style, .clip_skip = p->clip_skip, .adapter = p->adapter, .words = p->words};
    struct memory_choice c;
    int tile; /* that the picture can be decoded at all is known before it is drawn */
    if (!make_schedule(g, err) || !(g->prompter = prompter_create(e, &pp, err)) ||
        !vae_session_plan(e, false, false, p->w, p->h, &c, &tile, err))
        goto fail;
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
    prompter_destroy(&g->prompter);
    init_encoder_destroy(&g->init);
    vae_session_destroy(&g->vae);
    schedule_destroy(&g->schedule);
    struct arena *a = g->arena;
    arena_destroy(&a);
}

/* ---- What the UNet is told ---- */

/* What is new at this step. */
static void tell(struct generator *g, int step) {
    const struct model *m = g->e->model;
    size_t rows = (size_t)g->tokens * (size_t)model_context_dim(m), pooled = (size_t)model_pooled_dim(m),
           adapters = (size_t)n_adapters(g);
    bool context = false, strength = false;
    for (int i = 0; i < g->n_now; i++) {
        context |= guide_changes_context(&g->now[i].guide, g->told, step);
        strength |= guide_changes_strength(&g->now[i].guide, g->told, step);
    }
    for (int i = 0; i < g->n_now; i++) {
        const struct guide *u = &g->now[i].guide;
        size_t at = (size_t)g->now[i].at, first = g->part_strengths ? 0 : at;
        for (int part = 0; context && part < g->parts; part++)
            guide_fill(u, m, step, part, g->context + ((size_t)(part * g->images) + at) * rows, g->pooled + at * pooled);
        if (strength)
            memcpy(g->strengths + first * adapters, guide_strengths(u, step),
                   (size_t)guide_strength_rows(u) * adapters * sizeof *g->strengths);
    }
    if (context) {
        denoiser_set_context(g->unet, g->context);
        denoiser_set_added(g->unet, g->pooled, g->time_ids);
    }
    if (strength) denoiser_set_strength(g->unet, g->strengths);
    g->told = step;
}

/* How the parts share every image of a picture. */
static void set_shares(struct generator *g, struct arena *a) {
    if (g->parts < 2) return;
    size_t n = (size_t)(g->lw * g->lh * g->parts);
    float *all = arena_alloc_n(a, n, (size_t)g->images * sizeof *all);
    for (int k = 0; k < g->n_now; k++)
        for (int i = 0; i < g->now[k].guide.images; i++)
            memcpy(all + (size_t)(g->now[k].at + i) * n, g->now[k].guide.shares, n * sizeof *all);
    denoiser_set_shares(g->unet, all);
}

/* Mask and masked picture, the same for every image of a picture. */
static void set_extra(struct generator *g, struct arena *a) {
    if (!model_extra_channels(g->e->model)) return;
    size_t n = (size_t)(g->lw * g->lh) * (size_t)model_extra_channels(g->e->model);
    float *all = arena_alloc_n(a, n, (size_t)g->images * sizeof *all);
    for (int k = 0; k < g->n_now; k++)
        for (int i = 0; i < g->now[k].guide.images; i++)
            memcpy(all + (size_t)(g->now[k].at + i) * n, g->now[k].from.extra, n * sizeof *all);
    denoiser_set_extra(g->unet, all);
}

/* ---- Traces ---- */

static void trace(const struct generate_picture *p, const char *name, enum st_dtype dtype, int rank, const int64_t *dims,
                  const void *data) {
    if (!p->trace) return;
    struct arena *a = arena_create(NULL);
    const char *full = arena_printf(a, "%s%s", p->trace_prefix ? p->trace_prefix : "", name);
    if (dtype == ST_F32) st_writer_add_f32(p->trace, full, ST_F32, rank, dims, data);
    else st_writer_add(p->trace, full, dtype, rank, dims, data);
    arena_destroy(&a);
}

static void trace_latents(const struct generator *g, const struct generate_picture *p, int k, const float *chw) {
    struct arena *a = arena_create(NULL);
    trace(p, arena_printf(a, "latents_%03d", k), ST_F32, 4, (int64_t[]){1, g->channels, g->lh, g->lw}, chw);
    arena_destroy(&a);
}

/* As the first step sees it. The writer keeps a pointer to the ids, so they live as long as the generator. */
static void trace_text(const struct generator *g, const struct drawing *d) {
    const struct model *m = g->e->model;
    static const char *const names[MODEL_MAX_TEXTS] = {"token_ids", "token_ids_2"};
    if (!d->p->trace) return;
    size_t tokens = (size_t)g->tokens;
    int images = d->guide.images, width = model_context_dim(m), pooled = model_pooled_dim(m);
    for (int i = 0; i < m->n_texts; i++) {
        int32_t *ids = arena_alloc_n(g->arena, (size_t)images * tokens, sizeof *ids);
        for (int k = 0; k < images; k++)
            memcpy(ids + (size_t)k * tokens, d->guide.contexts[d->guide.context_of[k]].ids[i], tokens * sizeof *ids);
        trace(d->p, names[i], ST_I32, 2, (int64_t[]){images, g->tokens}, ids);
    }
    trace(d->p, "text_embedding", ST_F32, 3, (int64_t[]){images, g->tokens, width},
          g->context + (size_t)d->at * tokens * (size_t)width);
    if (pooled)
        trace(d->p, "pooled_embedding", ST_F32, 2, (int64_t[]){images, pooled}, g->pooled + (size_t)d->at * (size_t)pooled);
}

/* ---- A batch ---- */

/* One model call with guidance: every sampler's x to its prediction, in torch's order. q: what each asks, all of one step. */
static bool predict(struct generator *g, const struct sampler_request *q, struct error *err) {
    size_t n = (size_t)latent_values(g);
    if (q->step != g->told) tell(g, q->step);
    for (int k = 0; k < g->n_now; k++)
        for (int i = 0; i < g->now[k].guide.images; i++) {
            size_t at = (size_t)(g->now[k].at + i);
            rows_from_chw(g, q[k].x, g->x + at * n);
            g->t[at] = q[k].t;
        }
    if (!denoiser_run(g->unet, g->x, g->t, g->out, err)) return false;
    for (int i = 0; i < g->images; i++) chw_from_rows(g, g->out + (size_t)i * n, g->answers + (size_t)i * n);
    return true;
}

static void feed(struct generator *g, struct drawing *d) {
    size_t n = (size_t)latent_values(g);
    guide_combine(&d->guide, g->answers + (size_t)d->at * n, n, g->scratch, g->prediction);
    sampler_feed(d->sampler, g->prediction);
    if (d->from.mask) sampler_blend(d->sampler, d->from.z0, d->from.noise, d->from.mask);
}

static bool ask(struct generator *g, struct sampler_request *q) {
    bool more = false;
    for (int k = 0; k < g->n_now; k++) more = sampler_next(g->now[k].sampler, &q[k]);
    return more;
}

static bool sample(struct generator *g, const struct generate_progress *progress, struct arena *a, struct error *err) {
    struct sampler_request *q = arena_alloc_n(a, (size_t)g->n_now, sizeof *q);
    int first = g->now->from.first < 0 ? 0 : g->now->from.first, done = 0;
    for (int k = 0; k < g->n_now; k++) trace_latents(g, g->now[k].p, 0, sampler_x(g->now[k].sampler));
    while (ask(g, q)) {
        if (os_interrupted()) return error_set(err, "Stopped before the picture was finished; nothing was written.");
        if (!predict(g, q, err)) return false;
        done++;
        for (int k = 0; k < g->n_now; k++) {
            feed(g, &g->now[k]);
            trace_latents(g, g->now[k].p, done, sampler_x(g->now[k].sampler));
        }
        if (!g->first_step) g->first_step = os_now_seconds() - g->created;
        if (progress && progress->step) progress->step(progress->ctx, q->step + 1 - first, q->n_steps - first);
    }
    return true;
}

static bool make_guide(struct generator *g, struct drawing *d, struct arena *a, struct error *err) {
    const struct generate_picture *p = d->p;
    int adapters = n_adapters(g);
    float *strength = arena_alloc_n(a, (size_t)adapters + 1, sizeof *strength);
    for (int i = 0; i < adapters; i++) strength[i] = p->strength ? p->strength[i] : 1;
    struct guide_params gp = {.prompt = p->prompt, .negative = p->negative, .style = g->params.prompt_style,
                              .n_steps = g->params.steps, .cfg = g->params.cfg, .rescale = g->params.rescale,
                              .guided = g->guided, .n_adapters = adapters,
                              .strength = strength, .courses = p->courses, .compose = g->params.compose,
                              .every = g->params.every ? g->params.every : 5,
                              .regions = p->regions, .n_regions = p->n_regions, .regions_by = g->params.regions_by, .w = g->lw,
                              .h = g->lh};
    return guide_create(g->prompter, &gp, a, &d->guide, err);
}

static const float *keep(struct arena *a, const float *values, size_t n) {
    if (!values) return NULL;
    float *copy = arena_alloc_n(a, n, sizeof *copy);
    memcpy(copy, values, n * sizeof *copy);
    return copy;
}

/* The encoder's results last until its next picture. */
static void keep_start(const struct generator *g, struct init_start *from, struct arena *a) {
    size_t n = (size_t)latent_values(g), extra = (size_t)(g->lw * g->lh) * (size_t)model_extra_channels(g->e->model);
    from->noise = keep(a, from->noise, n), from->z0 = keep(a, from->z0, n), from->mask = keep(a, from->mask, n);
    from->extra = keep(a, from->extra, extra);
}

/* The sampler at its start, and the stream where the steps' noise begins. */
static bool start(struct generator *g, struct drawing *d, struct arena *a, struct error *err) {
    struct sampler_params sp = {.schedule = g->schedule, .n_steps = g->params.steps, .n_images = 1,
                                .image_floats = (size_t)latent_values(g), .noises = &d->noise, .n_noises = 1,
                                .has_eta = g->params.has_eta, .eta = g->params.eta};
    if (!(d->sampler = sampler_create(g->params.sampler, &sp, err))) return false;
    noise_stream_seed(&d->noise, g->params.noise, d->p->seed);
    if (!init_encoder_start(g->init, d->p->init, g->params.steps, &d->noise, &d->from, err)) return false;
    keep_start(g, &d->from, a);
    if (d->from.first < 0) sampler_start_noise(d->sampler, d->from.noise);
    else sampler_start_image(d->sampler, d->from.z0, d->from.noise, d->from.first);
    if (g->params.noise_delta) noise_stream_seed(&d->noise, g->params.noise, d->p->seed + g->params.noise_delta);
    return true;
}

/* A black picture from a damaged LoRA would look like a result. */
static bool is_finite(const struct generate_picture *p, const char *what, const float *v, int64_t n, struct error *err) {
    int64_t i = 0;
    while (i < n && isfinite(v[i])) i++;
    if (i == n) return true;
    if (p->broken) return *p->broken = true;
    return error_set(err, "The %s of the picture with seed %llu are not numbers: a LoRA or the model is damaged, or a strength "
                          "or --cfg is far too high; --nan names the operator where it begins.", what,
                     (unsigned long long)p->seed);
}

static bool decode(struct generator *g, const struct generate_picture *p, uint8_t *rgb, struct arena *a, struct error *err) {
    float *rows = arena_alloc_n(a, (size_t)latent_values(g), sizeof *rows);
    float *raw = arena_alloc(a, (size_t)g->params.w * (size_t)g->params.h * 3 * sizeof *raw);
    rows_from_chw(g, g->latents, rows);
    if (!open_vae(g, err) || !vae_session_decode(g->vae, rows, rgb, raw, err)) return false;
    trace(p, "image", ST_F32, 3, (int64_t[]){g->params.h, g->params.w, 3}, raw);
    return is_finite(p, "pixels", raw, (int64_t)g->params.w * g->params.h * 3, err);
}

static bool finish(struct generator *g, uint8_t *const *rgb, struct arena *a, struct error *err) {
    for (int k = 0; k < g->n_now; k++) {
        memcpy(g->latents, sampler_x(g->now[k].sampler), (size_t)latent_values(g) * sizeof *g->latents);
        if (!is_finite(g->now[k].p, "latents", g->latents, latent_values(g), err)) return false;
        if (rgb[k] && !decode(g, g->now[k].p, rgb[k], a, err)) return false;
    }
    return true;
}

/* Pictures whose guides go together. Encoding comes before the UNet takes its memory. */
static bool run_together(struct generator *g, const struct generate_progress *progress, uint8_t *const *rgb, struct arena *a,
                         struct error *err) {
    int images = 0;
    bool ok = true;
    if (g->in_turn) vae_session_destroy(&g->vae);
    for (int k = 0; k < g->n_now; k++) {
        g->now[k].at = images, images += g->now[k].guide.images;
        ok = ok && start(g, &g->now[k], a, err);
        assert(!ok || g->now[k].from.first == g->now->from.first);
    }
    init_encoder_rest(g->init);
    ok = ok && shape_unet(g, images, &g->now->guide, err);
    if (ok) {
        tell(g, 0);
        set_shares(g, a);
        set_extra(g, a);
        for (int k = 0; k < g->n_now; k++) trace_text(g, &g->now[k]);
        ok = sample(g, progress, a, err) && finish(g, rgb, a, err);
    }
    for (int k = 0; k < g->n_now; k++) sampler_destroy(&g->now[k].sampler);
    return ok;
}

bool generator_run_batch(struct generator *g, const struct generate_picture *pictures, int n,
                         const struct generate_progress *progress, uint8_t *const *rgb, struct error *err) {
    struct arena *a = arena_create(g->arena);
    struct drawing *all = arena_alloc_n(a, (size_t)n, sizeof *all);
    uint8_t **dst = arena_alloc_n(a, (size_t)n, sizeof *dst);
    bool ok = true;
    for (int i = 0; ok && i < n; i++) {
        all[i].p = &pictures[i];
        ok = make_guide(g, &all[i], a, err);
    }
    g->now = arena_alloc_n(a, (size_t)n, sizeof *g->now);
    for (int first = 0; ok && first < n;) {
        const struct guide *leader = &all[first].guide;
        g->n_now = 0;
        for (; first < n && guide_goes_with(&all[first].guide, leader); first++)
            g->now[g->n_now] = all[first], dst[g->n_now++] = rgb[first];
        ok = run_together(g, progress, dst, a, err);
    }
    g->now = NULL, g->n_now = 0;
    arena_destroy(&a);
    return ok;
}

bool generator_run(struct generator *g, const struct generate_picture *p, const struct generate_progress *progress,
                   uint8_t *rgb, struct error *err) {
    return generator_run_batch(g, p, 1, progress, &rgb, err);
}

void generator_forget_prompts(struct generator *g) { prompter_forget(g->prompter); }
const float *generator_latents(const struct generator *g) { return g->latents; }
int generator_steps(const struct generator *g) { return g->params.steps; }
double generator_first_step_seconds(const struct generator *g) { return g->first_step; }
