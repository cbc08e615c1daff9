#pragma once
/* The CLIP text tower as a tape. Parameter paths are transformers' names, "text_model." and all. */
#include "nn/target.h"
#include "textenc/clip_config.h"

/* Files may leave out "text_model.". */
extern const struct nn_alias clip_aliases[];
extern const int clip_n_aliases;

struct clip_inputs {
    int ids; /* {n,1,T,1} whole numbers below the vocabulary, T <= positions */
    int eos; /* {n,1,1,1}: for image i, i*T + place of its end token; -1: no pooled result */
};
struct clip_params {
    int skip;           /* layers left out at the end for `hidden` (clip skip N: N-1; SDXL: 1) */
    bool no_final_norm; /* `hidden` as it leaves its layer (SDXL), else through the final norm */
};
struct clip_outputs {
    int hidden; /* {n,1,T,width}: what the UNet looks at */
    int pooled; /* {n,1,1,width}, or projection_dim with a projection: end token of the last layer after the
                 * final norm; -1 unless eos was given */
};
/* False once the graph has failed. Every layer is a recompute segment. */
bool clip_build(struct nn_ctx *c, const struct clip_config *cfg, const struct clip_inputs *in,
                const struct clip_params *p, struct clip_outputs *out);

/* Declares every parameter in params (unsealed) and, unless targets is NULL, lists the layers an adapter may
 * attach to. */
bool clip_declare(struct nn_params *params, const struct clip_config *cfg, struct nn_target_list *targets,
                  struct error *e);
