/* Elementwise operators, channel concatenation and slices, copies. */
#include "graph/op_priv.h"

bool op_like_0_shape(struct graph *g, const struct node *node, struct shape out[GRAPH_MAX_OUT]) {
    if (!op_needs(g, node, 1)) return false;
    out[0] = op_shape_in(g, node, 0);
    if ((node->op == OP_ADD || node->op == OP_MUL) && op_needs(g, node, 2)) {
        struct shape b = op_shape_in(g, node, 1), a = out[0];
        int bcast = node->attr.binary.bcast;
        bool ok = bcast == BCAST_NONE     ? shape_equal(a, b)
                  : bcast == BCAST_NUMBER ? node->op == OP_MUL && shape_rows(b) == a.n
                  : bcast == BCAST_ROW    ? node->op == OP_MUL && b.n == a.n && shape_rows(b) == shape_rows(a) &&
                                             node->attr.binary.channel >= 0 && node->attr.binary.channel < b.c
                                          : b.c == a.c && shape_rows(b) == (bcast == BCAST_IMAGE ? a.n : 1);
        if (!ok)
            return graph_fail(g, "%s: {%d,%d,%d,%d} does not spread over {%d,%d,%d,%d}", op_table[node->op].name, b.n,
                              b.h, b.w, b.c, a.n, a.h, a.w, a.c),
                   false;
    }
    return !g->failed;
}

bool op_like_1_shape(struct graph *g, const struct node *node, struct shape out[GRAPH_MAX_OUT]) {
    if (!op_needs(g, node, 2)) return false;
    out[0] = op_shape_in(g, node, 1);
    return true;
}

/* --- unary --- */
static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double gelu(double x) { return 0.5 * x * (1 + erf(x * M_SQRT1_2)); }
static double gelu_slope(double x) {
    return 0.5 * (1 + erf(x * M_SQRT1_2)) + x * exp(-0.5 * x * x) * (M_2_SQRTPI * M_SQRT1_2 * 0.5);
}
static double swish_slope(double x, double beta) {
    double s = sigmoid(beta * x);
    return s + beta * x * s * (1 - s);
}
static double unary(int kind, double x) {
    switch (kind) {
    case UNARY_SILU: return x * sigmoid(x);
    case UNARY_GELU: return gelu(x);
    case UNARY_RELU: return x > 0 ? x : 0;
    default: return x * sigmoid(1.702 * x);
    }
}
static double unary_slope(int kind, double x) {
    switch (kind) {
    case UNARY_SILU: return swish_slope(x, 1);
    case UNARY_GELU: return gelu_slope(x);
    case UNARY_RELU: return x > 0 ? 1 : 0;
    default: return swish_slope(x, 1.702);
    }
}

void op_unary_grad(struct graph *g, int node, const int *grad_out, const bool *want, int *grad_in) {
    const struct node n = g->nodes[node];
    if (want[0]) grad_in[0] = op_emit(g, OP_UNARY_DX, (int[]){grad_out[0], n.in[0]}, 2, n.attr);
}

void op_unary_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    int64_t n = shape_elems(op_shape_in(g, node, 0));
    for (int64_t i = 0; i < n; i++) out[0][i] = unary(node->attr.unary.kind, in[0][i]);
}

void op_unary_dx_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    int64_t n = shape_elems(op_shape_in(g, node, 0));
    for (int64_t i = 0; i < n; i++) out[0][i] = in[0][i] * unary_slope(node->attr.unary.kind, in[1][i]);
}

/* --- geglu --- */
bool op_geglu_shape(struct graph *g, const struct node *node, struct shape out[GRAPH_MAX_OUT]) {
    if (!op_needs(g, node, 1)) return false;
    out[0] = op_shape_in(g, node, 0);
    if (out[0].c % 8) return graph_fail(g, "geglu: %d channels, not a multiple of 8", out[0].c), false;
    out[0].c /= 2;
    return true;
}

void op_geglu_grad(struct graph *g, int node, const int *grad_out, const bool *want, int *grad_in) {
    const struct node n = g->nodes[node];
    if (want[0]) grad_in[0] = op_emit(g, OP_GEGLU_DX, (int[]){grad_out[0], n.in[0]}, 2, n.attr);
}

void op_geglu_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    struct shape x = op_shape_in(g, node, 0);
    int half = x.c / 2;
    for (int64_t m = 0; m < shape_rows(x); m++)
        for (int c = 0; c < half; c++)
            out[0][m * half + c] = in[0][m * x.c + c] * gelu(in[0][m * x.c + half + c]);
}

void op_geglu_dx_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    struct shape x = op_shape_in(g, node, 1);
    int half = x.c / 2;
    for (int64_t m = 0; m < shape_rows(x); m++)
        for (int c = 0; c < half; c++) {
            int64_t value = m * x.c + c, gate = value + half;
            double dy = in[0][m * half + c];
            out[0][value] = dy * gelu(in[1][gate]);
            out[0][gate] = dy * in[1][value] * gelu_slope(in[1][gate]);
        }
}

/* --- add, mul, scale --- */
/* Index of b's element for element i of a. */
static int64_t spread(const struct node *node, struct shape a, struct shape b, int64_t i) {
    int64_t image = i / ((int64_t)a.h * a.w * a.c);
    switch (node->attr.binary.bcast) {
    case BCAST_IMAGE: return image * a.c + i % a.c;
    case BCAST_NUMBER: return image * b.c;
    case BCAST_ROW: return i / a.c * b.c + node->attr.binary.channel;
    case BCAST_ALL: return i % a.c;
    default: return i;
    }
}

