#pragma once
/* Where in the UNet a layer sits, as people number it when they weigh a LoRA block by block: LDM's input blocks IN00..,
 * the middle M00, output blocks OUT00.., and BASE for the text encoders and what belongs to no block. */
#include "lora/key.h"
#include "lora/ldm.h"
#include "lora/split.h"

enum { LORA_BLOCK_BASE = 0, LORA_BLOCK_IN = 1, LORA_BLOCK_MIDDLE = 13, LORA_BLOCK_OUT = 14, LORA_N_BLOCKS = 26 };

/* A factor on the strength per block. */
struct lora_blocks {
    float factor[LORA_N_BLOCKS];
    float split[LORA_SPLIT_PARTS]; /* CONTENT's and STYLE's, whichever blocks the model has them in, instead of their factors */
    bool has_split[LORA_SPLIT_PARTS];
    int n_values; /* how many numbers said it: 17 or 26 (SD1, SD2), 12 or 20 (SDXL); 0: by name, for any family */
};

/* "1,0.5,..." in A1111's forms (lora-block-weight): 17 = BASE, IN01 02 04 05 07 08, M00, OUT03-11; 26 = all; for SDXL 12 =
 * BASE, IN04 05 07 08, M00, OUT00-05; 20 = all. Or "IN04=0.5,OUT03-08=0,M00=1": names, ranges, IN, MID or OUT for all of a
 * kind, * for every block; later ones win and what is not named keeps 1. CONTENT and STYLE are a B-LoRA's two blocks
 * (lora/split.h) and win over all others. False with a sentence. */
bool lora_blocks_parse(const char *text, struct lora_blocks *out, struct error *e);
/* False with a sentence if the numbers are those of the other families. */
bool lora_blocks_fit(const struct lora_blocks *b, bool xl, struct error *e);

/* Puts the factors of CONTENT and STYLE where this model has them. False if it has no such places. */
bool lora_blocks_settle(struct lora_blocks *b, const struct lora_model *model, struct error *e);

/* Block of a layer. */
int lora_block_of(const struct unet_ldm *ldm, enum lora_part part, const char *path);
