/* The UNet as a replayed program: context and strengths stay until changed, latents and times go in per step. */
#include "engine/adapter.h"

struct denoiser {
    struct arena *arena;
    struct engine *e;
    struct denoiser_params params;
    struct lora_binding binding;
    struct gpu_program *prog;
    struct unet_inputs in;
    int output;
};

struct denoiser *denoiser_create(struct engine *e, const struct denoiser_params *p, struct error *err) {
    struct arena *a = arena_create(e->arena);
    struct denoiser *d = arena_alloc(a, sizeof *d);
    d->arena = a, d->e = e, d->params = *p;
    const struct unet_config *cfg = &e->model->unet;
    struct graph *g = graph_create(a, gpu_device_storage(e->dev));
    d->binding.strength = -1;
    if (p->adapter) lora_stack_bind(p->adapter->stack, p->adapter->unet_model, g, "adapter", p->n, &d->binding);
    struct nn_ctx c = nn_begin(g, e->model->unet_params, p->adapter ? &d->binding.hook : NULL, "unet");
    d->in = (struct unet_inputs){.sample = graph_io(g, "sample", (struct shape){p->n, p->h, p->w, cfg->in_channels}),
                                 .timestep = graph_io(g, "timestep", (struct shape){p->n, 1, 1, 1}),
                                 .context = graph_io(g, "context", (struct shape){p->n, 1, p->tokens, cfg->context_dim}),
                                 .added = -1, .time_cond = -1};
    int result = unet_build(&c, cfg, &d->in);
    nn_end(&c);
    d->output = graph_output(g, "prediction", result);
    struct gpu_binding extra = {p->adapter ? p->adapter->stack->set : NULL, SET_DATA, p->adapter ? p->adapter->data : NULL};
    d->prog = engine_program(e, g, "The UNet", ENGINE_UNET, &extra, p->adapter != NULL,
                             "Make the picture smaller with --width and --height, or draw fewer at once.", err);
    if (!d->prog) denoiser_destroy(&d);
    return d;
}

void denoiser_destroy(struct denoiser **p) {
    struct denoiser *d = *p;
    if (!d) return;
    *p = NULL;
    gpu_program_destroy(&d->prog);
    struct arena *a = d->arena;
    arena_destroy(&a);
}

void denoiser_set_context(struct denoiser *d, const float *context) { gpu_program_write(d->prog, d->in.context, context); }

void denoiser_set_strength(struct denoiser *d, const float *strength) {
    if (d->binding.strength < 0) return;
    struct arena *a = arena_create(NULL);
    float *columns = arena_alloc(a, (size_t)d->params.n * (size_t)d->params.adapter->stack->n_columns * sizeof *columns);
    lora_stack_fill_strengths(d->params.adapter->stack, d->params.n, strength, columns);
    gpu_program_write(d->prog, d->binding.strength, columns);
    arena_destroy(&a);
}

bool denoiser_run(struct denoiser *d, const float *x, const float *t, float *out, struct error *err) {
    gpu_program_write(d->prog, d->in.sample, x);
    gpu_program_write(d->prog, d->in.timestep, t);
    if (!gpu_program_run(d->prog, err)) return false;
    gpu_program_read(d->prog, d->output, out);
    return true;
}

struct gpu_program *denoiser_program(struct denoiser *d) { return d->prog; }