/* The gradient of b from that of its spread rows. */
static int gather(struct graph *g, int grad, int b, int bcast) {
    if (bcast == BCAST_NONE) return grad;
    int sum = op_emit_row_sum(g, grad, bcast == BCAST_IMAGE);
    if (sum < 0) return -1;
    struct shape s = graph_shape(g, b);
    return shape_equal(graph_shape(g, sum), s) ? sum : graph_view(g, sum, s, 0);
}

void op_add_grad(struct graph *g, int node, const int *grad_out, const bool *want, int *grad_in) {
    const struct node n = g->nodes[node];
    if (want[0]) grad_in[0] = grad_out[0];
    if (want[1]) grad_in[1] = gather(g, grad_out[0], n.in[1], n.attr.binary.bcast);
}

void op_add_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    struct shape a = op_shape_in(g, node, 0), b = op_shape_in(g, node, 1);
    for (int64_t i = 0; i < shape_elems(a); i++) out[0][i] = in[0][i] + in[1][spread(node, a, b, i)];
}

void op_mul_grad(struct graph *g, int node, const int *grad_out, const bool *want, int *grad_in) {
    const struct node n = g->nodes[node];
    if (want[0]) grad_in[0] = op_emit(g, OP_MUL, (int[]){grad_out[0], n.in[1]}, 2, n.attr);
    if (!want[1]) return;
    if (n.attr.binary.bcast == BCAST_NUMBER || n.attr.binary.bcast == BCAST_ROW) {
        graph_fail(g, "mul: there is no gradient to one number per image or row");
        return;
    }
    int product = op_emit(g, OP_MUL, (int[]){grad_out[0], n.in[0]}, 2, (union op_attr){0});
    if (product >= 0) grad_in[1] = gather(g, product, n.in[1], n.attr.binary.bcast);
}

void op_mul_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    struct shape a = op_shape_in(g, node, 0), b = op_shape_in(g, node, 1);
    for (int64_t i = 0; i < shape_elems(a); i++) out[0][i] = in[0][i] * in[1][spread(node, a, b, i)];
}

void op_scale_grad(struct graph *g, int node, const int *grad_out, const bool *want, int *grad_in) {
    if (want[0]) grad_in[0] = op_emit(g, OP_SCALE, grad_out, 1, g->nodes[node].attr);
}

void op_scale_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    int64_t n = shape_elems(op_shape_in(g, node, 0));
    for (int64_t i = 0; i < n; i++) out[0][i] = in[0][i] * (double)node->attr.scale.factor;
}

/* --- channels --- */
bool op_concat_shape(struct graph *g, const struct node *node, struct shape out[GRAPH_MAX_OUT]) {
    if (!op_needs(g, node, 2)) return false;
    struct shape a = op_shape_in(g, node, 0), b = op_shape_in(g, node, 1);
    if (a.n != b.n || a.h != b.h || a.w != b.w)
        return graph_fail(g, "concat: {%d,%d,%d} pixels against {%d,%d,%d}", a.n, a.h, a.w, b.n, b.h, b.w), false;
    if (a.c % 4) return graph_fail(g, "concat: the first part has %d channels, not a multiple of 4", a.c), false;
    out[0] = a;
    out[0].c += b.c;
    return true;
}

void op_concat_grad(struct graph *g, int node, const int *grad_out, const bool *want, int *grad_in) {
    const struct node n = g->nodes[node];
    int parts[2] = {graph_shape(g, n.in[0]).c, graph_shape(g, n.in[1]).c};
    for (int i = 0; i < 2; i++)
        if (want[i]) grad_in[i] = graph_slice(g, grad_out[0], i ? parts[0] : 0, parts[i]);
}

/* Copies channels [from, from+count) of src's rows to [to, to+count) of dst's. */
static void copy_channels(double *dst, int dst_c, int to, const double *src, int src_c, int from, int count,
                          int64_t rows) {
    for (int64_t m = 0; m < rows; m++)
        memcpy(dst + m * dst_c + to, src + m * src_c + from, (size_t)count * sizeof(double));
}

void op_concat_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    struct shape a = op_shape_in(g, node, 0), b = op_shape_in(g, node, 1);
    copy_channels(out[0], a.c + b.c, 0, in[0], a.c, 0, a.c, shape_rows(a));
    copy_channels(out[0], a.c + b.c, a.c, in[1], b.c, 0, b.c, shape_rows(a));
}

void op_slice_grad(struct graph *g, int node, const int *grad_out, const bool *want, int *grad_in) {
    const struct node n = g->nodes[node];
    if (want[0])
        grad_in[0] = op_emit_shaped(g, OP_SLICE_DX, grad_out, 1, n.attr, graph_shape(g, n.in[0]));
}

void op_slice_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    struct shape x = op_shape_in(g, node, 0), y = op_shape_out(g, node, 0);
    copy_channels(out[0], y.c, 0, in[0], x.c, node->attr.slice.first, y.c, shape_rows(x));
}

void op_slice_dx_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    struct shape y = op_shape_in(g, node, 0), x = op_shape_out(g, node, 0);
    memset(out[0], 0, (size_t)shape_elems(x) * sizeof(double));
    copy_channels(out[0], x.c, node->attr.slice.first, in[0], y.c, 0, y.c, shape_rows(x));
}

void op_copy_grad(struct graph *g, int node, const int *grad_out, const bool *want, int *grad_in) {
    if (want[0]) grad_in[0] = grad_out[0];
}

void op_copy_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    memcpy(out[0], in[0], (size_t)shape_elems(op_shape_in(g, node, 0)) * sizeof(double));
}
