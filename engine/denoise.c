/* The UNet as a replayed program: context and strengths stay until changed, latents and times go in per step. */
#include "engine/adapter.h"
#include "engine/memory.h"

#include <assert.h>
#include <string.h>

struct denoiser {
    struct arena *arena;
    struct engine *e;
    struct denoiser_params params;
    struct lora_binding binding;
    struct gpu_program *prog;
    struct unet_inputs in;
    int output;
    float *rows;      /* inpainting: latents and extra channels joined; else NULL */
    float *added;     /* [n][added_dim] */
    float *time_cond; /* [n][time_cond_dim] */
};

/* A tape of the UNet in d->arena. */
static struct graph *build(struct engine *e, const struct denoiser_params *p, struct denoiser *d) {
    d->e = e, d->params = *p;
    const struct unet_config *cfg = &e->model->unet;
    struct graph *g = graph_create(d->arena, gpu_device_storage(e->dev));
    d->binding.strength = -1;
    if (p->adapter) lora_stack_bind(p->adapter->stack, p->adapter->models[LORA_UNET], g, "adapter", p->n, &d->binding);
    struct nn_ctx c = nn_begin(g, e->model->unet_params, p->adapter ? &d->binding.hook : NULL, "unet");
    struct shape vector = {p->n, 1, 1, 1};
    d->in = (struct unet_inputs){.sample = graph_io(g, "sample", (struct shape){p->n, p->h, p->w, cfg->in_channels}),
                                 .timestep = graph_io(g, "timestep", vector),
                                 .context = graph_io(g, "context", (struct shape){p->n, 1, p->tokens, cfg->context_dim}),
                                 .added = -1, .time_cond = -1};
    if (cfg->added_dim) vector.c = cfg->added_dim, d->in.added = graph_io(g, "added", vector);
    if (cfg->time_cond_dim) vector.c = cfg->time_cond_dim, d->in.time_cond = graph_io(g, "time_cond", vector);
    int result = unet_build(&c, cfg, &d->in);
    nn_end(&c);
    d->output = graph_output(g, "prediction", result);
    return g;
}

static const char unet_hint[] = "Make the picture smaller with --width and --height, draw fewer at once, or allow more with --memory.";

bool denoiser_plan(struct engine *e, const struct denoiser_params *p, struct memory_choice *out, struct error *err) {
    struct denoiser d = {.arena = arena_create(NULL)};
    struct graph *g = build(e, p, &d);
    bool ok = graph_ok(g, err);
    if (ok) graph_prune(g);
    ok = ok && memory_choose(e, g, ENGINE_UNET, memory_left(e, ENGINE_UNET), "The UNet", unet_hint, out, err);
    arena_destroy(&d.arena);
    return ok;
}

double denoiser_flops(struct engine *e, const struct denoiser_params *p) {
    struct denoiser d = {.arena = arena_create(NULL)};
    double flops = gpu_graph_flops(build(e, p, &d));
    arena_destroy(&d.arena);
    return flops;
}

struct denoiser *denoiser_create(struct engine *e, const struct denoiser_params *p, struct error *err) {
    struct arena *a = arena_create(e->arena);
    struct denoiser *d = arena_alloc(a, sizeof *d);
    d->arena = a;
    struct graph *g = build(e, p, d);
    const struct unet_config *cfg = &e->model->unet;
    struct gpu_binding extra = {.bank = SET_DATA};
    if (p->adapter) extra.set = p->adapter->stack->set, extra.data = p->adapter_data ? p->adapter_data : p->adapter->data;
    d->prog = engine_program(e, g, "The UNet", ENGINE_UNET, &extra, p->adapter != NULL,
                             unet_hint, err);
    if (!d->prog) {
        denoiser_destroy(&d);
        return NULL;
    }
    memory_pin(e, ENGINE_UNET);
    size_t pixels = (size_t)p->n * (size_t)p->h * (size_t)p->w;
    if (model_extra_channels(e->model)) d->rows = arena_alloc_n(a, pixels * (size_t)cfg->in_channels, sizeof(float));
    d->added = arena_alloc_n(a, (size_t)p->n, ((size_t)cfg->added_dim + 1) * sizeof(float));
    d->time_cond = arena_alloc_n(a, (size_t)p->n, ((size_t)cfg->time_cond_dim + 1) * sizeof(float));
    denoiser_set_guidance(d, 1);
    return d;
}

