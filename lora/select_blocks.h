/* Which blocks a training run adapts, and with which ranks: lists of lora/blocks.h's names (BASE, IN00.., M00, OUT00..)
 * or of the start of diffusers' paths, such as up_blocks.1. */
#ifndef ATELIER_LORA_SELECT_BLOCKS_H
#define ATELIER_LORA_SELECT_BLOCKS_H

#include "lora/blocks.h"

/* A list "IN04,OUT03-05,mid_block" or, with values, "IN04=8,OUT03-05=32": the value (or 0) of the first item that names
 * the layer, whose block is lora_block_of's. IN, MID, OUT and BASE alone mean all of their kind. Case does not matter.
 * False if no item does. */
bool lora_select_block(const char *list, int block, const char *path, int *value);

/* Sound syntax, values there (1 to most) or not as asked, every item naming a layer of the model. */
bool lora_select_blocks_check(const char *list, bool values, int most, const struct lora_model *model, struct error *e);

#endif
