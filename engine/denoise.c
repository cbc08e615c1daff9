/* The UNet as a replayed program: context and strengths stay until changed, latents and times go in per step. */
#include "engine/adapter.h"
#include "engine/memory.h"
#include "engine/watch.h"

#include <assert.h>
#include <string.h>

#include "diffusion/area_resize.h"

enum { MAX_SHARES = UNET_MAX_LEVELS + 1 };

struct denoiser {
    struct arena *arena;
    struct engine *e;
    struct denoiser_params params;
    struct lora_binding binding;
    struct gpu_program *prog;
    struct unet_inputs in;
    /* Regions only. Numbers come in texels of four, so that parts do too. */
    int padded; /* parts */
    struct unet_part parts[UNET_MAX_PARTS];
    struct lora_binding part_bindings[UNET_MAX_PARTS]; /* of the layers that read a part's context */
    int shares[MAX_SHARES], n_shares; /* the levels', and 1x1 */
    int output;
    float *rows;      /* inpainting: latents and extra channels joined; else NULL */
    float *added;     /* [n][added_dim] */
    float *time_cond; /* [n][time_cond_dim] */
};

static int context_io(struct graph *g, const struct denoiser *d, const char *label) {
    return graph_io(g, label, (struct shape){d->params.n, 1, d->params.tokens, d->e->model->unet.context_dim});
}

static void add_share(struct graph *g, struct denoiser *d, int w, int h) {
    size_t mark = graph_push(g, "shares_%dx%d", w, h);
    d->shares[d->n_shares++] = graph_io(g, g->prefix, (struct shape){d->params.n, h, w, d->padded});
    graph_pop(g, mark);
}

/* Every part's context, the shares at the size of every level, and bindings for the layers that read a part's context. */
static void build_parts(struct graph *g, struct denoiser *d) {
    const struct denoiser_params *p = &d->params;
    const struct unet_config *cfg = &d->e->model->unet;
    assert(p->n_parts <= UNET_MAX_PARTS);
    d->padded = (p->n_parts + 3) / 4 * 4;
    for (int i = 0; i < cfg->n_levels; i++) {
        int w = p->w, h = p->h;
        unet_level_size(cfg, i, &w, &h);
        add_share(g, d, w, h);
        d->in.shares[i] = d->shares[i];
    }
    add_share(g, d, 1, 1);
    for (int i = 0; i < p->n_parts; i++) {
        size_t mark = graph_push(g, "part_%d", i);
        d->parts[i].context = i ? context_io(g, d, g->prefix) : d->in.context;
        graph_pop(g, mark);
        if (!p->part_strengths) continue;
        mark = graph_push(g, "adapter_%d", i);
        lora_stack_bind(p->adapter->stack, p->adapter->models[LORA_UNET], g, g->prefix, p->n, &d->part_bindings[i]);
        graph_pop(g, mark);
        d->parts[i].hook = &d->part_bindings[i].hook;
    }
    d->in.parts = d->parts, d->in.n_parts = p->n_parts;
}

static void bind_adapter(struct graph *g, struct denoiser *d) {
    const struct denoiser_params *p = &d->params;
    d->binding.strength = -1;
    if (!p->adapter) return;
    const struct lora_stack *stack = p->adapter->stack;
    int model = p->adapter->models[LORA_UNET];
    if (p->part_strengths) lora_stack_bind_regions(stack, model, g, "adapter", d->padded, d->shares, d->n_shares, &d->binding);
    else lora_stack_bind(stack, model, g, "adapter", p->n, &d->binding);
}

/* A tape of the UNet in d->arena. */
static struct graph *build(struct engine *e, const struct denoiser_params *p, struct denoiser *d) {
    d->e = e, d->params = *p;
    if (d->params.n_parts < 2) d->params.n_parts = 1;
    d->params.part_strengths = p->part_strengths && p->adapter && d->params.n_parts > 1;
    const struct unet_config *cfg = &e->model->unet;
    struct graph *g = graph_create(d->arena, gpu_device_storage(e->dev));
    struct shape vector = {p->n, 1, 1, 1};
    d->in = (struct unet_inputs){.sample = graph_io(g, "sample", (struct shape){p->n, p->h, p->w, cfg->in_channels}),
                                 .timestep = graph_io(g, "timestep", vector),
                                 .context = context_io(g, d, "context"), .added = -1, .time_cond = -1};
    if (cfg->added_dim) vector.c = cfg->added_dim, d->in.added = graph_io(g, "added", vector);
    if (cfg->time_cond_dim) vector.c = cfg->time_cond_dim, d->in.time_cond = graph_io(g, "time_cond", vector);
    if (d->params.n_parts > 1) build_parts(g, d);
    bind_adapter(g, d);
    const struct nn_hook *hook = p->adapter ? &d->binding.hook : NULL;
    assert(!p->watch || d->params.n_parts == 1);
    if (p->watch) hook = watch_begin(p->watch, hook);
    struct nn_ctx c = nn_begin(g, e->model->unet_params, hook, "unet");
    int result = unet_build(&c, cfg, &d->in);
    nn_end(&c);
    d->output = graph_output(g, "prediction", result);
    return g;
}

