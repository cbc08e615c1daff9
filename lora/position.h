/* cloneofsimo/lora's early files number layers instead of naming them: "unet:12:up" belongs to the 13th layer that a
 * walk meets, depth first, in the order in which diffusers' and transformers' classes created their children in those
 * days, inside modules of the classes that the metadata lists: {"unet": "[\"CrossAttention\", \"GEGLU\"]"}. */
#ifndef ATELIER_LORA_POSITION_H
#define ATELIER_LORA_POSITION_H

#include "io/safetensors.h"
#include "lora/key.h"

/* Immutable; memory from the arena, which must outlive it, as must file and keys. */
struct lora_positions;
struct lora_positions *lora_positions_create(const struct st_file *file, const struct lora_keys *keys, struct arena *a);

/* "unet:12" -> the layer; false if the name is none of the dialect's or the file does not follow the model's order. */
bool lora_positions_find(const struct lora_positions *p, const char *module, struct lora_place *out);

/* Why a part's numbers cannot be followed, as a clause about one of its modules; NULL where they can. */
const char *lora_positions_why(const struct lora_positions *p, const char *module);

/* The oldest form is a bare list that torch.save wrote, one part per file: up, down, up, down, ... Whether the file is one,
 * and of which part: all layers of a text encoder's attention have one width, those of a UNet do not. */
bool lora_position_list(const struct st_file *file, enum lora_part *part);

/* "unet:12" -> 12 and the part; false for other names. */
bool lora_position_parse(const char *module, enum lora_part *part, int *index);

#endif
