#include "engine/footprint.h"

#include <stdio.h>

#include "lora/stack.h"
#include "textenc/clip_build.h"
#include "unet/build.h"
#include "vae/build.h"

static int64_t set_bytes(const struct tensor_set *s) {
    int64_t n = 0;
    for (int i = 0; i < s->n_chunks; i++) n += s->chunk_texels[i] * (int64_t)tensor_texel_bytes(s->dtype);
    return n;
}

static bool measure(struct gpu_device *dev, struct graph *g, bool no_prepare, struct footprint *out, struct error *err) {
    struct gpu_program_params p = {.name = "The plan", .no_prepare = no_prepare};
    struct gpu_memory_use use;
    graph_prune(g);
    if (!graph_ok(g, err) || !gpu_program_measure(dev, g, &p, &use, err)) return false;
    out->activations = use.activations, out->io = use.io, out->prepared = use.prepared, out->live_peak = use.live_peak;
    snprintf(out->peak, sizeof out->peak, "%s at %s", use.peak_op, use.peak_label);
    out->flops = gpu_graph_flops(g);
    return true;
}

static bool add_layers(struct lora_stack *stack, const struct nn_target_list *targets, const struct footprint_params *p,
                       struct error *err) {
    struct rng rng;
    rng_seed(&rng, 1);
    int model = lora_stack_model(stack, "unet", targets);
    lora_stack_adapter(stack);
    for (int i = 0; i < targets->n; i++)
        if (lora_selection_has(p->targets, targets->items[i].path) &&
            !lora_stack_add_new(stack, 0, model, targets->items[i].path, p->rank, (float)p->rank, &rng, err))
            return false;
    return lora_stack_seal(stack, err);
}

static int build_unet(struct graph *g, struct nn_params *params, const struct nn_hook *hook, const struct unet_config *cfg,
                      const struct footprint_params *p) {
    struct shape row = {p->n, 1, 1, 1}, added = {p->n, 1, 1, cfg->added_dim}, cond = {p->n, 1, 1, cfg->time_cond_dim};
    struct unet_inputs in = {.sample = graph_io(g, "sample", (struct shape){p->n, p->h, p->w, cfg->in_channels}),
                             .timestep = graph_io(g, "timestep", row),
                             .context = graph_io(g, "context", (struct shape){p->n, 1, p->tokens, cfg->context_dim}),
                             .added = cfg->added_dim ? graph_io(g, "added", added) : -1,
                             .time_cond = cfg->time_cond_dim ? graph_io(g, "time_cond", cond) : -1};
    struct nn_ctx c = nn_begin(g, params, hook, "unet");
    int y = unet_build(&c, cfg, &in);
    nn_end(&c);
    return y;
}

static bool plan_step(struct arena *a, struct gpu_device *dev, struct nn_params *params, const struct nn_target_list *targets,
                      const struct unet_config *cfg, const struct footprint_params *p, struct footprint *out,
                      struct error *err) {
    struct graph *g = graph_create(a, gpu_device_storage(dev));
    struct lora_binding binding = {.strength = -1};
    struct lora_stack *stack = NULL;
    if (p->train) {
        stack = lora_stack_create(a, "The LoRA", TENSOR_F32, true, gpu_device_max_chunk(dev));
        if (!add_layers(stack, targets, p, err)) return false;
        lora_stack_bind(stack, 0, g, "adapter", p->n, &binding);
        out->adapter = out->gradients = set_bytes(stack->set), out->moments = 2 * out->adapter;
    }
    int y = build_unet(g, params, stack ? &binding.hook : NULL, cfg, p);
    if (!p->train) {
        graph_output(g, "prediction", y);
        return measure(dev, g, p->no_prepare, out, err);
    }
    int target = graph_io(g, "target", (struct shape){p->n, p->h, p->w, cfg->out_channels});
    int seed = graph_io(g, "seed", (struct shape){p->n, 1, 1, 1}), loss = graph_mse(g, y, target);
    graph_output(g, "loss", loss);
    if (!graph_ok(g, err) || !graph_grad(g, loss, seed, err)) return false;
    graph_prune(g);
    return (!p->remat || graph_remat(g, err)) && measure(dev, g, p->no_prepare, out, err);
}

bool footprint_unet(struct gpu_device *dev, const struct unet_config *cfg, const struct footprint_params *p,
                    struct footprint *out, struct error *err) {
    struct arena *a = arena_create(NULL);
    *out = (struct footprint){0};
    struct nn_target_list targets = {.arena = a};
    enum tensor_dtype storage = p->weights == TENSOR_F32 ? TENSOR_F32 : gpu_device_storage(dev);
    struct nn_params *params = nn_params_create(a, "The UNet", storage, false, gpu_device_max_chunk(dev));
    if (p->weights != storage) tensor_set_narrow(params->set, p->weights, TENSOR_NARROW_LEAST);
    bool ok = unet_declare(params, cfg, &targets, err);
    if (ok) {
        nn_params_seal(params);
        out->weights = set_bytes(params->set);
        ok = plan_step(a, dev, params, &targets, cfg, p, out, err);
    }
    arena_destroy(&a);
    return ok;
}

bool footprint_vae(struct gpu_device *dev, const struct vae_config *cfg, bool encoder, bool f32, int w, int h,
                   struct footprint *out, struct error *err) {
    struct arena *a = arena_create(NULL);
    *out = (struct footprint){0};
    enum tensor_dtype dtype = f32 ? TENSOR_F32 : gpu_device_storage(dev);
    struct nn_params *params = nn_params_create(a, "The VAE", gpu_device_storage(dev), false, gpu_device_max_chunk(dev));
    bool ok = vae_declare(params, cfg, err);
    if (ok) {
        nn_params_seal(params);
        out->weights = set_bytes(params->set);
        struct graph *g = graph_create(a, dtype);
        int f = vae_config_factor(cfg);
        struct shape in =
            encoder ? (struct shape){1, h, w, cfg->in_channels} : (struct shape){1, h / f, w / f, cfg->latent_channels};
        struct nn_ctx c = nn_begin(g, params, NULL, "vae");
        int x = graph_io(g, "input", in), y = encoder ? vae_build_encoder(&c, cfg, x) : vae_build_decoder(&c, cfg, x);
        nn_end(&c);
        graph_output(g, "output", y);
        ok = measure(dev, g, true, out, err);
    }
    arena_destroy(&a);
    return ok;
}

bool footprint_text(struct gpu_device *dev, const struct clip_config *cfg, int n, int tokens, struct footprint *out,
                    struct error *err) {
    struct arena *a = arena_create(NULL);
    *out = (struct footprint){0};
    struct nn_params *params =
        nn_params_create(a, "The text encoder", gpu_device_storage(dev), false, gpu_device_max_chunk(dev));
    bool ok = clip_declare(params, cfg, NULL, err);
    if (ok) {
        nn_params_seal(params);
        out->weights = set_bytes(params->set);
        struct graph *g = graph_create(a, gpu_device_storage(dev));
        struct nn_ctx c = nn_begin(g, params, NULL, "text_encoder");
        struct clip_inputs in = {graph_io(g, "ids", (struct shape){n, 1, tokens, 1}), -1};
        struct clip_params cp = {0};
        struct clip_outputs result = {-1, -1};
        clip_build(&c, cfg, &in, &cp, &result);
        nn_end(&c);
        graph_output(g, "embedding", result.hidden);
        ok = measure(dev, g, true, out, err);
    }
    arena_destroy(&a);
    return ok;
}
