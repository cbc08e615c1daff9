#include "graph/build.h"

/* True when building may go on with x; a missing operand is reported once. */
static bool ready(struct graph *g, int x, const char *what) {
    if (g->failed) return false;
    if (x < 0) graph_fail(g, "%s: an operand is missing", what);
    return x >= 0;
}

static int append(struct graph *g, enum op op, const int *in, int n_in, union op_attr attr) {
    int node = graph_append(g, op, in, n_in, attr);
    return node < 0 ? -1 : g->nodes[node].out[0];
}

static int append_shaped(struct graph *g, enum op op, const int *in, int n_in, union op_attr attr,
                         struct shape out) {
    int node = graph_append_shaped(g, op, in, n_in, attr, &out, 1);
    return node < 0 ? -1 : g->nodes[node].out[0];
}

int graph_linear(struct graph *g, int x, int w, int bias, int res) {
    return append(g, OP_MATMUL, (int[]){x, w, bias, res}, 4, (union op_attr){0});
}

int graph_product(struct graph *g, int x, int w) {
    return append(g, OP_MATMUL, (int[]){x, w, -1, -1}, 4, (union op_attr){.matmul = {1}});
}

static bool conv_check(struct graph *g, int x, int w, int bias, int res, const struct conv_params *p,
                       struct shape *y) {
    if (!ready(g, x, "conv2d") || !ready(g, w, "conv2d")) return false;
    struct shape in = graph_shape(g, x), weight = graph_shape(g, w);
    int stride = p->stride ? p->stride : 1, k = p->k;
    if (k < 1 || stride < 1 || p->pad < 0 || p->pad >= k || shape_rows(weight) != (int64_t)k * k * weight.w)
        return graph_fail(g, "conv2d: weight {%d,%d,%d,%d} is not of a %dx%d kernel (pad %d)", weight.n, weight.h,
                          weight.w, weight.c, k, k, p->pad),
               false;
    if (weight.c != in.c)
        return graph_fail(g, "conv2d: x has %d channels, the weight takes %d", in.c, weight.c), false;
    int64_t high = ((int64_t)in.h << p->up) + 2 * p->pad - k, wide = ((int64_t)in.w << p->up) + 2 * p->pad - k;
    *y = (struct shape){in.n, p->out_h ? p->out_h : (int32_t)(high / stride + 1),
                        p->out_w ? p->out_w : (int32_t)(wide / stride + 1), weight.w};
    /* A stated size may reach past the end, where zeros are. */
    if ((high < 0 && !p->out_h) || (wide < 0 && !p->out_w) || y->h < 1 || y->w < 1)
        return graph_fail(g, "conv2d: %dx%d pixels are too few for a %dx%d kernel", in.w, in.h, k, k), false;
    if (bias >= 0 && (shape_rows(graph_shape(g, bias)) != 1 || graph_shape(g, bias).c != y->c))
        return graph_fail(g, "conv2d: the bias is not one row of %d channels", y->c), false;
    if (res >= 0 && !shape_equal(graph_shape(g, res), *y))
        return graph_fail(g, "conv2d: the residual's shape differs from the result's"), false;
    return true;
}

int graph_conv2d(struct graph *g, int x, int w, int bias, int res, const struct conv_params *p) {
    struct shape y;
    if (!conv_check(g, x, w, bias, res, p, &y)) return -1;
    if (p->k == 1 && p->stride <= 1 && !p->up && shape_rows(y) == shape_rows(graph_shape(g, x)))
        return graph_linear(g, x, w, bias, res); /* the same sums, and faster kernels */
    union op_attr attr = {.conv = {p->k, p->stride ? p->stride : 1, p->pad, p->up}};
    return append_shaped(g, OP_CONV2D, (int[]){x, w, bias, res}, 4, attr, y);
}

int graph_group_norm(struct graph *g, int x, int gamma, int beta, int groups, float eps, bool silu) {
    return append(g, OP_GROUP_NORM, (int[]){x, gamma, beta}, 3, (union op_attr){.gnorm = {groups, eps, silu}});
}

int graph_layer_norm(struct graph *g, int x, int gamma, int beta, float eps) {
    return append(g, OP_LAYER_NORM, (int[]){x, gamma, beta}, 3, (union op_attr){.lnorm = {eps}});
}

int graph_unary(struct graph *g, enum unary_kind kind, int x) {
    return append(g, OP_UNARY, &x, 1, (union op_attr){.unary = {(int32_t)kind}});
}

