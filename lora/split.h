/* B-LoRA: two places of a UNet, one of which decides what a picture shows and the other how, so that a LoRA on both can be
 * used apart. Paper: Frenkel et al. 2024, who found SDXL's by giving one block another prompt than the rest. */
#ifndef ATELIER_LORA_SPLIT_H
#define ATELIER_LORA_SPLIT_H

#include "lora/key.h"

enum lora_split_part { LORA_SPLIT_CONTENT, LORA_SPLIT_STYLE, LORA_SPLIT_PARTS };

struct lora_split {
    const char *path[LORA_SPLIT_PARTS]; /* a transformer's, constant: "up_blocks.0.attentions.0" */
    const char *both;                   /* the same as a list for lora/select_blocks.h */
    int block[LORA_SPLIT_PARTS];        /* as lora/blocks.h numbers them; holds no other attention */
};
/* SDXL's family: the first two attentions of the first up block, as in the paper and in the files there are. Other models with
 * attention in their first up block (the demo model): the two that the paper's experiment finds there, one attention
 * later (docs/gallery/b-lora.md). False with a sentence for Stable Diffusion 1 and 2, of which no such places are known. */
bool lora_split_find(const struct lora_model *model, struct lora_split *out, struct error *e);

#endif
