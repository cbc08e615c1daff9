#include "tests/support/cm.h"
#include "tests/support/evaluate.h"
#include "tests/support/mini_unet.h"

#include <string.h>

#include "gpu/device.h"
#include "nn/bind.h"

void mini_unet_open(struct mini_unet *m, const char *name, enum tensor_dtype storage) {
    struct error e = {0};
    struct arena *a = arena_create(NULL);
    *m = (struct mini_unet){
        .arena = a, .targets = {.arena = a}, .params = nn_params_create(a, "unet", storage, false, 0)};
    const char *config = eval_data_path(a, arena_printf(a, "%s/unet/config.json", name));
    const char *file =
        eval_data_path(a, arena_printf(a, "%s/unet/diffusion_pytorch_model.safetensors", name));
    m->weights = st_open(file, &e);
    if (!m->weights || !unet_config_load(&m->cfg, config, &e) ||
        !unet_declare(m->params, &m->cfg, &m->targets, &e) ||
        !nn_params_bind(m->params, m->weights, NULL, NULL, &e))
        fail_msg("%s", e.text);
}

void mini_unet_close(struct mini_unet *m) {
    st_close(&m->weights);
    arena_destroy(&m->arena);
}

void mini_stack_read(const void *ctx, int slot, float *dst) {
    struct error e;
    if (!lora_stack_read_slot(ctx, slot, dst, &e)) fail_msg("%s", e.text);
}

/* Random factors on every third layer, the other adapter on every second: all mixtures occur. */
struct lora_stack *mini_unet_random_stack(struct mini_unet *m, bool trainable) {
    static const int ranks[] = {3, 5};
    struct lora_stack *s = lora_stack_create(m->arena, "lora", TENSOR_F32, trainable, 0);
    int unet = lora_stack_model(s, "unet", &m->targets);
    struct rng rng;
    struct error e = {0};
    rng_seed(&rng, 7);
    for (int adapter = 1; adapter >= 0; adapter--) { /* added out of order on purpose */
        while (s->n_adapters < 2) lora_stack_adapter(s);
        for (int i = adapter; i < m->targets.n; i += 3 - adapter) {
            const struct nn_target *t = &m->targets.items[i];
            struct lora_factors f = {
                .rank = ranks[adapter], .alpha = 2, .in = t->weight.c, .out = t->weight.w, .k = t->conv.k};
            size_t n = (size_t)f.rank * f.in * t->weight.n, n_up = (size_t)f.rank * f.out;
            float *down = arena_alloc_n(m->arena, n, sizeof *down),
                  *up = arena_alloc_n(m->arena, n_up, sizeof *up);
            rng_randn(&rng, down, n);
            rng_randn(&rng, up, n_up);
            for (size_t k = 0; k < n; k++) down[k] *= 0.05f;
            for (size_t k = 0; k < n_up; k++) up[k] *= 0.2f;
            f.down = down, f.up = up;
            if (!lora_stack_add(s, adapter, unet, t->path, &f, &e)) fail_msg("%s", e.text);
        }
    }
    assert_true(lora_stack_seal(s, &e));
    return s;
}

void mini_merged_read(const void *ctx, int slot, float *dst) {
    const struct mini_merged *merged = ctx;
    nn_params_read_slot(merged->m->params, slot, dst);
    const char *name = merged->m->params->set->slots[slot].name;
    for (int l = 0; l < merged->stack->n_layers; l++) {
        const struct lora_stack_layer *layer = &merged->stack->layers[l];
        size_t length = strlen(layer->target->path);
        if (strncmp(name, layer->target->path, length) || strcmp(name + length, ".weight")) continue;
        struct shape w = layer->target->weight;
        for (int p = 0; p < layer->n_parts; p++) {
            const struct lora_stack_part *part = &layer->parts[p];
            for (int t = 0; t < w.n; t++)
                for (int o = 0; o < w.w; o++)
                    for (int i = 0; i < w.c; i++) {
                        double sum = 0;
                        for (int r = 0; r < part->rank; r++)
                            sum += (double)part->up[o * part->rank + r] *
                                   part->down[(t * part->rank + r) * w.c + i];
                        dst[(t * w.w + o) * w.c + i] +=
                            (float)(sum * part->scale * merged->strength[part->adapter]);
                    }
        }
    }
}

double *mini_unet_run(struct mini_unet *m, struct gpu_device *dev, struct st_file *golden,
                      const struct lora_stack *stack, const float *strength, struct eval_set weights,
                      struct shape *shape) {
    struct arena *a = m->arena;
    struct error e = {0};
    struct graph *g = graph_create(a, dev ? gpu_device_storage(dev) : TENSOR_F32);
    static const char *const names[] = {"unet.latents", "unet.timesteps", "unet.context"};
    double *values[3];
    int io[3];
    for (int i = 0; i < 3; i++) {
        struct shape s;
        values[i] = eval_golden(golden, names[i], a, &s);
        io[i] = graph_io(g, names[i], s);
    }
    struct lora_binding b;
    if (strength) lora_stack_bind(stack, 0, g, "unet", 2, &b);
    struct nn_ctx c = nn_begin(g, m->params, strength ? &b.hook : NULL, "");
    struct unet_inputs in = {io[0], io[1], io[2], -1, -1};
    int out = graph_output(g, "out", unet_build(&c, &m->cfg, &in));
    nn_end(&c);
    if (!graph_verify(g, &e)) fail_msg("%s", e.text);
    struct eval_set sets[] = {weights, {stack->set, mini_stack_read, stack}};
    double **data = arena_alloc_n(a, (size_t)g->n_values, sizeof *data);
    for (int i = 0; i < 3; i++) data[io[i]] = values[i];
    if (strength) {
        int64_t n = 2 * stack->n_columns;
        float *rows = arena_alloc_n(a, (size_t)n, sizeof *rows);
        lora_stack_fill_strengths(stack, 2, strength, rows);
        data[b.strength] = arena_alloc_n(a, (size_t)n, sizeof **data);
        for (int64_t i = 0; i < n; i++) data[b.strength][i] = rows[i];
    }
    eval_run(dev, g, data, sets, strength ? 2 : 1, a);
    *shape = graph_shape(g, out);
    return data[out];
}
