/* The adapter, the tape of a training step, the small tapes after it; their memory and programs. */
#include <math.h>
#include <string.h>

#include "lora/select_blocks.h"
#include "train/trainer_priv.h"

/* Rank of a layer's LoRA; 0: it gets none. */
static int layer_rank(const struct trainer *t, const struct unet_ldm *l, enum lora_part part, const char *path) {
    const struct train_params *p = &t->params;
    int value = 0;
    if (!lora_selection_has(p->targets, path)) return 0;
    if (!p->blocks && !p->block_ranks) return p->rank;
    int block = lora_block_of(l, part, path);
    if (p->blocks && !lora_select_block(p->blocks, block, path, &value)) return 0;
    return p->block_ranks && lora_select_block(p->block_ranks, block, path, &value) ? value : p->rank;
}

/* lora_dense.read: no change yet. */
static bool read_zero(const void *ctx, float *dw, float *db, struct error *e) {
    const struct nn_target *t = ctx;
    memset(dw, 0, (size_t)shape_elems(t->weight) * sizeof *dw);
    return true;
}

static bool add_layer(struct trainer *t, struct lora_stack *stack, int model, const struct nn_target *target, int rank,
                      struct error *err) {
    float alpha = t->alpha_is_rank ? (float)rank : t->params.alpha;
    struct lora_dense dense = {.weight = true, .read = read_zero, .ctx = target};
    if (t->params.kind == TRAIN_FULL) return lora_stack_add_dense(stack, 0, model, target->path, &dense, err);
    if (t->params.rslora) alpha *= sqrtf((float)rank);
    return lora_stack_add_new(stack, 0, model, target->path, rank, alpha, &t->rng, err);
}

static int add_layers(struct trainer *t, struct lora_stack *stack, int model, enum lora_part part,
                      const struct lora_model *layers, struct error *err) {
    const struct nn_target_list *targets = layers->targets[part];
    struct unet_ldm l;
    int n = 0;
    lora_ldm_measure(&l, layers->targets[LORA_UNET]);
    for (int i = 0; i < targets->n; i++) {
        int rank = layer_rank(t, &l, part, targets->items[i].path);
        if (!rank) continue;
        if (!add_layer(t, stack, model, &targets->items[i], rank, err)) return -1;
        n++;
    }
    return n;
}

static bool check_blocks(const struct train_params *p, const struct lora_model *layers, struct error *err) {
    return (!p->blocks || lora_select_blocks_check(p->blocks, false, 0, layers, err)) &&
           (!p->block_ranks || lora_select_blocks_check(p->block_ranks, true, 1024, layers, err));
}

bool train_adapter_create(struct trainer *t, struct error *err) {
    struct engine *e = t->e;
    struct lora_stack *stack = lora_stack_create(t->arena, "The LoRA", TENSOR_F32, true, gpu_device_max_chunk(e->dev));
    struct lora_model layers = adapter_lora_model(e->model);
    int models[LORA_N_PARTS], n = 0;
    if (!check_blocks(&t->params, &layers, err)) return false;
    for (int p = 0; p < LORA_N_PARTS; p++) {
        bool learns = layers.targets[p] && t->params.kind != TRAIN_NONE && (p == LORA_UNET || t->params.train_text_encoder);
        models[p] = learns ? lora_stack_model(stack, lora_part_name((enum lora_part)p), layers.targets[p]) : -1;
    }
    lora_stack_adapter(stack);
    for (int p = 0; p < LORA_N_PARTS; p++) {
        int added = models[p] >= 0 ? add_layers(t, stack, models[p], (enum lora_part)p, &layers, err) : 0;
        if (added < 0) return false;
        n += added;
    }
    if (!train_words_create(t, stack, err)) return false;
    if (n == 0 && t->params.kind != TRAIN_NONE)
        return error_set(err, "The model has no layer that the chosen --targets%s name; try --targets all%s.",
                                t->params.blocks ? " and --blocks" : "", t->params.blocks ? " or more blocks" : "");
    if (!lora_stack_seal(stack, err)) return false;
    t->plan.n_layers = n;
    for (int i = 0; i < stack->n_layers; i++) {
        const struct lora_stack_layer *l = &stack->layers[i];
        const struct shape w = l->target->weight;
        t->plan.n_params += l->n_parts ? (int64_t)l->parts[0].rank * (w.n * (int64_t)w.c + w.w) : shape_elems(w);
    }
    for (int i = 0; i < stack->n_own; i++) t->plan.n_params += shape_elems(stack->own[i].shape);
    for (int i = 0; i < stack->set->n_chunks; i++) t->plan.adapter_bytes += stack->set->chunk_texels[i] * 16;
    t->adapter = adapter_adopt(e, stack, models, err);
    return t->adapter != NULL;
}

