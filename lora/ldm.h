/* The UNet's layer names in single-file (LDM) checkpoints, which number input and output blocks through. */
#ifndef ATELIER_LORA_LDM_H
#define ATELIER_LORA_LDM_H

#include "nn/target.h"

struct arena;

enum { LORA_LDM_LEVELS = 16 };

/* What the numbers depend on, read off the names of a UNet's layers. */
struct lora_ldm_side {
    int resnets[LORA_LDM_LEVELS];
    bool sampler[LORA_LDM_LEVELS], attention[LORA_LDM_LEVELS];
};
struct lora_ldm {
    struct lora_ldm_side down, up;
};

void lora_ldm_measure(struct lora_ldm *l, const struct nn_target_list *unet);

/* "down_blocks.0.attentions.1.proj_in" -> "input_blocks.2.1.proj_in"; NULL where LDM has no such layer. */
char *lora_ldm_path(const struct lora_ldm *l, const char *path, struct arena *a);

#endif
