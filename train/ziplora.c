#include "train/ziplora.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "lora/stack.h"
#include "train/optimiser.h"

/* A layer that several LoRAs change. */
struct layer {
    const struct nn_target *target;
    int *slots; /* [n]: of a LoRA's m, or -1 */
};
struct hook {
    struct ziplora *z;
    struct lora_binding *bindings; /* [n] */
    struct nn_hook hook;
};
struct ziplora {
    struct arena *arena;
    struct engine *e;
    struct ziplora_params params;
    struct tensor_set *set;
    struct layer *layers;
    int n_layers;
    struct hook hook;
    struct graph *g;
    struct unet_inputs in;
    int target, seed, loss;
    int *strengths; /* [n]: inputs */
    struct gpu_program *prog;
    struct gpu_set *data, *grad;
    struct memory_choice memory;
    bool pinned;
    struct optimiser *optimiser;
    float loss_scale;
    float **values, **grads; /* [chunks]: the set's banks, as the device keeps them */
};

/* ---- Layers ---- */

static bool changes(const struct adapter *ad, const char *path) {
    int model = ad->models[LORA_UNET];
    for (int i = 0; i < ad->stack->n_layers; i++) {
        const struct lora_stack_layer *l = &ad->stack->layers[i];
        if (l->model == model && !l->target->is_norm && strcmp(l->target->path, path) == 0) return true;
    }
    return false;
}

static void find_layers(struct ziplora *z) {
    const struct ziplora_params *p = &z->params;
    const struct nn_target_list *targets = &z->e->model->unet_targets;
    z->set = tensor_set_create(z->arena, "The columns", TENSOR_F32, true, gpu_device_max_chunk(z->e->dev));
    z->layers = arena_alloc_n(z->arena, (size_t)targets->n, sizeof *z->layers);
    bool *has = arena_alloc_n(z->arena, (size_t)p->n, sizeof *has);
    for (int t = 0; t < targets->n; t++) {
        const struct nn_target *target = &targets->items[t];
        int sharing = 0;
        for (int i = 0; i < p->n; i++) sharing += has[i] = changes(p->adapters[i], target->path);
        if (sharing < 2) continue;
        struct layer *l = &z->layers[z->n_layers++];
        *l = (struct layer){target, arena_alloc_n(z->arena, (size_t)p->n, sizeof *l->slots)};
        for (int i = 0; i < p->n; i++) {
            const char *name = arena_printf(z->arena, "%s.columns_%d", target->path, i);
            l->slots[i] = has[i] ? tensor_set_add(z->set, name, (struct shape){1, 1, 1, target->weight.c}) : -1;
        }
    }
}

static const struct layer *find_layer(const struct ziplora *z, const char *path) {
    for (int i = 0; i < z->n_layers; i++)
        if (strcmp(z->layers[i].target->path, path) == 0) return &z->layers[i];
    return NULL;
}

int ziplora_layers(const struct ziplora *z) { return z->n_layers; }

/* ---- The tape ---- */

/* Every LoRA by its own hook, on inputs times its columns. */
static int attach(struct hook *h, struct graph *g, const char *path, int x, int base, struct shape weight,
                  const struct conv_params *conv) {
    const struct layer *l = find_layer(h->z, path);
    for (int i = 0; i < h->z->params.n && base >= 0; i++) {
        struct nn_hook *own = &h->bindings[i].hook;
        int own_x = x;
        if (l && l->slots[i] >= 0) own_x = graph_mul(g, x, graph_slot(g, h->z->set, SET_DATA, l->slots[i]), BCAST_ALL);
        if (own_x < 0) return -1;
        base = conv ? own->conv(own->ctx, g, path, own_x, base, weight, conv)
                    : own->linear(own->ctx, g, path, own_x, base, weight);
    }
    return base;
}

static int attach_linear(void *ctx, struct graph *g, const char *path, int x, int base, struct shape weight) {
    return attach(ctx, g, path, x, base, weight, NULL);
}

static int attach_conv(void *ctx, struct graph *g, const char *path, int x, int base, struct shape weight,
                       const struct conv_params *conv) {
    return attach(ctx, g, path, x, base, weight, conv);
}

