#pragma once
/* A CLIP text tower as transformers' text_encoder/config.json describes it. */
#include <stdbool.h>
#include "base/error.h"

struct clip_config {
    int width, mlp_width, layers, heads;
    int vocabulary, positions; /* positions: most tokens, 77 */
    bool quick_gelu;           /* else exact gelu */
    float norm_eps;
    bool projection; /* CLIPTextModelWithProjection: text_projection.weight [projection_dim, width] */
    int projection_dim;
    int bos_id, eos_id, pad_id;
};

/* Reads and checks config.json; an error names the file and the key. */
bool clip_config_load(struct clip_config *cfg, const char *path, struct error *e);