static const char unet_hint[] =
    "Make the picture smaller with --width and --height, draw fewer at once, or allow more with --memory.";

bool denoiser_plan(struct engine *e, const struct denoiser_params *p, struct memory_choice *out, struct error *err) {
    struct denoiser d = {.arena = arena_create(NULL)};
    struct graph *g = build(e, p, &d);
    bool ok = engine_graph_ok(g, "The UNet", unet_hint, err);
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

void denoiser_set_context(struct denoiser *d, const float *context) {
    const struct denoiser_params *p = &d->params;
    size_t values = (size_t)p->n * (size_t)p->tokens * (size_t)d->e->model->unet.context_dim;
    gpu_program_write(d->prog, d->in.context, context);
    for (int i = 1; i < p->n_parts; i++) gpu_program_write(d->prog, d->parts[i].context, context + (size_t)i * values);
}

/* The parts' rows, then each part's row again for every picture that reads its context. */
static void write_part_strengths(struct denoiser *d, const float *strength, struct arena *a) {
    const struct adapter *ad = d->params.adapter;
    size_t n = (size_t)ad->stack->n_columns, pictures = (size_t)d->params.n;
    float *rows = arena_alloc_n(a, (size_t)d->padded * n, sizeof *rows), *own = arena_alloc_n(a, pictures * n, sizeof *own);
    adapter_fill(ad, d->params.n_parts, strength, rows);
    gpu_program_write(d->prog, d->binding.strength, rows);
    for (int i = 0; i < d->params.n_parts; i++) {
        for (size_t k = 0; k < pictures; k++) memcpy(own + k * n, rows + (size_t)i * n, n * sizeof *own);
        gpu_program_write(d->prog, d->part_bindings[i].strength, own);
    }
}

void denoiser_set_strength(struct denoiser *d, const float *strength) {
    if (d->binding.strength < 0) return;
    struct arena *a = arena_create(NULL);
    if (d->params.part_strengths) write_part_strengths(d, strength, a);
    else {
        float *columns = arena_alloc(a, (size_t)d->params.n * (size_t)d->params.adapter->stack->n_columns * sizeof *columns);
        adapter_fill(d->params.adapter, d->params.n, strength, columns);
        gpu_program_write(d->prog, d->binding.strength, columns);
    }
    arena_destroy(&a);
}

void denoiser_set_shares(struct denoiser *d, const float *shares) {
    const struct denoiser_params *p = &d->params;
    struct arena *a = arena_create(NULL);
    size_t whole = (size_t)p->w * (size_t)p->h, padded = (size_t)d->padded;
    float *one = arena_alloc_n(a, whole, sizeof *one), *rows = arena_alloc_n(a, (size_t)p->n * whole * padded, sizeof *rows);
    for (int s = 0; s < d->n_shares; s++) {
        int w = s + 1 < d->n_shares ? p->w : 1, h = s + 1 < d->n_shares ? p->h : 1;
        unet_level_size(&d->e->model->unet, s + 1 < d->n_shares ? s : 0, &w, &h);
        size_t pixels = (size_t)w * (size_t)h;
        for (size_t i = 0; i < (size_t)(p->n * p->n_parts); i++) {
            size_t image = i / (size_t)p->n_parts, part = i % (size_t)p->n_parts;
            area_resize(one, w, h, shares + i * whole, p->w, p->h);
            for (size_t k = 0; k < pixels; k++) rows[(image * pixels + k) * padded + part] = one[k];
        }
        gpu_program_write(d->prog, d->shares[s], rows);
    }
    arena_destroy(&a);
}

void denoiser_set_added(struct denoiser *d, const float *pooled, const float *time_ids) {
    const struct unet_config *cfg = &d->e->model->unet;
    int n_pooled = model_pooled_dim(d->e->model);
    struct error none;
    if (d->in.added < 0) return;
    for (int i = 0; i < d->params.n; i++) {
        bool fits =
            unet_added_fill(cfg, pooled + i * n_pooled, n_pooled, time_ids + i * 6, 6, d->added + i * cfg->added_dim, &none);
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
    for (int i = 0; i < pixels; i++)
        memcpy(dst + (size_t)i * (size_t)dst_width, src + (size_t)i * (size_t)src_width, (size_t)width * sizeof *dst);
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
    if (d->params.watch) watch_read(d->params.watch, d->prog);
    return true;
}

struct gpu_program *denoiser_program(struct denoiser *d) { return d->prog; }
