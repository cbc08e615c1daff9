/* What a weight file holds that is not a Stable Diffusion to run, and why a tensor of one that is may be left alone. */
#ifndef ATELIER_CHECKPOINT_KIND_H
#define ATELIER_CHECKPOINT_KIND_H

#include "io/safetensors.h"

struct checkpoint_kind {
    const char *name; /* as people call it: "a Flux model", "an adapter (LoRA)" */
    const char *hint; /* what to do about it; no full stop */
    bool is_model;    /* of another family; else something that goes with a model */
};
/* By its tensors' names; false if it is none of the known ones. */
bool checkpoint_foreign(const struct st_file *f, struct checkpoint_kind *out);

/* Why nothing needs this tensor; NULL: unknown. `last_layer` is the OpenCLIP layer that SD2 skips, or -1. */
const char *checkpoint_ignored(const char *name, int last_layer);

#endif
