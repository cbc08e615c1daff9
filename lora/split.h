/* B-LoRA: the two places of an SDXL-like UNet that carry a picture's content and its style, so that one LoRA on both can
 * be used apart. Paper: Frenkel et al. 2024. */
#ifndef ATELIER_LORA_SPLIT_H
#define ATELIER_LORA_SPLIT_H

#include "lora/key.h"

/* Layers 0 and 1 of the first up block: their names in lora/blocks.h, which hold no other attention. */
#define LORA_SPLIT_CONTENT "OUT00"
#define LORA_SPLIT_STYLE "OUT01"

/* Whether the model has attention in both places: Stable Diffusion 1 and 2 have none there, and no places of theirs are
 * known to do the same. */
bool lora_split_check(const struct lora_model *model, struct error *e);

#endif