void train_dropout_add(const struct trainer *t, struct lora_binding *b) {
    b->dropout = t->params.dropout;
    b->dropout_key = t->tape->dropout_key;
}

static int build_loss(struct trainer *t, struct graph *g, int prediction) {
    struct train_tape *tape = t->tape;
    tape->hyper = -1;
    if (t->params.loss.kind != LOSS_L2) {
        tape->hyper = graph_io(g, "c and factor", (struct shape){t->params.batch, 1, 1, 2});
        return graph_huber(g, prediction, tape->target, tape->hyper, tape->mask);
    }
    if (tape->mask >= 0) prediction = graph_mul(g, prediction, tape->mask, BCAST_NONE);
    return graph_mse(g, prediction, tape->target);
}

static bool build_step(struct trainer *t, bool remat, struct error *err) {
    struct train_tape *tape = t->tape;
    struct model *m = t->e->model;
    struct shape latent = {t->params.batch, t->lh, t->lw, t->channels}, sample = latent, per_image = {t->params.batch, 1, 1, 1};
    struct graph *g = graph_create(t->arena, gpu_device_storage(t->e->dev));
    tape->g = g;
    tape->remat = remat;
    struct lora_binding *binding = &tape->bindings[LORA_UNET];
    bool adapts = t->adapter->models[LORA_UNET] >= 0;
    binding->strength = -1;
    if (adapts) lora_stack_bind(t->adapter->stack, t->adapter->models[LORA_UNET], g, "adapter", t->params.batch, binding);
    tape->strength = binding->strength;
    const struct lora_dropout *d = &t->params.dropout;
    bool drops = d->network > 0 || d->rank > 0 || d->module > 0;
    tape->dropout_key = drops ? graph_io(g, "dropout key", (struct shape){1, 1, 1, 2}) : -1;
    train_dropout_add(t, binding);
    sample.c = m->unet.in_channels;
    struct unet_inputs in = {0};
    train_condition_build(t, g, &in);
    in.sample = tape->sample = graph_io(g, "sample", sample);
    in.timestep = tape->timestep = graph_io(g, "timestep", per_image);
    tape->target = graph_io(g, "target", latent);
    tape->seed = graph_io(g, "seed", per_image);
    struct nn_ctx c = nn_begin(g, m->unet_params, adapts ? &binding->hook : NULL, "unet");
    int prediction = unet_build(&c, &m->unet, &in);
    nn_end(&c);
    tape->mask = t->params.masks ? graph_io(g, "mask", latent) : -1;
    int loss = build_loss(t, g, prediction);
    tape->loss = graph_output(g, "loss", loss);
    if (!engine_graph_ok(g, "The training step", "Lower --resolution or --batch.", err) ||
        !graph_grad(g, loss, tape->seed, err))
        return false;
    graph_prune(g);
    return !remat || graph_remat(g, err);
}

enum { MAX_BINDINGS = 16 }; /* UNet, text encoders, banks of the adapter */

static int bindings(struct trainer *t, struct gpu_binding *b) {
    struct tensor_set *set = t->adapter->stack->set;
    struct model *m = t->e->model;
    int n = 0;
    b[n++] = (struct gpu_binding){m->unet_params->set, SET_DATA, t->e->parts[ENGINE_UNET]};
    for (int i = 0; t->text_on_tape && i < m->n_texts; i++)
        b[n++] = (struct gpu_binding){m->texts[i].params->set, SET_DATA, t->e->parts[ENGINE_TEXT + i]};
    b[n++] = (struct gpu_binding){set, SET_DATA, t->adapter->data};
    b[n++] = (struct gpu_binding){set, SET_GRAD, t->grad};
    b[n++] = (struct gpu_binding){set, SET_GRAD_SUM, t->grad_sum};
    b[n++] = (struct gpu_binding){set, SET_EMA, t->ema};
    return n;
}

