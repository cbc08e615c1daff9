#pragma once
/* The CLIP text tower as a tape. Parameter paths are transformers' names, "text_model." and all. */
#include "nn/target.h"
#include "textenc/clip_config.h"

/* What prompts may want of the tower beyond tokens; each -1 if not wanted. */
struct clip_extras {
    int unseen;    /* {n,1,T,4}: channel 0 is CLIP_UNSEEN for tokens that no token may look at, else 0; the others 0 */
    int one;       /* {n,1,T,4}: channel 0 is 1, the others 0; needed with unseen. Heads must be a multiple of 4 wide. */
    int keep, own; /* {n,1,T,width}: token embeddings become embedding*keep + own (learnt words), before positions */
    int places;    /* {n,1,T,1}: 0, 1, .. T-1 in every window; needed with own */
};
#define CLIP_UNSEEN (-60000.0f) /* a weight of 0 after the softmax, and a number in f16 */

struct clip_inputs {
    int ids; /* {n,1,T,1} whole numbers below the vocabulary, T <= positions */
    int eos; /* {n,1,1,1}: for image i, i*T + place of its end token; -1: no pooled result */
    const struct clip_extras *extras; /* NULL: none */
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