int graph_geglu(struct graph *g, int x) { return append(g, OP_GEGLU, &x, 1, (union op_attr){0}); }

int graph_add(struct graph *g, int a, int b, enum bcast bcast) {
    return append(g, OP_ADD, (int[]){a, b}, 2, (union op_attr){.binary = {(int32_t)bcast}});
}

int graph_mul(struct graph *g, int a, int b, enum bcast bcast) {
    return append(g, OP_MUL, (int[]){a, b}, 2, (union op_attr){.binary = {.bcast = (int32_t)bcast}});
}

int graph_mul_row(struct graph *g, int a, int b, int channel) {
    return append(g, OP_MUL, (int[]){a, b}, 2, (union op_attr){.binary = {.bcast = BCAST_ROW, .channel = channel}});
}

int graph_scale(struct graph *g, int a, float factor) {
    return append(g, OP_SCALE, &a, 1, (union op_attr){.scale = {factor}});
}

int graph_concat(struct graph *g, int a, int b) {
    return append(g, OP_CONCAT, (int[]){a, b}, 2, (union op_attr){0});
}

int graph_slice(struct graph *g, int x, int first, int count) {
    if (!ready(g, x, "slice")) return -1;
    struct shape s = graph_shape(g, x), y = s;
    if (first < 0 || first % 4 || count < 1 || first + count > s.c || (count % 4 && first + count < s.c))
        return graph_fail(g, "slice: channels %d..%d of %d are not whole planes", first, first + count, s.c);
    if (first == 0 && count == s.c) return x;
    y.c = count;
    /* Gradients of views of part of a value would have to be put together by the gradient pass. */
    if (shape_stride(y) == shape_stride(s) && !graph_value(g, x)->needs_grad)
        return graph_view(g, x, y, first / 4 * shape_stride(s));
    return append_shaped(g, OP_SLICE, &x, 1, (union op_attr){.slice = {first}}, y);
}

int graph_reshape(struct graph *g, int x, int n, int h, int w) {
    if (!ready(g, x, "reshape")) return -1;
    struct shape s = graph_shape(g, x), y = {n, h, w, s.c};
    if (shape_rows(y) != shape_rows(s))
        return graph_fail(g, "reshape: {%d,%d,%d} rows do not make {%d,%d,%d}", s.n, s.h, s.w, n, h, w);
    return shape_equal(s, y) ? x : graph_view(g, x, y, 0);
}

int graph_upsample(struct graph *g, int x, int out_h, int out_w) {
    if (!ready(g, x, "upsample")) return -1;
    struct shape s = graph_shape(g, x), y = {s.n, out_h, out_w, s.c};
    return append_shaped(g, OP_UPSAMPLE, &x, 1, (union op_attr){0}, y);
}

int graph_attention(struct graph *g, int q, int k, int v, int heads, float scale, bool causal) {
    return append(g, OP_ATTENTION, (int[]){q, k, v}, 3, (union op_attr){.attn = {heads, scale, causal}});
}

int graph_embed(struct graph *g, int ids, int table, int positions) {
    return append(g, OP_EMBED, (int[]){ids, table, positions}, 3, (union op_attr){0});
}

int graph_timestep(struct graph *g, int t, int dim, bool flip_sin_to_cos, float freq_shift) {
    if (!ready(g, t, "timestep")) return -1;
    struct shape s = graph_shape(g, t);
    if (s.c != 1 || dim < 2 || dim % 2 || (float)(dim / 2) <= freq_shift)
        return graph_fail(g, "timestep: %d channels of %d-channel steps", dim, s.c);
    union op_attr attr = {.timestep = {flip_sin_to_cos, freq_shift}};
    return append_shaped(g, OP_TIMESTEP, &t, 1, attr, (struct shape){s.n, s.h, s.w, dim});
}

int graph_dropout(struct graph *g, int x, int key, enum dropout_each each, float rate, bool rescale, uint32_t stream) {
    return append(g, OP_DROPOUT, (int[]){x, key}, 2, (union op_attr){.dropout = {(int32_t)each, rate, rescale, stream}});
}

int graph_copy(struct graph *g, int x) { return append(g, OP_COPY, &x, 1, (union op_attr){0}); }

int graph_mse(struct graph *g, int prediction, int target) {
    return append(g, OP_MSE, (int[]){prediction, target}, 2, (union op_attr){0});
}

int graph_huber(struct graph *g, int prediction, int target, int hyper, int mask) {
    return append(g, OP_HUBER, (int[]){prediction, target, hyper, mask}, 4, (union op_attr){0});
}