static bool build(struct ziplora *z, bool remat, struct error *err) {
    const struct ziplora_params *p = &z->params;
    const struct unet_config *cfg = &z->e->model->unet;
    int n = p->n * p->batch;
    struct shape latent = {n, p->h, p->w, cfg->out_channels}, vector = {n, 1, 1, 1};
    struct graph *g = z->g = graph_create(z->arena, gpu_device_storage(z->e->dev));
    z->hook = (struct hook){.z = z, .bindings = arena_alloc_n(z->arena, (size_t)p->n, sizeof(struct lora_binding))};
    z->hook.hook = (struct nn_hook){.ctx = &z->hook, .linear = attach_linear, .conv = attach_conv};
    for (int i = 0; i < p->n; i++) {
        const struct adapter *ad = p->adapters[i];
        lora_stack_bind(ad->stack, ad->models[LORA_UNET], g, arena_printf(z->arena, "adapter %d", i), n, &z->hook.bindings[i]);
        z->strengths[i] = z->hook.bindings[i].strength;
    }
    z->in = (struct unet_inputs){.sample = graph_io(g, "sample", latent), .timestep = graph_io(g, "timestep", vector),
                                 .context = graph_io(g, "context", (struct shape){n, 1, p->tokens, cfg->context_dim}),
                                 .added = -1, .time_cond = -1};
    z->target = graph_io(g, "target", latent), z->seed = graph_io(g, "seed", vector);
    if (cfg->added_dim) vector.c = cfg->added_dim, z->in.added = graph_io(g, "added", vector);
    struct nn_ctx c = nn_begin(g, z->e->model->unet_params, &z->hook.hook, "unet");
    int loss = graph_mse(g, unet_build(&c, cfg, &z->in), z->target);
    nn_end(&c);
    z->loss = graph_output(g, "loss", loss);
    if (!graph_ok(g, err) || !graph_grad(g, loss, z->seed, err)) return false;
    graph_prune(g);
    return !remat || graph_remat(g, err);
}

static const char hint[] = "Lower --batch or --resolution, take --weights nf4, or allow more with --memory.";

/* As the trainer: recompute where the plain tape does not fit, then what engine/memory.h can do. */
static bool plan(struct ziplora *z, struct error *err) {
    struct gpu_program_params pp = engine_program_params(z->e, "ZipLoRA", hint);
    struct gpu_memory_use use;
    int64_t left = memory_left(z->e, ENGINE_UNET) - optimiser_state_bytes(z->optimiser);
    for (int i = 0; i < z->set->n_chunks; i++) left -= 2 * z->set->chunk_texels[i] * 16;
    if (!build(z, false, err) || !gpu_program_measure(z->e->dev, z->g, &pp, &use, err)) return false;
    bool fits = use.activations + use.io + use.prepared <= (left - memory_part_bytes(z->e, ENGINE_UNET)) * 9 / 10;
    if (!fits && !build(z, true, err)) return false;
    return memory_choose(z->e, z->g, ENGINE_UNET, left, "ZipLoRA", hint, &z->memory, err);
}

int64_t ziplora_device_bytes(const struct ziplora *z) {
    int64_t bytes = memory_choice_bytes(&z->memory) + optimiser_state_bytes(z->optimiser);
    for (int i = 0; i < z->set->n_chunks; i++) bytes += 2 * z->set->chunk_texels[i] * 16;
    for (int i = 0; i < z->params.n; i++) bytes += gpu_set_bytes(z->params.adapters[i]->data);
    return bytes;
}

static bool build_optimiser(struct ziplora *z, struct error *err) {
    struct optimiser_slot *slots = arena_alloc_n(z->arena, (size_t)z->set->n_slots, sizeof *slots);
    for (int i = 0; i < z->set->n_slots; i++) slots[i] = (struct optimiser_slot){1, 1, 1, z->set->slots[i].shape.c};
    struct optimiser_setup setup = {.set = z->set, .grad_bank = SET_GRAD, .slots = slots, .loss_scale = z->loss_scale};
    struct optimiser_params params = {0}; /* AdamW without decay is Adam */
    return (z->optimiser = optimiser_create(z->arena, &params, &setup, err)) != NULL;
}

struct ziplora *ziplora_create(struct engine *e, const struct ziplora_params *p, struct error *err) {
    struct arena *a = arena_create(e->arena);
    struct ziplora *z = arena_alloc(a, sizeof *z);
    *z = (struct ziplora){.arena = a, .e = e, .params = *p, .loss_scale = 1};
    z->strengths = arena_alloc_n(a, (size_t)p->n, sizeof *z->strengths);
    find_layers(z);
    if (!z->n_layers) {
        error_set(err, "The LoRAs have no layer of the UNet in common, so there is nothing to weigh: use --method concat.");
        ziplora_destroy(&z);
        return NULL;
    }
    /* The gradient of a mean over many numbers is too small for half floats. */
    double numbers = (double)p->w * p->h * e->model->unet.out_channels * p->batch;
    while (gpu_device_storage(e->dev) == TENSOR_F16 && z->loss_scale * 2 <= numbers / 16) z->loss_scale *= 2;
    if (!build_optimiser(z, err) || !plan(z, err)) ziplora_destroy(&z);
    return z;
}

