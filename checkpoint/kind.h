/* What a weight file holds that is not a Stable Diffusion to run, and why a tensor of one that is may be left alone. */
#ifndef ATELIER_CHECKPOINT_KIND_H
#define ATELIER_CHECKPOINT_KIND_H

#include "io/safetensors.h"

/* The file as people call it, by its tensors' names: "a Flux model", "an adapter (LoRA)"; NULL if it is none of the known
 * ones. *hint (never NULL) says what to do about it. */
const char *checkpoint_foreign(const struct st_file *f, const char **hint);

/* Why nothing needs this tensor; NULL: unknown. `last_layer` is the OpenCLIP layer that SD2 skips, or -1. */
const char *checkpoint_ignored(const char *name, int last_layer);

#endif
