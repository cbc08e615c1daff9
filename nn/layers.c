#include "nn/layers.h"

#include <stdio.h>
#include <string.h>

struct nn_ctx nn_begin(struct graph *g, struct nn_params *params, const struct nn_hook *hook,
                       const char *label) {
    struct nn_ctx c = {.g = g, .params = params, .hook = hook, .mark = strlen(g->prefix)};
    if (label[0]) graph_push(g, "%s", label);
    c.root = strlen(g->prefix);
    return c;
}

void nn_end(struct nn_ctx *c) {
    graph_pop(c->g, c->mark);
}

const char *nn_path(const struct nn_ctx *c) {
    const char *p = c->g->prefix + c->root;
    return *p == '.' ? p + 1 : p;
}

struct shape nn_shape(const struct nn_ctx *c, int v) {
    return v < 0 ? (struct shape){0} : graph_shape(c->g, v);
}

int nn_param(struct nn_ctx *c, const char *name, struct shape shape) {
    if (c->g->failed) return -1;
    char path[320];
    const char *layer = nn_path(c);
    snprintf(path, sizeof path, "%s%s%s", layer, layer[0] ? "." : "", name);
    struct error e = {0};
    int slot = nn_params_declare(c->params, path, shape, &e);
    if (slot < 0) return graph_fail(c->g, "%s", e.text);
    return graph_slot(c->g, c->params->set, SET_DATA, slot);
}

int nn_linear(struct nn_ctx *c, const char *name, int x, int out, bool bias, int res) {
    if (c->g->failed || x < 0) return -1;
    size_t mark = graph_push(c->g, "%s", name);
    struct shape weight = {1, 1, out, graph_shape(c->g, x).c};
    int w = nn_param(c, "weight", weight);
    int b = bias ? nn_param(c, "bias", (struct shape){1, 1, 1, out}) : -1;
    int y = c->g->failed ? -1 : graph_linear(c->g, x, w, b, res);
    if (y >= 0 && c->hook && c->hook->linear)
        y = c->hook->linear(c->hook->ctx, c->g, nn_path(c), x, y, weight);
    graph_pop(c->g, mark);
    return y;
}

int nn_conv(struct nn_ctx *c, const char *name, int x, int out, const struct conv_params *p, int res) {
    if (c->g->failed || x < 0) return -1;
    size_t mark = graph_push(c->g, "%s", name);
    struct shape weight = {p->k * p->k, 1, out, graph_shape(c->g, x).c};
    int w = nn_param(c, "weight", weight);
    int b = nn_param(c, "bias", (struct shape){1, 1, 1, out});
    bool plain = p->k == 1 && p->stride == 1 && p->pad == 0 && !p->up && !p->out_h;
    int y = -1;
    if (!c->g->failed) y = plain ? graph_linear(c->g, x, w, b, res) : graph_conv2d(c->g, x, w, b, res, p);
    if (y >= 0 && c->hook && c->hook->conv)
        y = c->hook->conv(c->hook->ctx, c->g, nn_path(c), x, y, weight, p);
    graph_pop(c->g, mark);
    return y;
}

static int norm(struct nn_ctx *c, const char *name, int x, const struct nn_norm *p, bool silu) {
    if (c->g->failed || x < 0) return -1;
    size_t mark = graph_push(c->g, "%s", name);
    struct shape vector = {1, 1, 1, graph_shape(c->g, x).c};
    int gamma = nn_param(c, "weight", vector), beta = nn_param(c, "bias", vector);
    bool hooked = c->hook && c->hook->has_norm && c->hook->has_norm(c->hook->ctx, nn_path(c), vector.c);
    bool fused = silu && !hooked;
    int y = -1;
    if (!c->g->failed)
        y = p->groups ? graph_group_norm(c->g, x, gamma, beta, p->groups, p->eps, fused)
                      : graph_layer_norm(c->g, x, gamma, beta, p->eps);
    if (y >= 0 && hooked) y = c->hook->norm(c->hook->ctx, c->g, nn_path(c), x, y, p);
    if (y >= 0 && silu && !fused) y = graph_unary(c->g, UNARY_SILU, y);
    graph_pop(c->g, mark);
    return y;
}

int nn_group_norm(struct nn_ctx *c, const char *name, int x, int groups, float eps, bool silu) {
    return norm(c, name, x, &(struct nn_norm){groups, eps}, silu);
}

int nn_layer_norm(struct nn_ctx *c, const char *name, int x, float eps) {
    return norm(c, name, x, &(struct nn_norm){0, eps}, false);
}

static int resnet_body(struct nn_ctx *c, int x, int skip, int temb, const struct nn_resnet_params *p) {
    static const struct conv_params conv3 = {.k = 3, .stride = 1, .pad = 1};
    static const struct conv_params conv1 = {.k = 1, .stride = 1};
    if (skip >= 0) x = graph_concat(c->g, x, skip);
    int h = nn_group_norm(c, "norm1", x, p->groups, p->eps, true);
    h = nn_conv(c, "conv1", h, p->out, &conv3, -1);
    if (temb >= 0 && h >= 0)
        h = graph_add(c->g, h, nn_linear(c, "time_emb_proj", temb, p->out, true, -1), BCAST_IMAGE);
    h = nn_group_norm(c, "norm2", h, p->groups, p->eps, true);
    if (nn_shape(c, x).c != p->out) x = nn_conv(c, "conv_shortcut", x, p->out, &conv1, -1);
    h = nn_conv(c, "conv2", h, p->out, &conv3, x);
    if (h >= 0 && p->output_scale != 0 && p->output_scale != 1) h = graph_scale(c->g, h, 1 / p->output_scale);
    return h;
}

int nn_resnet(struct nn_ctx *c, const char *name, int x, int skip, int temb,
              const struct nn_resnet_params *p) {
    if (c->g->failed || x < 0) return -1;
    size_t mark = graph_push(c->g, "%s", name);
    graph_segment_begin(c->g);
    int y = resnet_body(c, x, skip, temb, p);
    graph_segment_end(c->g);
    graph_pop(c->g, mark);
    return c->g->failed ? -1 : y;
}

int nn_upsampler(struct nn_ctx *c, const char *name, int x, int to_h, int to_w) {
    if (c->g->failed || x < 0) return -1;
    size_t mark = graph_push(c->g, "%s", name);
    struct shape s = graph_shape(c->g, x);
    struct conv_params p = {.k = 3, .stride = 1, .pad = 1};
    if ((!to_h || to_h == 2 * s.h) && (!to_w || to_w == 2 * s.w))
        p.up = true;
    else
        x = graph_upsample(c->g, x, to_h, to_w);
    x = nn_conv(c, "conv", x, s.c, &p, -1);
    graph_pop(c->g, mark);
    return x;
}

int nn_downsampler(struct nn_ctx *c, const char *name, int x, int pad) {
    if (c->g->failed || x < 0) return -1;
    size_t mark = graph_push(c->g, "%s", name);
    struct shape s = graph_shape(c->g, x);
    struct conv_params p = {.k = 3, .stride = 2, .pad = pad};
    if (pad == 0) p.out_h = s.h / 2, p.out_w = s.w / 2;
    x = nn_conv(c, "conv", x, s.c, &p, -1);
    graph_pop(c->g, mark);
    return x;
}