void ziplora_destroy(struct ziplora **p) {
    struct ziplora *z = *p;
    if (!z) return;
    *p = NULL;
    if (z->pinned) memory_unpin(z->e, ENGINE_UNET);
    gpu_program_destroy(&z->prog);
    optimiser_destroy(&z->optimiser);
    gpu_set_destroy(&z->data);
    gpu_set_destroy(&z->grad);
    struct arena *a = z->arena;
    arena_destroy(&a);
}

/* ---- On the device ---- */

static float *numbers_of(const struct ziplora *z, float *const *banks, int slot) {
    return banks[z->set->slots[slot].chunk] + 4 * z->set->slots[slot].offset; /* a vector's texels lie side by side */
}

static bool set_ones(struct ziplora *z, struct error *err) {
    z->values = arena_alloc_n(z->arena, (size_t)z->set->n_chunks, sizeof *z->values);
    z->grads = arena_alloc_n(z->arena, (size_t)z->set->n_chunks, sizeof *z->grads);
    for (int c = 0; c < z->set->n_chunks; c++) {
        z->values[c] = arena_alloc(z->arena, (size_t)gpu_set_chunk_bytes(z->data, c));
        z->grads[c] = arena_alloc(z->arena, (size_t)gpu_set_chunk_bytes(z->data, c));
    }
    for (int s = 0; s < z->set->n_slots; s++)
        for (int k = 0; k < z->set->slots[s].shape.c; k++) numbers_of(z, z->values, s)[k] = 1;
    for (int c = 0; c < z->set->n_chunks; c++)
        if (!gpu_set_write_raw(z->data, c, z->values[c], err)) return false;
    return true;
}

static void write_strengths(struct ziplora *z) {
    const struct ziplora_params *p = &z->params;
    int images = p->n * p->batch;
    struct arena *a = arena_create(NULL);
    float *strength = arena_alloc_n(a, (size_t)images, sizeof *strength);
    for (int i = 0; i < p->n; i++) {
        if (z->strengths[i] < 0) continue;
        float *columns = arena_alloc_n(a, (size_t)images, (size_t)p->adapters[i]->stack->n_columns * sizeof *columns);
        for (int k = 0; k < images; k++) strength[k] = p->weights[i];
        adapter_fill(p->adapters[i], images, strength, columns);
        gpu_program_write(z->prog, z->strengths[i], columns);
    }
    arena_destroy(&a);
}

bool ziplora_open(struct ziplora *z, struct error *err) {
    struct engine *e = z->e;
    const struct ziplora_params *p = &z->params;
    if (!memory_load(e, ENGINE_UNET, &z->memory, err)) return false;
    z->pinned = true;
    memory_pin(e, ENGINE_UNET);
    if (!(z->data = gpu_set_create(e->dev, z->set, SET_DATA, err)) ||
        !(z->grad = gpu_set_create(e->dev, z->set, SET_GRAD, err)))
        return false;
    struct gpu_binding *b = arena_alloc_n(z->arena, (size_t)p->n + 3, sizeof *b);
    int n = 0;
    b[n++] = (struct gpu_binding){e->model->unet_params->set, SET_DATA, e->parts[ENGINE_UNET]};
    b[n++] = (struct gpu_binding){z->set, SET_DATA, z->data};
    b[n++] = (struct gpu_binding){z->set, SET_GRAD, z->grad};
    for (int i = 0; i < p->n; i++) b[n++] = (struct gpu_binding){p->adapters[i]->stack->set, SET_DATA, p->adapters[i]->data};
    struct gpu_program_params pp = engine_program_params(e, "ZipLoRA", hint);
    pp.bindings = b, pp.n_bindings = n, pp.no_prepare = z->memory.no_prepare, pp.ring_bytes = z->memory.ring_bytes;
    if (!set_ones(z, err) || !(z->prog = gpu_program_create(e->dev, z->g, &pp, err))) return false;
    write_strengths(z);
    float *seeds = arena_alloc_n(z->arena, (size_t)(p->n * p->batch), sizeof *seeds);
    for (int i = 0; i < p->n * p->batch; i++) seeds[i] = z->loss_scale / (float)p->batch;
    gpu_program_write(z->prog, z->seed, seeds);
    return optimiser_open(z->optimiser, e, z->data, z->grad, err);
}

