/* Loss, gradient accumulation, moving averages. */
#include <math.h>
#include "graph/op_priv.h"

bool op_mse_shape(struct graph *g, const struct node *node, struct shape out[GRAPH_MAX_OUT]) {
    if (!op_needs(g, node, 2)) return false;
    struct shape x = op_shape_in(g, node, 0);
    if (!shape_equal(x, op_shape_in(g, node, 1)))
        return graph_fail(g, "mse: the prediction's shape differs from the target's"), false;
    out[0] = (struct shape){x.n, 1, 1, 1};
    return true;
}

void op_mse_grad(struct graph *g, int node, const int *grad_out, const bool *want, int *grad_in) {
    const struct node n = g->nodes[node];
    for (int i = 0; i < 2; i++) /* the error is symmetric: the target's gradient has the roles swapped */
        if (want[i])
            grad_in[i] = op_emit(g, OP_MSE_DX, (int[]){grad_out[0], n.in[i], n.in[1 - i]}, 3, (union op_attr){0});
}

void op_mse_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    struct shape x = op_shape_in(g, node, 0);
    int64_t per_image = shape_elems(x) / x.n;
    for (int image = 0; image < x.n; image++) {
        double sum = 0;
        for (int64_t i = image * per_image; i < (image + 1) * per_image; i++)
            sum += (in[0][i] - in[1][i]) * (in[0][i] - in[1][i]);
        out[0][image] = sum / (double)per_image;
    }
}

void op_mse_dx_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    struct shape x = op_shape_in(g, node, 1);
    int64_t per_image = shape_elems(x) / x.n;
    for (int64_t i = 0; i < shape_elems(x); i++)
        out[0][i] = in[0][i / per_image] * 2 * (in[1][i] - in[2][i]) / (double)per_image;
}

bool op_scalar_shape(struct graph *g, const struct node *node, struct shape out[GRAPH_MAX_OUT]) {
    if (!op_needs(g, node, 1)) return false;
    out[0] = op_vector(1);
    return true;
}

void op_sum_squares_ref(const struct graph *g, const struct node *node, const double *const *in,
                        double *const *out) {
    double sum = in[1] ? in[1][0] : 0;
    for (int64_t i = 0; i < shape_elems(op_shape_in(g, node, 0)); i++) sum += in[0][i] * in[0][i];
    out[0][0] = sum;
}

void op_accumulate_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    for (int64_t i = 0; i < shape_elems(op_shape_in(g, node, 0)); i++)
        out[0][i] = (in[2][0] == 0 ? 0 : in[0][i] * in[2][0]) + in[1][i];
}

void op_ema_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    double keep = in[2][0];
    for (int64_t i = 0; i < shape_elems(op_shape_in(g, node, 0)); i++)
        out[0][i] = keep == 0 ? in[1][i] : in[0][i] + (1 - keep) * (in[1][i] - in[0][i]);
}
