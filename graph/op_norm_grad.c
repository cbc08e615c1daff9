/* Gradients of the normalisations. With xhat = (x - mean)*rstd and d = dy*gamma (dy past the SiLU, where
 * there is one): dx = rstd*(d - mean(d) - xhat*mean(d*xhat)), means over what was normalised together. */
#include "graph/op_priv.h"

/* Emits the DX and DP nodes over the shared operands; drops the half of DP that is not wanted. */
static void norm_grad(struct graph *g, const struct node *n, enum op dx, enum op dp, const int *operands,
                      int n_operands, const bool *want, int *grad_in) {
    if (want[0]) grad_in[0] = op_emit(g, dx, operands, n_operands, n->attr);
    if (!want[1] && !want[2]) return;
    int node = graph_append(g, dp, operands, n_operands, n->attr);
    for (int i = 0; i < 2 && node >= 0; i++) {
        if (want[1 + i])
            grad_in[1 + i] = g->nodes[node].out[i];
        else
            op_drop_out(g, node, i);
    }
}

void op_group_norm_grad(struct graph *g, int node, const int *grad_out, const bool *want, int *grad_in) {
    const struct node n = g->nodes[node];
    int operands[5] = {grad_out[0], n.in[0], n.out[1], n.in[1], n.in[2]};
    norm_grad(g, &n, OP_GROUP_NORM_DX, OP_GROUP_NORM_DP, operands, 5, want, grad_in);
}

void op_layer_norm_grad(struct graph *g, int node, const int *grad_out, const bool *want, int *grad_in) {
    const struct node n = g->nodes[node];
    int operands[4] = {grad_out[0], n.in[0], n.out[1], n.in[1]};
    norm_grad(g, &n, OP_LAYER_NORM_DX, OP_LAYER_NORM_DP, operands, 4, want, grad_in);
}

/* dy before the activation, at element i of channel ch. in: g, x, stats, gamma, beta */
static double group_norm_dy(const struct node *node, const double *const *in, int64_t i, int ch, double xhat) {
    if (!node->attr.gnorm.silu) return in[0][i];
    double z = xhat * in[3][ch] + in[4][ch], s = 1 / (1 + exp(-z));
    return in[0][i] * (s + z * s * (1 - s));
}

void op_group_norm_dx_ref(const struct graph *g, const struct node *node, const double *const *in,
                          double *const *out) {
    struct shape x = op_shape_in(g, node, 1);
    int groups = node->attr.gnorm.groups, width = x.c / groups;
    int64_t rows = (int64_t)x.h * x.w;
    for (int image = 0; image < x.n; image++)
        for (int group = 0; group < groups; group++) {
            int64_t first = image * rows * x.c + (int64_t)group * width;
            const double *stats = in[2] + (image * groups + group) * 2;
            double sum = 0, dot = 0, count = (double)(rows * width);
            for (int pass = 0; pass < 2; pass++)
                for (int64_t k = 0; k < rows * width; k++) {
                    int64_t i = first + k / width * x.c + k % width;
                    int ch = (int)(group * width + k % width);
                    double xhat = (in[1][i] - stats[0]) * stats[1];
                    double d = group_norm_dy(node, in, i, ch, xhat) * in[3][ch];
                    if (pass) {
                        out[0][i] = stats[1] * (d - sum / count - xhat * dot / count);
                    } else {
                        sum += d;
                        dot += d * xhat;
                    }
                }
        }
}

void op_group_norm_dp_ref(const struct graph *g, const struct node *node, const double *const *in,
                          double *const *out) {
    struct shape x = op_shape_in(g, node, 1);
    int groups = node->attr.gnorm.groups, width = x.c / groups;
    for (int c = 0; c < x.c; c++) {
        double dgamma = 0, dbeta = 0;
        for (int64_t m = 0; m < shape_rows(x); m++) {
            const double *stats = in[2] + (m / ((int64_t)x.h * x.w) * groups + c / width) * 2;
            double xhat = (in[1][m * x.c + c] - stats[0]) * stats[1];
            double dy = group_norm_dy(node, in, m * x.c + c, c, xhat);
            dgamma += dy * xhat;
            dbeta += dy;
        }
        if (out[0]) out[0][c] = dgamma;
        if (out[1]) out[1][c] = dbeta;
    }
}

void op_layer_norm_dx_ref(const struct graph *g, const struct node *node, const double *const *in,
                          double *const *out) {
    struct shape x = op_shape_in(g, node, 1);
    for (int64_t m = 0; m < shape_rows(x); m++) {
        const double *dy = in[0] + m * x.c, *xr = in[1] + m * x.c, *stats = in[2] + m * 2;
        double sum = 0, dot = 0;
        for (int c = 0; c < x.c; c++) {
            sum += dy[c] * in[3][c];
            dot += dy[c] * in[3][c] * (xr[c] - stats[0]) * stats[1];
        }
        for (int c = 0; c < x.c; c++)
            out[0][m * x.c + c] =
                stats[1] * (dy[c] * in[3][c] - sum / x.c - (xr[c] - stats[0]) * stats[1] * dot / x.c);
    }
}

void op_layer_norm_dp_ref(const struct graph *g, const struct node *node, const double *const *in,
                          double *const *out) {
    struct shape x = op_shape_in(g, node, 1);
    for (int c = 0; c < x.c; c++) {
        double dgamma = 0, dbeta = 0;
        for (int64_t m = 0; m < shape_rows(x); m++) {
            double dy = in[0][m * x.c + c];
            dgamma += dy * (in[1][m * x.c + c] - in[2][m * 2]) * in[2][m * 2 + 1];
            dbeta += dy;
        }
        if (out[0]) out[0][c] = dgamma;
        if (out[1]) out[1][c] = dbeta;
    }
}
