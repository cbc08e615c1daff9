#pragma once
/* Adapters baked into a checkpoint: every weight becomes W + sum of strength * dW, added up in f32, and is written under
 * its own name, in its own type, in the layout that the model came in: a single file, or a folder with everything that
 * stood in it. Tensor by tensor: memory is a few times the largest tensor. No device is needed. */
#include "engine/model.h"

struct merge_lora {
    const char *path;
    float strength;
};
struct merge_params {
    const struct merge_lora *loras;
    int n;
    const char *out; /* a .safetensors file for a single file, else a folder; must not exist (a file is replaced) */
};
struct merge_result {
    int n_layers, n_tensors; /* changed; a fused tensor holds several layers */
};
/* LoRAs that fit in part only are reported to the log. False with a sentence otherwise; nothing is left behind then. */
bool model_merge(const struct model *m, const struct merge_params *p, struct merge_result *result, struct error *err);
