/* Where in a model a layer lies, by the names that block-wise LoRA tools use: BASE (text encoders), IN00.., M00, OUT00..
 * after the single-file numbering, or the start of diffusers' path, such as up_blocks.1. */
#ifndef ATELIER_LORA_BLOCK_H
#define ATELIER_LORA_BLOCK_H

#include "base/error.h"
#include "lora/key.h"
#include "lora/ldm.h"

enum { LORA_BLOCK_NAME_BYTES = 8 };
/* "IN04"; "" for layers outside all blocks (time embedding). */
void lora_block_name(const struct lora_ldm *l, enum lora_part part, const char *path, char out[LORA_BLOCK_NAME_BYTES]);

/* A list "IN04,OUT03-OUT05,mid_block" or, with values, "IN04=8,OUT03-OUT05=32": the first item that names the layer.
 * IN, M, OUT and BASE alone mean all of their kind. Case does not matter. False if none does. */
bool lora_blocks_find(const char *list, const char *block, const char *path, int *value);

/* Sound syntax, values there (1 to most) or not as asked, every item naming a layer of the model. */
bool lora_blocks_check(const char *list, bool values, int most, const struct lora_model *model, struct error *e);

#endif
