#pragma once
/* The layers of a family's usual model, known without its files: enough to read a LoRA file's names and shapes against. */
#include "engine/adapter.h"

struct skeleton {
    struct arena *arena;
    const char *name; /* "SD1.5" */
    struct nn_target_list unet, texts[MODEL_MAX_TEXTS];
    struct lora_model layers;
};
/* Of the only family (Stable Diffusion 1, 2 or SDXL) into which all these files fit whole. NULL with a sentence where none
 * does, or more than one: then a model has to say. */
struct skeleton *skeleton_for_files(const char *const *paths, int n, struct error *err);
void skeleton_destroy(struct skeleton **s);
