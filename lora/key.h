/* What adapter files call the layers of a model. The names in use (kohya, diffusers, PEFT, LDM) cannot be taken apart
 * with certainty, so every name that a layer may have is made from the model and looked up. */
#ifndef ATELIER_LORA_KEY_H
#define ATELIER_LORA_KEY_H

#include "nn/target.h"

struct arena;

/* The parts of a model that adapters attach to, under diffusers' folder names. */
enum lora_part { LORA_UNET, LORA_TEXT, LORA_TEXT_2, LORA_N_PARTS };
const char *lora_part_name(enum lora_part part); /* "unet", "text_encoder", "text_encoder_2" */

/* A model's layers; NULL for a part that it lacks. The lists must outlive the keys. */
struct lora_model {
    const struct nn_target_list *targets[LORA_N_PARTS];
};

struct lora_place {
    enum lora_part part;
    const struct nn_target *target;
};

/* Immutable; any thread may look up. */
struct lora_keys;
struct lora_keys *lora_keys_create(const struct lora_model *model);
void lora_keys_destroy(struct lora_keys **k);

/* The layer that a file's module name (without the ".lora_down.weight" part) means; false if the model has none. */
bool lora_keys_find(const struct lora_keys *k, const char *name, struct lora_place *out);

/* kohya's name of a layer, "lora_unet_down_blocks_0_..."; for a model with two text encoders (SDXL) the UNet's
 * single-file one, "lora_unet_input_blocks_4_1_...", the only one that kohya's own scripts read there. Memory from a. */
char *lora_keys_kohya(const struct lora_keys *k, enum lora_part part, const char *path, struct arena *a);

const struct lora_model *lora_keys_model(const struct lora_keys *k);

#endif
