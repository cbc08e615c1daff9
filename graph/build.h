#pragma once
/* Eager-looking builders over graph.h: each appends one node and returns its (first) result's value, or
 * -1 after a failure. Optional arguments are -1. Shapes as in graph/shape.h. */
#include "graph/graph.h"

/* x {.., in}, w {1,1,out,in}, bias {1,1,1,out}, res {like the result}: result keeps x's n,h,w. */
int graph_linear(struct graph *g, int x, int w, int bias, int res);
/* x {.., in} times w, whose rows are the inputs: {in rows, out}. */
int graph_product(struct graph *g, int x, int w);
struct conv_params {
    int k, stride, pad; /* pad: zeros above and left; default 0 */
    int out_h, out_w;   /* 0: (in + 2*pad - k)/stride + 1, with in doubled when up */
    bool up;            /* read the input through nearest x2 */
};
int graph_conv2d(struct graph *g, int x, int w, int bias, int res, const struct conv_params *p);
int graph_group_norm(struct graph *g, int x, int gamma, int beta, int groups, float eps, bool silu);
int graph_layer_norm(struct graph *g, int x, int gamma, int beta, float eps);
int graph_unary(struct graph *g, enum unary_kind kind, int x);
int graph_geglu(struct graph *g, int x);
int graph_add(struct graph *g, int a, int b, enum bcast bcast);
int graph_mul(struct graph *g, int a, int b, enum bcast bcast);
/* Every row of a times its own number, `channel` of the same row of b. */
int graph_mul_row(struct graph *g, int a, int b, int channel);
int graph_scale(struct graph *g, int a, float factor);
int graph_concat(struct graph *g, int a, int b);
/* Channels [first, first+count), whole planes (first % 4 == 0; count % 4 == 0 unless it ends x): a view,
 * or a copy where x needs a gradient. */
int graph_slice(struct graph *g, int x, int first, int count);
/* Same rows and channels under another n,h,w: a view. */
int graph_reshape(struct graph *g, int x, int n, int h, int w);
int graph_upsample(struct graph *g, int x, int out_h, int out_w);
int graph_attention(struct graph *g, int q, int k, int v, int heads, float scale, bool causal);
int graph_embed(struct graph *g, int ids, int table, int positions);
int graph_timestep(struct graph *g, int t, int dim, bool flip_sin_to_cos, float freq_shift);
/* key: {1,1,1,2}, see OP_DROPOUT. stream tells the tape's dropouts apart. */
int graph_dropout(struct graph *g, int x, int key, enum dropout_each each, float rate, bool rescale, uint32_t stream);
int graph_copy(struct graph *g, int x);
int graph_mse(struct graph *g, int prediction, int target);
/* hyper {n,1,1,2}: c and factor per image, see OP_HUBER; mask: like the prediction, or -1. */
int graph_huber(struct graph *g, int prediction, int target, int hyper, int mask);
