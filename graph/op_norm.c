/* Group and layer normalisation, forward. Variance is biased, eps is inside the root. The gradients and
 * their references are in op_norm_grad.c. */
#include "graph/op_priv.h"

static bool norm_check(struct graph *g, const struct node *node) {
    if (!op_needs(g, node, 3)) return false;
    struct shape x = op_shape_in(g, node, 0);
    for (int i = 1; i < 3; i++)
        if (!op_is_vector(op_shape_in(g, node, i), x.c))
            return graph_fail(g, "%s: input %d is not one row of %d channels", op_table[node->op].name, i, x.c), false;
    return true;
}

bool op_group_norm_shape(struct graph *g, const struct node *node, struct shape out[GRAPH_MAX_OUT]) {
    if (!norm_check(g, node)) return false;
    struct shape x = op_shape_in(g, node, 0);
    int groups = node->attr.gnorm.groups;
    if (groups < 1 || x.c % groups) return graph_fail(g, "group_norm: %d channels in %d groups", x.c, groups), false;
    out[0] = x;
    out[1] = (struct shape){x.n, 1, 1, 2 * groups};
    return true;
}

bool op_layer_norm_shape(struct graph *g, const struct node *node, struct shape out[GRAPH_MAX_OUT]) {
    if (!norm_check(g, node)) return false;
    out[0] = out[1] = op_shape_in(g, node, 0);
    out[1].c = 2;
    return true;
}

bool op_norm_dp_shape(struct graph *g, const struct node *node, struct shape out[GRAPH_MAX_OUT]) {
    if (!op_needs(g, node, 4)) return false;
    out[0] = out[1] = op_vector(op_shape_in(g, node, 1).c);
    return true;
}

/* Mean and 1/std of rows x cols numbers, cols of them adjacent, rows `stride` apart. */
static void moments(const double *x, int64_t rows, int cols, int stride, double eps, double *mean, double *rstd) {
    double sum = 0, squares = 0, n = (double)rows * cols;
    for (int64_t r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++) sum += x[r * stride + c];
    *mean = sum / n;
    for (int64_t r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++) {
            double d = x[r * stride + c] - *mean;
            squares += d * d;
        }
    *rstd = 1 / sqrt(squares / n + eps);
}

void op_group_norm_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    struct shape x = op_shape_in(g, node, 0);
    int groups = node->attr.gnorm.groups, width = x.c / groups;
    int64_t rows = (int64_t)x.h * x.w;
    for (int image = 0; image < x.n; image++)
        for (int group = 0; group < groups; group++) {
            int64_t first = image * rows * x.c + (int64_t)group * width;
            double mean, rstd;
            moments(in[0] + first, rows, width, x.c, (double)node->attr.gnorm.eps, &mean, &rstd);
            if (out[1]) {
                out[1][(image * groups + group) * 2] = mean;
                out[1][(image * groups + group) * 2 + 1] = rstd;
            }
            for (int64_t r = 0; r < rows; r++)
                for (int c = 0; c < width; c++) {
                    int64_t i = first + r * x.c + c;
                    int ch = group * width + c;
                    double y = (in[0][i] - mean) * rstd * in[1][ch] + in[2][ch];
                    out[0][i] = node->attr.gnorm.silu ? y / (1 + exp(-y)) : y;
                }
        }
}

void op_layer_norm_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    struct shape x = op_shape_in(g, node, 0);
    for (int64_t r = 0; r < shape_rows(x); r++) {
        const double *xr = in[0] + r * x.c;
        double mean, rstd;
        moments(xr, 1, x.c, x.c, (double)node->attr.lnorm.eps, &mean, &rstd);
        if (out[1]) {
            out[1][r * 2] = mean;
            out[1][r * 2 + 1] = rstd;
        }
        for (int c = 0; c < x.c; c++) out[0][r * x.c + c] = (xr[c] - mean) * rstd * in[1][c] + in[2][c];
    }
}