void denoiser_destroy(struct denoiser **p) {
    struct denoiser *d = *p;
    if (!d) return;
    *p = NULL;
    if (d->prog) memory_unpin(d->e, ENGINE_UNET);
    gpu_program_destroy(&d->prog);
    struct arena *a = d->arena;
    arena_destroy(&a);
}

void denoiser_set_context(struct denoiser *d, const float *context) { gpu_program_write(d->prog, d->in.context, context); }

void denoiser_set_strength(struct denoiser *d, const float *strength) {
    if (d->binding.strength < 0) return;
    struct arena *a = arena_create(NULL);
    float *columns = arena_alloc(a, (size_t)d->params.n * (size_t)d->params.adapter->stack->n_columns * sizeof *columns);
    adapter_fill(d->params.adapter, d->params.n, strength, columns);
    gpu_program_write(d->prog, d->binding.strength, columns);
    arena_destroy(&a);
}

void denoiser_set_added(struct denoiser *d, const float *pooled, const float *time_ids) {
    const struct unet_config *cfg = &d->e->model->unet;
    int n_pooled = model_pooled_dim(d->e->model);
    struct error none;
    if (d->in.added < 0) return;
    for (int i = 0; i < d->params.n; i++) {
        bool fits = unet_added_fill(cfg, pooled + i * n_pooled, n_pooled, time_ids + i * 6, 6, d->added + i * cfg->added_dim, &none);
        assert(fits); /* model_configs_check */
        (void)fits;
    }
    gpu_program_write(d->prog, d->in.added, d->added);
}

void denoiser_write_added(struct denoiser *d, const float *added) {
    if (d->in.added >= 0) gpu_program_write(d->prog, d->in.added, added);
}

void denoiser_set_guidance(struct denoiser *d, float cfg) {
    int width = d->e->model->unet.time_cond_dim;
    if (d->in.time_cond < 0) return;
    for (int i = 0; i < d->params.n; i++) unet_guidance_fill(cfg, width, d->time_cond + i * width);
    gpu_program_write(d->prog, d->in.time_cond, d->time_cond);
}

/* Copies `width` numbers of each pixel between rows of different width. */
static void place(float *dst, int dst_width, const float *src, int src_width, int width, int pixels) {
    for (int i = 0; i < pixels; i++) memcpy(dst + (size_t)i * (size_t)dst_width, src + (size_t)i * (size_t)src_width, (size_t)width * sizeof *dst);
}

void denoiser_set_extra(struct denoiser *d, const float *extra) {
    const struct model *m = d->e->model;
    int n = model_extra_channels(m);
    if (n) place(d->rows + m->vae.latent_channels, m->unet.in_channels, extra, n, n, d->params.n * d->params.h * d->params.w);
}

bool denoiser_run(struct denoiser *d, const float *x, const float *t, float *out, struct error *err) {
    int latent = d->e->model->vae.latent_channels;
    if (d->rows) place(d->rows, d->e->model->unet.in_channels, x, latent, latent, d->params.n * d->params.h * d->params.w);
    gpu_program_write(d->prog, d->in.sample, d->rows ? d->rows : x);
    gpu_program_write(d->prog, d->in.timestep, t);
    if (!gpu_program_run(d->prog, err)) return false;
    gpu_program_read(d->prog, d->output, out);
    return true;
}

struct gpu_program *denoiser_program(struct denoiser *d) { return d->prog; }