static int append(struct graph *g, enum op op, const int *in, int n_in) {
    int node = graph_append(g, op, in, n_in, (union op_attr){0});
    return node < 0 ? -1 : g->nodes[node].out[0];
}

static bool build_average(struct trainer *t, struct error *err) {
    struct bank_tapes *o = &t->banks;
    struct tensor_set *set = t->adapter->stack->set;
    if (!(t->params.ema > 0)) return true;
    o->ema_g = graph_create(t->arena, TENSOR_F32);
    o->ema_hyper = graph_io(o->ema_g, "keep", (struct shape){1, 1, 1, 1});
    for (int i = 0; i < set->n_chunks; i++)
        append(o->ema_g, OP_EMA,
               (int[]){graph_flat(o->ema_g, set, SET_EMA, i), graph_flat(o->ema_g, set, SET_DATA, i), o->ema_hyper}, 3);
    return graph_ok(o->ema_g, err);
}

/* After each step, layer by layer: both factors shrink where their product is too large. */
static bool build_norm(struct trainer *t, struct error *err) {
    const struct lora_stack *stack = t->adapter->stack;
    struct graph *g;
    if (!(t->params.max_weight_norm > 0)) return true;
    g = t->banks.norm_g = graph_create(t->arena, TENSOR_F32);
    for (int i = 0; i < stack->n_layers; i++) {
        const struct lora_stack_layer *l = &stack->layers[i];
        int in[] = {graph_slot(g, stack->set, SET_DATA, l->down), graph_slot(g, stack->set, SET_DATA, l->up)};
        graph_append(g, OP_PAIR_NORM, in, 2, (union op_attr){.pair_norm = {l->parts[0].scale, t->params.max_weight_norm}});
    }
    return graph_ok(g, err);
}

static bool build_sum(struct trainer *t, struct error *err) {
    struct bank_tapes *o = &t->banks;
    struct tensor_set *set = t->adapter->stack->set;
    if (train_batches_per_step(t) == 1) return true;
    o->sum_g = graph_create(t->arena, TENSOR_F32);
    o->sum_hyper = graph_io(o->sum_g, "keep", (struct shape){1, 1, 1, 1});
    for (int i = 0; i < set->n_chunks; i++)
        append(o->sum_g, OP_ACCUMULATE,
               (int[]){graph_flat(o->sum_g, set, SET_GRAD_SUM, i), graph_flat(o->sum_g, set, SET_GRAD, i), o->sum_hyper}, 3);
    return graph_ok(o->sum_g, err);
}

/* Factors as matrices, with their padding: of `columns` ranks the first so many are a part's. */
static bool build_optimiser(struct trainer *t, struct error *err) {
    const struct lora_stack *stack = t->adapter->stack;
    struct optimiser_slot *slots = arena_alloc_n(t->arena, (size_t)stack->set->n_slots, sizeof *slots);
    for (int i = 0; i < stack->n_layers; i++) {
        const struct lora_stack_layer *l = &stack->layers[i];
        int rank = l->n_parts ? l->parts[0].rank : 0, out = l->target->weight.w;
        float rate = l->model == t->adapter->models[LORA_UNET] || !t->params.text_lr ? 1 : t->params.text_lr / t->params.lr;
        float ratio = t->params.lora_plus ? t->params.lora_plus : 1;
        if (!rank) {
            slots[l->dense[0].weight] = (struct optimiser_slot){rate, out, out, l->target->weight.c};
            continue;
        }
        slots[l->down] = (struct optimiser_slot){rate, l->columns, rank, l->target->weight.c};
        slots[l->up] = (struct optimiser_slot){rate * ratio, out, out, rank};
    }
    for (int i = 0; i < stack->n_own; i++) {
        const struct lora_stack_own *o = &stack->own[i];
        float rate = t->params.word_lr ? t->params.word_lr / t->params.lr : 1;
        slots[o->slot] = (struct optimiser_slot){rate, o->shape.w, o->shape.w, o->shape.c};
    }
    struct optimiser_setup setup = {.set = stack->set, .grad_bank = train_batches_per_step(t) > 1 ? SET_GRAD_SUM : SET_GRAD,
                                    .slots = slots, .loss_scale = t->loss_scale};
    t->optimiser = optimiser_create(t->arena, &t->params.optimiser, &setup, err);
    return t->optimiser != NULL;
}

