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

bool op_huber_shape(struct graph *g, const struct node *node, struct shape out[GRAPH_MAX_OUT]) {
    if (!op_needs(g, node, 3)) return false;
    struct shape x = op_shape_in(g, node, 0), hyper = op_shape_in(g, node, 2);
    if (!shape_equal(x, op_shape_in(g, node, 1)) || (op_has(node, 3) && !shape_equal(x, op_shape_in(g, node, 3))))
        return graph_fail(g, "huber: prediction, target and mask differ in shape"), false;
    if (!shape_equal(hyper, (struct shape){x.n, 1, 1, 2}))
        return graph_fail(g, "huber: c and factor of %d images for a batch of %d", hyper.n, x.n), false;
    out[0] = (struct shape){x.n, 1, 1, 1};
    return true;
}

void op_huber_grad(struct graph *g, int node, const int *grad_out, const bool *want, int *grad_in) {
    const struct node n = g->nodes[node];
    int mask = op_has(&n, 3) ? n.in[3] : -1;
    for (int i = 0; i < 2; i++)
        if (want[i])
            grad_in[i] =
                op_emit(g, OP_HUBER_DX, (int[]){grad_out[0], n.in[i], n.in[1 - i], n.in[2], mask}, 5, (union op_attr){0});
}

/* sqrt(d^2 + c^2) - c, without the difference of nearly equal numbers. */
static double huber(double d, double c) {
    double r = hypot(d, c) + c;
    return r > 0 ? d * d / r : 0;
}

void op_huber_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    struct shape x = op_shape_in(g, node, 0);
    int64_t per_image = shape_elems(x) / x.n;
    for (int image = 0; image < x.n; image++) {
        double sum = 0, c = in[2][2 * image], factor = in[2][2 * image + 1];
        for (int64_t i = image * per_image; i < (image + 1) * per_image; i++)
            sum += (in[3] ? in[3][i] : 1) * huber(in[0][i] - in[1][i], c);
        out[0][image] = factor * sum / (double)per_image;
    }
}

void op_huber_dx_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    struct shape x = op_shape_in(g, node, 1);
    int64_t per_image = shape_elems(x) / x.n;
    for (int64_t i = 0; i < shape_elems(x); i++) {
        int64_t image = i / per_image;
        double d = in[1][i] - in[2][i], r = hypot(d, in[3][2 * image]);
        out[0][i] = in[0][image] * (in[4] ? in[4][i] : 1) * in[3][2 * image + 1] * (r > 0 ? d / r : 0) / (double)per_image;
    }
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
