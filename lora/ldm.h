/* unet/ldm.h, for a model that is known by its list of layers. */
#ifndef ATELIER_LORA_LDM_H
#define ATELIER_LORA_LDM_H

#include "nn/target.h"
#include "unet/ldm.h"

struct arena;

void lora_ldm_measure(struct unet_ldm *l, const struct nn_target_list *unet);

/* "down_blocks.0.attentions.1.proj_in" -> "input_blocks.2.1.proj_in"; NULL where LDM has no such layer. */
char *lora_ldm_path(const struct unet_ldm *l, const char *path, struct arena *a);

#endif
