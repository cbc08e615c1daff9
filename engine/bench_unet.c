/* The UNet of Stable Diffusion 1.5 with random weights: one prediction, one LoRA training step. */
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "engine/bench.h"
#include "lora/select.h"
#include "lora/stack.h"

struct unet_config bench_unet_sd15(void) {
    static const int channels[] = {320, 640, 1280, 1280};
    struct unet_config c = {.in_channels = 4, .out_channels = 4, .sample_h = 64, .sample_w = 64, .n_levels = 4,
                            .mid = UNET_MID_CROSS, .mid_scale = 1,
                            .mid_stage = {.channels = 1280, .layers = 1, .attention = true, .heads = 8, .depth = {1}},
                            .norm_groups = 32, .norm_eps = 1e-5f, .context_dim = 768, .flip_sin_to_cos = true, .time_dim = 1280,
                            .conv_in_kernel = 3, .conv_out_kernel = 3, .downsample_padding = 1};
    for (int i = 0; i < 4; i++) {
        struct unet_stage s = {.channels = channels[i], .layers = 2, .attention = i < 3, .heads = 8, .depth = {1, 1}};
        c.down[i] = s;
        s.layers = 3, s.depth[2] = 1;
        c.up[3 - i] = s;
    }
    return c;
}

enum { TOKENS = 77, RANK = 8, BANKS = 4 };

/* Everything of one run, released in one place. */
struct rig {
    struct arena *arena;
    struct gpu_device *dev;
    struct nn_params *params;
    struct nn_target_list targets;
    struct gpu_set *weights, *banks[BANKS]; /* the adapter's data, gradients, moments */
    struct lora_stack *stack;
    struct lora_binding binding;
    struct graph *g, *update;
    struct gpu_program *step, *optimiser;
    int hyper, rates[16]; /* inputs of the update; rates per chunk */
};

static void rig_close(struct rig *r) {
    gpu_program_destroy(&r->step);
    gpu_program_destroy(&r->optimiser);
    for (int i = 0; i < BANKS; i++) gpu_set_destroy(&r->banks[i]);
    gpu_set_destroy(&r->weights);
    arena_destroy(&r->arena);
}

static bool rig_open(struct rig *r, struct gpu_device *dev, const struct unet_config *cfg, enum tensor_dtype weights,
                     struct error *err) {
    *r = (struct rig){.arena = arena_create(NULL), .dev = dev, .binding = {.strength = -1}};
    r->targets.arena = r->arena;
    enum tensor_dtype storage = weights == TENSOR_F32 ? TENSOR_F32 : gpu_device_storage(dev);
    r->params = nn_params_create(r->arena, "The UNet", storage, false, gpu_device_max_chunk(dev));
    if (weights != storage) tensor_set_narrow(r->params->set, weights, TENSOR_NARROW_LEAST);
    if (!unet_declare(r->params, cfg, &r->targets, err)) return false;
    nn_params_seal(r->params);
    return (r->weights = gpu_set_create(dev, r->params->set, SET_DATA, err)) &&
           bench_fill_random(r->weights, r->params->set, err);
}

static int build_unet(struct rig *r, const struct unet_config *cfg, int side, int *inputs) {
    struct graph *g = r->g;
    struct nn_ctx c = nn_begin(g, r->params, r->stack ? &r->binding.hook : NULL, "unet");
    struct unet_inputs in = {.sample = graph_io(g, "sample", (struct shape){1, side, side, cfg->in_channels}),
                             .timestep = graph_io(g, "timestep", (struct shape){1, 1, 1, 1}),
                             .context = graph_io(g, "context", (struct shape){1, 1, TOKENS, cfg->context_dim}), .added = -1,
                             .time_cond = -1};
    inputs[0] = in.sample, inputs[1] = in.timestep, inputs[2] = in.context;
    int y = unet_build(&c, cfg, &in);
    nn_end(&c);
    return y;
}

