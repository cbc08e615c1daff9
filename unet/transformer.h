#pragma once
/* Transformer2D: normalise, project in, blocks of self-attention, cross-attention and feed-forward, project
 * out, add the input. */
#include "nn/layers.h"

struct unet_transformer_params {
    int heads, depth, groups;
    bool linear_projection;
    bool only_cross; /* the first attention looks at the context too */
};
/* x {n,h,w,c}, context {n,1,t,d}; result like x. Every block is a recompute segment; the first one takes the
 * projection in with it and the last one the projection out. */
int unet_transformer(struct nn_ctx *c, const char *name, int x, int context,
                     const struct unet_transformer_params *p);
