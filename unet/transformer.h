#pragma once
/* Transformer2D: normalise, project in, blocks of self-attention, cross-attention and feed-forward, project
 * out, add the input. */
#include "unet/build.h"

struct unet_transformer_params {
    int heads, depth, groups;
    bool linear_projection;
    bool only_cross; /* the first attention looks at the context too */
};
/* What cross-attention looks at: parts[n], and their shares {n,h,w,>=n} of the rows unless n is 1. */
struct unet_view {
    const struct unet_part *parts;
    int n, shares;
};
/* x {n,h,w,c}; result like x. Every block is a recompute segment; the first one takes the
 * projection in with it and the last one the projection out. */
int unet_transformer(struct nn_ctx *c, const char *name, int x, const struct unet_view *view,
                     const struct unet_transformer_params *p);
