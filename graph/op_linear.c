/* Matrix products and row sums. Letters: M rows of x, K channels in, N channels out. */
#include "graph/op_priv.h"

bool op_matmul_shape(struct graph *g, const struct node *node, struct shape out[GRAPH_MAX_OUT]) {
    if (!op_needs(g, node, 2)) return false;
    struct shape x = op_shape_in(g, node, 0), w = op_shape_in(g, node, 1);
    int64_t k = node->attr.matmul.trans ? shape_rows(w) : w.c;
    int64_t n = node->attr.matmul.trans ? w.c : shape_rows(w);
    if (k != x.c)
        return graph_fail(g, "matmul: x has %d channels, the weight takes %lld", x.c, (long long)k), false;
    if (op_has(node, 2) && !op_is_vector(op_shape_in(g, node, 2), (int32_t)n))
        return graph_fail(g, "matmul: the bias is not one row of %lld channels", (long long)n), false;
    out[0] = (struct shape){x.n, x.h, x.w, (int32_t)n};
    if (op_has(node, 3) && !shape_equal(op_shape_in(g, node, 3), out[0]))
        return graph_fail(g, "matmul: the residual's shape differs from the result's"), false;
    return true;
}

void op_matmul_grad(struct graph *g, int node, const int *grad_out, const bool *want, int *grad_in) {
    const struct node n = g->nodes[node];
    int dy = grad_out[0], x = n.in[0], w = n.in[1];
    bool trans = n.attr.matmul.trans;
    if (want[0]) grad_in[0] = op_emit(g, OP_MATMUL, (int[]){dy, w}, 2, (union op_attr){.matmul = {!trans}});
    if (want[1]) /* the weight's rows are outputs, or with trans inputs */
        grad_in[1] = op_emit(g, OP_MATMUL_TN, trans ? (int[]){x, dy} : (int[]){dy, x}, 2, (union op_attr){0});
    if (want[2]) grad_in[2] = op_emit_row_sum(g, dy, false);
    if (want[3]) grad_in[3] = dy;
}

void op_matmul_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    struct shape x = op_shape_in(g, node, 0), w = op_shape_in(g, node, 1);
    int64_t rows = shape_rows(x), n_in = x.c;
    int64_t n_out = node->attr.matmul.trans ? w.c : shape_rows(w);
    for (int64_t m = 0; m < rows; m++) {
        const double *xr = in[0] + m * n_in;
        double *y = out[0] + m * n_out;
        for (int64_t o = 0; o < n_out; o++) {
            y[o] = in[2] ? in[2][o] : 0;
            if (in[3]) y[o] += in[3][m * n_out + o];
        }
        if (node->attr.matmul.trans) {
            for (int64_t k = 0; k < n_in; k++)
                for (int64_t o = 0; o < n_out; o++) y[o] += xr[k] * in[1][k * n_out + o];
            continue;
        }
        for (int64_t o = 0; o < n_out; o++) {
            double sum = 0;
            for (int64_t k = 0; k < n_in; k++) sum += xr[k] * in[1][o * n_in + k];
            y[o] += sum;
        }
    }
}

bool op_matmul_tn_shape(struct graph *g, const struct node *node, struct shape out[GRAPH_MAX_OUT]) {
    if (!op_needs(g, node, 2)) return false;
    struct shape a = op_shape_in(g, node, 0), b = op_shape_in(g, node, 1);
    if (shape_rows(a) != shape_rows(b))
        return graph_fail(g, "matmul_tn: %lld rows against %lld", (long long)shape_rows(a), (long long)shape_rows(b)),
               false;
    out[0] = (struct shape){1, 1, a.c, b.c};
    if (op_has(node, 2) && !shape_equal(op_shape_in(g, node, 2), out[0]))
        return graph_fail(g, "matmul_tn: acc's shape differs from the result's"), false;
    return true;
}

void op_matmul_tn_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    int64_t rows = shape_rows(op_shape_in(g, node, 0));
    int64_t na = op_shape_in(g, node, 0).c, nb = op_shape_in(g, node, 1).c;
    for (int64_t i = 0; i < na * nb; i++) out[0][i] = in[2] ? in[2][i] : 0;
    for (int64_t m = 0; m < rows; m++)
        for (int64_t i = 0; i < na; i++) {
            double a = in[0][m * na + i];
            for (int64_t j = 0; j < nb; j++) out[0][i * nb + j] += a * in[1][m * nb + j];
        }
}

bool op_row_sum_shape(struct graph *g, const struct node *node, struct shape out[GRAPH_MAX_OUT]) {
    if (!op_needs(g, node, 1)) return false;
    struct shape x = op_shape_in(g, node, 0);
    out[0] = (struct shape){node->attr.sum.per_image ? x.n : 1, 1, 1, x.c};
    return true;
}

void op_row_sum_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    struct shape x = op_shape_in(g, node, 0);
    int64_t rows = shape_rows(x), groups = node->attr.sum.per_image ? x.n : 1;
    memset(out[0], 0, (size_t)(groups * x.c) * sizeof(double));
    for (int64_t m = 0; m < rows; m++) {
        double *sum = out[0] + m / (rows / groups) * x.c;
        for (int c = 0; c < x.c; c++) sum[c] += in[0][m * x.c + c];
    }
}
