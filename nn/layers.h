#pragma once
/* Layers with named parameters over the graph builders. A layer's name extends the graph's label path, so
 * that labels, parameters and adapter targets all carry the checkpoint's names. Every function returns a
 * value, or -1 once the graph has failed; values may be -1 then too. */
#include "nn/params.h"
#include "graph/build.h"

/* Adapters. A linear or convolution layer shows its hook the path (relative to the model), the input and
 * the finished output (bias and residual in it) and uses what the hook returns: the output with the adapter's
 * part added, or `base` as it was. Where the graph goes wrong the hook returns -1. Any function may be NULL. */
struct nn_norm {
    int groups; /* 0: layer norm */
    float eps;
};
struct nn_hook {
    void *ctx;
    int (*linear)(void *ctx, struct graph *g, const char *path, int x, int base, struct shape weight);
    int (*conv)(void *ctx, struct graph *g, const char *path, int x, int base, struct shape weight,
                const struct conv_params *conv); /* also 1x1 */
    /* Norms are asked about before they are built; where the answer is true, base comes without the activation
     * that would be fused into it, which follows on what norm returns. */
    bool (*has_norm)(void *ctx, const char *path, int channels);
    int (*norm)(void *ctx, struct graph *g, const char *path, int x, int base, const struct nn_norm *norm);
};

struct nn_ctx {
    struct graph *g;
    struct nn_params *params;
    const struct nn_hook *hook; /* NULL: none */
    size_t root;                /* length of the label prefix that is not part of parameter paths */
    size_t mark;                /* the prefix before nn_begin */
};
/* Labels get `label` in front (may be ""); parameter paths do not. Undo with nn_end. */
struct nn_ctx nn_begin(struct graph *g, struct nn_params *params, const struct nn_hook *hook,
                       const char *label);
void nn_end(struct nn_ctx *c);

/* Path of the layer being built, relative to the model. */
const char *nn_path(const struct nn_ctx *c);
/* Shape of v; all zero for -1. */
struct shape nn_shape(const struct nn_ctx *c, int v);
/* Value of parameter <path>.<name>. */
int nn_param(struct nn_ctx *c, const char *name, struct shape shape);

/* weight [out,in] and, if asked for, bias [out]; res (or -1) is added. */
int nn_linear(struct nn_ctx *c, const char *name, int x, int out, bool bias, int res);
/* weight [out,in,k,k], bias [out]; res (or -1) is added. A plain 1x1 runs as a matrix product. */
int nn_conv(struct nn_ctx *c, const char *name, int x, int out, const struct conv_params *p, int res);
int nn_group_norm(struct nn_ctx *c, const char *name, int x, int groups, float eps, bool silu);
int nn_layer_norm(struct nn_ctx *c, const char *name, int x, float eps);

/* Residual block shared by UNet and VAE: norm1, silu, conv1, + time_emb_proj(temb), norm2, silu, conv2,
 * + x or conv_shortcut(x), where x is first joined with skip's channels if skip is not -1.
 * temb: {n,1,1,t} after its silu, or -1 for none. One recompute segment. */
struct nn_resnet_params {
    int out, groups;
    float eps;
    float output_scale; /* the sum is divided by it; 0 means 1 */
};
int nn_resnet(struct nn_ctx *c, const char *name, int x, int skip, int temb,
              const struct nn_resnet_params *p);

/* Nearest x2 then 3x3 convolution "conv"; to_h, to_w: the exact size wanted (0: twice the input's). */
int nn_upsampler(struct nn_ctx *c, const char *name, int x, int to_h, int to_w);
/* 3x3 convolution "conv" with stride 2. pad 1: zeros all round; pad 0: one row and column of zeros after. */
int nn_downsampler(struct nn_ctx *c, const char *name, int x, int pad);