static struct gpu_program_params step_params(struct trainer *t) {
    static const char plain[] =
        "Lower --batch or --resolution, set --checkpointing on, take --weights nf4, or allow more with --memory.";
    static const char remat[] = "Lower --batch or --resolution, take --weights nf4, or allow more with --memory.";
    return engine_program_params(t->e, "The training step", t->tape->remat ? remat : plain);
}

static bool measure(struct trainer *t, struct gpu_memory_use *use, struct error *err) {
    struct gpu_program_params p = step_params(t);
    return gpu_program_measure(t->e->dev, t->tape->g, &p, use, err);
}

/* Bytes on the device beside the tape: weights that stay, banks of the adapter. */
static int64_t resident_bytes(const struct trainer *t) {
    const struct train_plan *p = &t->plan;
    return p->unet_bytes + (t->text_on_tape ? p->text_bytes : 0) + p->adapter_bytes + p->gradient_bytes + p->moment_bytes +
           p->average_bytes;
}

static int64_t set_bytes(const struct tensor_set *s) {
    int64_t n = 0;
    for (int i = 0; i < s->n_chunks; i++) n += s->chunk_texels[i] * (int64_t)tensor_texel_bytes(s->dtype);
    return n;
}

static void plan_weights(struct trainer *t) {
    struct train_plan *p = &t->plan;
    p->unet_bytes = set_bytes(t->e->model->unet_params->set);
    p->vae_bytes = set_bytes(t->e->model->vae_params->set);
    p->text_bytes = 0;
    for (int i = 0; i < t->e->model->n_texts; i++) p->text_bytes += set_bytes(t->e->model->texts[i].params->set);
    p->gradient_bytes = p->adapter_bytes * (train_batches_per_step(t) > 1 ? 2 : 1);
    p->moment_bytes = optimiser_state_bytes(t->optimiser);
    p->average_bytes = t->params.ema > 0 ? p->adapter_bytes : 0;
    p->device_bytes = gpu_device_memory_total(t->e->dev);
}

/* Recompute is chosen when the plain tape does not fit: it costs about a third more time. What then still does not fit is
 * engine/memory.h's business. */
bool train_tapes_build(struct trainer *t, struct error *err) {
    if (!build_optimiser(t, err) || !build_sum(t, err) || !build_norm(t, err) || !build_average(t, err)) return false;
    plan_weights(t);
    struct gpu_memory_use use;
    bool remat = t->params.remat == TRAIN_REMAT_ON;
    if (!build_step(t, remat, err) || !measure(t, &use, err)) return false;
    int64_t left = t->plan.device_bytes - resident_bytes(t) - t->plan.teacher_bytes;
    if (!remat && t->params.remat == TRAIN_REMAT_AUTO && use.activations + use.io + use.prepared > left * 9 / 10) {
        remat = true;
        if (!build_step(t, true, err) || !measure(t, &use, err)) return false;
    }
    struct train_plan *p = &t->plan;
    const struct memory_choice *c = &t->memory;
    p->remat = remat;
    if (!memory_choose(t->e, t->tape->g, ENGINE_UNET, left + p->unet_bytes, "The training step", step_params(t).memory_hint,
                       &t->memory, err))
        return false;
    p->unet_bytes = c->weight_bytes, p->away_bytes = c->away_bytes, p->ring_bytes = c->ring_bytes;
    p->activation_bytes = c->activation_bytes, p->io_bytes = c->io_bytes, p->prepared_bytes = c->prepared_bytes;
    p->peak_bytes =
        resident_bytes(t) + p->ring_bytes + p->activation_bytes + p->io_bytes + p->prepared_bytes + p->teacher_bytes;
    if (!p->teacher_bytes) return true;
    int64_t more = c->streamed ? p->ring_bytes : t->distill.prepared_bytes;
    if (c->streamed || p->peak_bytes + more <= p->device_bytes) p->teacher_bytes += more, p->peak_bytes += more;
    return true;
}

