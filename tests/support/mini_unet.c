#include "tests/support/cm.h"
#include "tests/support/evaluate.h"
#include "tests/support/mini_unet.h"

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
        !nn_params_bind(m->params, (const struct st_file *const[]){m->weights}, 1, NULL, 0, NULL, &e))
        fail_msg("%s", e.text);
}

void mini_unet_close(struct mini_unet *m) {
    st_close(&m->weights);
    arena_destroy(&m->arena);
}

void mini_stack_read(const void *ctx, int slot, float *dst) {
    lora_stack_read_slot(ctx, slot, dst);
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
    lora_stack_seal(s);
    return s;
}
