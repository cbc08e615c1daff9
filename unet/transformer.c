#include "unet/transformer.h"

#include <math.h>

static const float layer_eps = 1e-5f, group_eps = 1e-6f;

/* Looking at one source. */
static int look(struct nn_ctx *c, int q, int source, int heads) {
    int width = nn_shape(c, q).c;
    int k = nn_linear(c, "to_k", source, width, false, -1);
    int v = nn_linear(c, "to_v", source, width, false, -1);
    return c->g->failed ? -1 : graph_attention(c->g, q, k, v, heads, 1 / sqrtf((float)(width / heads)), false);
}

/* What each part makes of all rows, added up by shares. */
static int look_at_parts(struct nn_ctx *c, int q, const struct unet_view *view, int heads) {
    int sum = -1;
    for (int i = 0; i < view->n && !c->g->failed; i++) {
        struct nn_ctx own = *c;
        if (view->parts[i].hook) own.hook = view->parts[i].hook;
        int o = look(&own, q, view->parts[i].context, heads);
        if (view->n > 1 && o >= 0) o = graph_mul_row(c->g, o, view->shares, i);
        sum = i > 0 && o >= 0 ? graph_add(c->g, sum, o, BCAST_NONE) : o;
    }
    return sum;
}

/* view NULL: x looks at itself. */
static int attention(struct nn_ctx *c, const char *name, int x, const struct unet_view *view, int res, int heads) {
    size_t mark = graph_push(c->g, "%s", name);
    int width = nn_shape(c, x).c;
    int q = nn_linear(c, "to_q", x, width, false, -1);
    int o = view ? look_at_parts(c, q, view, heads) : look(c, q, x, heads);
    o = nn_linear(c, "to_out.0", o, width, true, res);
    graph_pop(c->g, mark);
    return o;
}

static int feed_forward(struct nn_ctx *c, int x, int res) {
    size_t mark = graph_push(c->g, "ff.net");
    int width = nn_shape(c, x).c;
    int h = nn_linear(c, "0.proj", x, 8 * width, true, -1);
    if (h >= 0) h = graph_geglu(c->g, h);
    h = nn_linear(c, "2", h, width, true, res);
    graph_pop(c->g, mark);
    return h;
}

static int block(struct nn_ctx *c, int index, int x, const struct unet_view *view, const struct unet_transformer_params *p) {
    size_t mark = graph_push(c->g, "transformer_blocks.%d", index);
    int h = nn_layer_norm(c, "norm1", x, layer_eps);
    x = attention(c, "attn1", h, p->only_cross ? view : NULL, x, p->heads);
    h = nn_layer_norm(c, "norm2", x, layer_eps);
    x = attention(c, "attn2", h, view, x, p->heads);
    h = nn_layer_norm(c, "norm3", x, layer_eps);
    x = feed_forward(c, h, x);
    graph_pop(c->g, mark);
    return x;
}

static int project(struct nn_ctx *c, const char *name, int x, int width, bool linear, int res) {
    static const struct conv_params conv1 = {.k = 1, .stride = 1};
    return linear ? nn_linear(c, name, x, width, true, res) : nn_conv(c, name, x, width, &conv1, res);
}

int unet_transformer(struct nn_ctx *c, const char *name, int x, const struct unet_view *view,
                     const struct unet_transformer_params *p) {
    if (c->g->failed || x < 0) return -1;
    struct shape s = graph_shape(c->g, x);
    size_t mark = graph_push(c->g, "%s", name);
    graph_segment_begin(c->g);
    int residual = graph_reshape(c->g, x, s.n, 1, s.h * s.w);
    int h = nn_group_norm(c, "norm", residual, p->groups, group_eps, false);
    h = project(c, "proj_in", h, s.c, p->linear_projection, -1);
    for (int i = 0; i < p->depth; i++) {
        if (i > 0) {
            graph_segment_end(c->g);
            graph_segment_begin(c->g);
        }
        h = block(c, i, h, view, p);
    }
    h = project(c, "proj_out", h, s.c, p->linear_projection, residual);
    graph_segment_end(c->g);
    graph_pop(c->g, mark);
    return c->g->failed ? -1 : graph_reshape(c->g, h, s.n, s.h, s.w);
}