static void write_strengths(struct trainer *t) {
    if (t->tape->strength < 0) return;
    struct arena *a = arena_create(NULL);
    float *strength = arena_alloc(a, (size_t)t->params.batch * sizeof *strength);
    float *columns = arena_alloc(a, (size_t)t->params.batch * (size_t)t->adapter->stack->n_columns * sizeof *columns);
    for (int i = 0; i < t->params.batch; i++) strength[i] = 1;
    lora_stack_fill_strengths(t->adapter->stack, t->params.batch, strength, columns);
    gpu_program_write(t->tape->prog, t->tape->strength, columns);
    arena_destroy(&a);
}

bool train_tape_open(struct trainer *t, struct error *err) {
    struct gpu_binding b[MAX_BINDINGS];
    if (t->tape->prog) return true;
    if (!t->tape->g && !build_step(t, t->plan.remat, err)) return false;
    struct gpu_program_params p = step_params(t);
    p.bindings = b, p.n_bindings = bindings(t, b);
    p.no_prepare = t->memory.no_prepare, p.ring_bytes = t->memory.ring_bytes;
    p.share = t->bucket != t->largest ? t->buckets[t->largest].tape.prog : NULL;
    if (!(t->tape->prog = gpu_program_create(t->e->dev, t->tape->g, &p, err))) return false;
    write_strengths(t);
    return true;
}

/* The parts that the tape reads stay until it is gone. */
static void pin_parts(struct trainer *t) {
    t->pinned = true;
    memory_pin(t->e, ENGINE_UNET);
    for (int i = 0; t->text_on_tape && i < t->e->model->n_texts; i++) memory_pin(t->e, (enum engine_part)(ENGINE_TEXT + i));
}

void train_tapes_close(struct trainer *t) {
    for (int i = 0; i < t->n_buckets; i++)
        if (i != t->largest) gpu_program_destroy(&t->buckets[i].tape.prog);
    if (t->n_buckets) gpu_program_destroy(&t->buckets[t->largest].tape.prog); /* the others lie in its memory */
    if (!t->pinned) return;
    t->pinned = false;
    memory_unpin(t->e, ENGINE_UNET);
    for (int i = 0; t->text_on_tape && i < t->e->model->n_texts; i++) memory_unpin(t->e, (enum engine_part)(ENGINE_TEXT + i));
}

bool train_tapes_open(struct trainer *t, struct error *err) {
    struct engine *e = t->e;
    struct tensor_set *set = t->adapter->stack->set;
    if (!memory_load(e, ENGINE_UNET, &t->memory, err)) return false;
    for (int i = 0; t->text_on_tape && i < e->model->n_texts; i++)
        if (!engine_load(e, (enum engine_part)(ENGINE_TEXT + i), err)) return false;
    pin_parts(t);
    if (!(t->grad = gpu_set_create(e->dev, set, SET_GRAD, err))) return false;
    if (train_batches_per_step(t) > 1 && !(t->grad_sum = gpu_set_create(e->dev, set, SET_GRAD_SUM, err))) return false;
    if (t->params.ema > 0 && !(t->ema = gpu_set_create(e->dev, set, SET_EMA, err))) return false;
    if (!train_tape_open(t, err)) return false;
    struct gpu_binding b[MAX_BINDINGS];
    struct gpu_program_params op = engine_program_params(e, "The sum of gradients", NULL);
    op.bindings = b, op.n_bindings = bindings(t, b);
    if (t->banks.sum_g && !(t->banks.sum_prog = gpu_program_create(e->dev, t->banks.sum_g, &op, err))) return false;
    if (t->banks.ema_g && !(t->banks.ema_prog = gpu_program_create(e->dev, t->banks.ema_g, &op, err))) return false;
    if (t->banks.norm_g && !(t->banks.norm_prog = gpu_program_create(e->dev, t->banks.norm_g, &op, err))) return false;
    if (!optimiser_open(t->optimiser, e, t->adapter->data, trainer_gradients(t), err)) return false;
    return true;
}