static void write_random(struct gpu_program *prog, const struct graph *g, int value) {
    int64_t n = shape_elems(graph_shape(g, value));
    float *data = calloc((size_t)n, sizeof *data);
    if (!data) return; /* zeros are there already */
    uint32_t s = 11;
    for (int64_t i = 0; i < n; i++) data[i] = (float)((s = s * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1;
    gpu_program_write(prog, value, data);
    free(data);
}

static void write_inputs(struct rig *r, const int *inputs) {
    float t = 500;
    write_random(r->step, r->g, inputs[0]);
    gpu_program_write(r->step, inputs[1], &t);
    write_random(r->step, r->g, inputs[2]);
}

static void report(struct rig *r, struct bench_unet_result *out) {
    struct gpu_memory_use use = gpu_program_memory(r->step);
    out->n_shares = bench_shares(r->step, out->shares, (int)(sizeof out->shares / sizeof *out->shares));
    out->peak_bytes = gpu_device_memory_peak(r->dev);
    out->activation_bytes = use.activations + use.io;
    out->prepared_bytes = use.prepared;
    out->weight_bytes = gpu_set_bytes(r->weights);
    out->n_weights = nn_params_count(r->params);
    for (int i = 0; i < out->n_shares; i++) out->time.flops += out->shares[i].flops;
}

bool bench_unet_forward(struct gpu_device *dev, const struct unet_config *cfg, const struct bench_unet_params *bp,
                        struct bench_unet_result *out, struct error *err) {
    struct rig r;
    int inputs[3];
    *out = (struct bench_unet_result){0};
    bool ok = rig_open(&r, dev, cfg, bp->weights, err);
    if (ok) {
        r.g = graph_create(r.arena, gpu_device_storage(dev));
        int y = build_unet(&r, cfg, bp->side, inputs);
        graph_output(r.g, "prediction", y);
        graph_prune(r.g);
        struct gpu_binding b = {r.params->set, SET_DATA, r.weights};
        struct gpu_program_params p = {.name = "The UNet", .bindings = &b, .n_bindings = 1, .profile = true,
                                       .no_prepare = bp->no_prepare};
        ok = graph_ok(r.g, err) && (r.step = gpu_program_create(dev, r.g, &p, err));
    }
    if (ok) write_inputs(&r, inputs);
    ok = ok && bench_time_program(r.step, bp->runs, &out->time, err);
    if (ok) report(&r, out);
    rig_close(&r);
    return ok;
}

/* ---- Training ---- */

static bool add_adapter(struct rig *r, struct error *err) {
    struct rng rng;
    rng_seed(&rng, 1);
    r->stack = lora_stack_create(r->arena, "The LoRA", TENSOR_F32, true, gpu_device_max_chunk(r->dev));
    int model = lora_stack_model(r->stack, "unet", &r->targets);
    lora_stack_adapter(r->stack);
    for (int i = 0; i < r->targets.n; i++)
        if (lora_selection_has(LORA_SELECT_ATTN, r->targets.items[i].path) &&
            !lora_stack_add_new(r->stack, 0, model, r->targets.items[i].path, RANK, RANK, &rng, err))
            return false;
    if (!lora_stack_seal(r->stack, err)) return false;
    static const enum set_bank banks[BANKS] = {SET_DATA, SET_GRAD, SET_MOMENT1, SET_MOMENT2};
    for (int i = 0; i < BANKS; i++)
        if (!(r->banks[i] = gpu_set_create(r->dev, r->stack->set, banks[i], err))) return false;
    return bench_fill_random(r->banks[0], r->stack->set, err);
}

static int append(struct graph *g, enum op op, const int *in, int n_in) {
    int node = graph_append(g, op, in, n_in, (union op_attr){0});
    return node < 0 ? -1 : g->nodes[node].out[0];
}

static bool build_update(struct rig *r, struct error *err) {
    struct tensor_set *set = r->stack->set;
    struct graph *g = r->update = graph_create(r->arena, TENSOR_F32);
    r->hyper = graph_io(g, "hyper", (struct shape){1, 1, 1, OPTIMISE_HYPER});
    int total = -1;
    for (int i = 0; i < set->n_chunks; i++)
        total = append(g, OP_SUM_SQUARES, (int[]){graph_flat(g, set, SET_GRAD, i), total}, 2);
    graph_output(g, "gradient norm", total);
    for (int i = 0; i < set->n_chunks; i++) {
        int param = graph_flat(g, set, SET_DATA, i);
        int64_t rates = (shape_rows(graph_shape(g, param)) + OPTIMISE_RATE_TEXELS - 1) / OPTIMISE_RATE_TEXELS;
        r->rates[i] = graph_io(g, "rates", (struct shape){1, 1, 1, (int)rates});
        append(g, OP_ADAMW, (int[]){param, graph_flat(g, set, SET_GRAD, i), graph_flat(g, set, SET_MOMENT1, i),
                                    graph_flat(g, set, SET_MOMENT2, i), r->hyper, r->rates[i]}, 6);
    }
    return graph_ok(g, err);
}

static bool build_training(struct rig *r, const struct unet_config *cfg, int side, bool remat, int *inputs, int *target,
                           int *seed, struct error *err) {
    r->g = graph_create(r->arena, gpu_device_storage(r->dev));
    lora_stack_bind(r->stack, 0, r->g, "adapter", 1, &r->binding);
    int y = build_unet(r, cfg, side, inputs);
    *target = graph_io(r->g, "target", (struct shape){1, side, side, cfg->out_channels});
    *seed = graph_io(r->g, "seed", (struct shape){1, 1, 1, 1});
    int loss = graph_mse(r->g, y, *target);
    graph_output(r->g, "loss", loss);
    if (!graph_ok(r->g, err) || !graph_grad(r->g, loss, *seed, err)) return false;
    graph_prune(r->g);
    return (!remat || graph_remat(r->g, err)) && build_update(r, err);
}

static bool open_training(struct rig *r, bool no_prepare, struct error *err) {
    struct tensor_set *set = r->stack->set;
    struct gpu_binding b[] = {{r->params->set, SET_DATA, r->weights}, {set, SET_DATA, r->banks[0]},
                              {set, SET_GRAD, r->banks[1]}, {set, SET_MOMENT1, r->banks[2]}, {set, SET_MOMENT2, r->banks[3]}};
    struct gpu_program_params p = {.name = "The training step", .bindings = b, .n_bindings = 5, .profile = true,
                                   .no_prepare = no_prepare};
    if (!(r->step = gpu_program_create(r->dev, r->g, &p, err))) return false;
    p.name = "The optimiser";
    return (r->optimiser = gpu_program_create(r->dev, r->update, &p, err)) != NULL;
}

static bool time_steps(struct rig *r, int runs, struct bench_result *out, struct error *err) {
    out->best = 1e30;
    for (int i = 0; i <= runs; i++) {
        double start = os_now_seconds();
        if (!gpu_program_run(r->step, err) || !gpu_program_run(r->optimiser, err)) return false;
        double seconds = os_now_seconds() - start;
        if (os_interrupted()) return error_set(err, "Stopped.");
        if (i > 0 && seconds < out->best) out->best = seconds;
        out->median = out->best;
    }
    out->runs = runs;
    return true;
}

static void write_rates(struct rig *r) {
    for (int i = 0; i < r->stack->set->n_chunks; i++) {
        int n = graph_shape(r->update, r->rates[i]).c;
        float *ones = arena_alloc_n(r->arena, (size_t)n, sizeof *ones);
        for (int k = 0; k < n; k++) ones[k] = 1;
        gpu_program_write(r->optimiser, r->rates[i], ones);
    }
}

bool bench_unet_train(struct gpu_device *dev, const struct unet_config *cfg, const struct bench_unet_params *bp,
                      struct bench_unet_result *out, struct error *err) {
    struct rig r;
    int inputs[3], target, seed;
    *out = (struct bench_unet_result){0};
    bool ok = rig_open(&r, dev, cfg, bp->weights, err) && add_adapter(&r, err) &&
              build_training(&r, cfg, bp->side, bp->remat, inputs, &target, &seed, err) &&
              open_training(&r, bp->no_prepare, err);
    if (ok) {
        /* Rate, decay, scale of the gradient, betas, eps, bias corrections, -, -, 1 - betas (graph/ops.def). */
        const float one = 1, hyper[OPTIMISE_HYPER] = {1e-4f, 1e-2f, 1, 0.9f, 0.999f, 1e-8f, 10, 1000, 0, 0, 0.1f, 0.001f};
        float *columns = arena_alloc_n(r.arena, (size_t)r.stack->n_columns, sizeof *columns);
        write_inputs(&r, inputs);
        write_random(r.step, r.g, target);
        gpu_program_write(r.step, seed, &one);
        lora_stack_fill_strengths(r.stack, 1, &one, columns);
        gpu_program_write(r.step, r.binding.strength, columns);
        gpu_program_write(r.optimiser, r.hyper, hyper);
        write_rates(&r);
        ok = time_steps(&r, bp->runs, &out->time, err);
    }
    if (ok) report(&r, out);
    rig_close(&r);
    return ok;
}
