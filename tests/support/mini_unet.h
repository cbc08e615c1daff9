/* A miniature UNet from tests/data, declared and bound, and LoRA stacks on it. */
#ifndef ATELIER_TESTS_MINI_UNET_H
#define ATELIER_TESTS_MINI_UNET_H

#include "io/safetensors.h"
#include "lora/stack.h"
#include "tests/support/evaluate.h"
#include "unet/build.h"

struct mini_unet {
    struct arena *arena;
    struct unet_config cfg;
    struct nn_params *params;
    struct nn_target_list targets;
    struct st_file *weights;
};

/* Fails the test when something is missing. storage: what the weights are kept as on a device. */
void mini_unet_open(struct mini_unet *m, const char *name, enum tensor_dtype storage);
void mini_unet_close(struct mini_unet *m);

/* Two sealed LoRAs of ranks 3 and 5 on every third and every second layer: all mixtures occur. */
struct lora_stack *mini_unet_random_stack(struct mini_unet *m, bool trainable);
/* For struct eval_set: ctx is the stack. */
void mini_stack_read(const void *ctx, int slot, float *dst);
/* weight + sum of strength * alpha/rank * up * down, read as a slot's rows. */
struct mini_merged {
    const struct mini_unet *m;
    const struct lora_stack *stack;
    const float *strength; /* per adapter */
};

void mini_merged_read(const void *ctx, int slot, float *dst);

/* The golden forward (unet.latents and so on, batch 2), with the stack at strength[image*adapters + adapter],
 * or without it where strength is NULL. dev NULL: by the double references. */
double *mini_unet_run(struct mini_unet *m, struct gpu_device *dev, struct st_file *golden,
                      const struct lora_stack *stack, const float *strength, struct eval_set weights,
                      struct shape *shape);
#endif