/* ---- A step ---- */

/* The penalty's value and, added to the gradients, its slope. It is nothing beside a pass over the UNet. */
static double overlap(struct ziplora *z) {
    double total = 0;
    for (int l = 0; l < z->n_layers; l++) {
        const struct layer *layer = &z->layers[l];
        int in = layer->target->weight.c;
        double sum = 0, share = z->params.similarity / in;
        for (int i = 0; i < z->params.n; i++)
            for (int k = 0; k < z->params.n; k++) {
                if (i == k || layer->slots[i] < 0 || layer->slots[k] < 0) continue;
                const float *own = numbers_of(z, z->values, layer->slots[i]),
                            *other = numbers_of(z, z->values, layer->slots[k]);
                float *grad = numbers_of(z, z->grads, layer->slots[i]), factor = (float)(share * z->loss_scale);
                for (int c = 0; c < in; c++) {
                    float sign = own[c] > 0 ? 1 : own[c] < 0 ? -1 : 0;
                    grad[c] += factor * sign * fabsf(other[c]);
                    if (i < k) sum += fabs((double)own[c] * other[c]);
                }
            }
        total += share * sum;
    }
    return total;
}

static bool sync(struct ziplora *z, struct ziplora_loss *loss, struct error *err) {
    for (int c = 0; c < z->set->n_chunks; c++)
        if (!gpu_set_read_raw(z->data, c, z->values[c], err) || !gpu_set_read_raw(z->grad, c, z->grads[c], err)) return false;
    loss->overlap = overlap(z);
    for (int c = 0; c < z->set->n_chunks; c++) {
        if (!gpu_set_write_raw(z->grad, c, z->grads[c], err)) return false;
        for (int64_t i = 0; i < z->set->chunk_texels[c] * 4; i++) z->grads[c][i] /= z->loss_scale; /* for ziplora_gradient */
    }
    return true;
}

bool ziplora_step(struct ziplora *z, const struct ziplora_batch *b, float lr, struct ziplora_loss *loss, struct error *err) {
    int n = z->params.n * z->params.batch;
    float norm, losses[64];
    bool applied;
    assert(n <= 64);
    gpu_program_write(z->prog, z->in.sample, b->x);
    gpu_program_write(z->prog, z->in.timestep, b->t);
    gpu_program_write(z->prog, z->in.context, b->context);
    if (z->in.added >= 0) gpu_program_write(z->prog, z->in.added, b->added);
    gpu_program_write(z->prog, z->target, b->target);
    if (!gpu_program_run(z->prog, err)) return false;
    gpu_program_read(z->prog, z->loss, losses);
    loss->distance = 0;
    for (int i = 0; i < n; i++) loss->distance += (double)losses[i] / z->params.batch;
    if (!sync(z, loss, err)) return false;
    if (!isfinite(loss->distance)) return error_set(err, "ZipLoRA's loss is no longer a number. Lower --lr.");
    if (!(lr > 0)) return true;
    if (!optimiser_step(z->optimiser, lr, &norm, &applied, err)) return false;
    for (int c = 0; c < z->set->n_chunks; c++)
        if (!gpu_set_read_raw(z->data, c, z->values[c], err)) return false;
    return true; /* gradients that half floats could not hold left everything as it was */
}

static int slot_of(const struct ziplora *z, int lora, const struct nn_target *t) {
    const struct layer *l = find_layer(z, t->path);
    return l ? l->slots[lora] : -1;
}

const float *ziplora_columns(const struct ziplora *z, int lora, const struct nn_target *t) {
    int slot = slot_of(z, lora, t);
    return slot < 0 ? NULL : numbers_of(z, z->values, slot);
}

const float *ziplora_gradient(const struct ziplora *z, int lora, const struct nn_target *t) {
    int slot = slot_of(z, lora, t);
    return slot < 0 ? NULL : numbers_of(z, z->grads, slot);
}

bool ziplora_set_columns(struct ziplora *z, int lora, const struct nn_target *t, const float *m, struct error *err) {
    int slot = slot_of(z, lora, t);
    assert(slot >= 0);
    memcpy(numbers_of(z, z->values, slot), m, (size_t)t->weight.c * sizeof *m);
    return gpu_set_write(z->data, slot, m, err);
}
