/* Convolution, and nearest-neighbour resizing. Weights are {k*k,1,O,I}: row = tap*O + o, tap = ky*k + kx. */
#include "graph/op_priv.h"

void op_conv2d_grad(struct graph *g, int node, const int *grad_out, const bool *want, int *grad_in) {
    const struct node n = g->nodes[node];
    int dy = grad_out[0], x = n.in[0], w = n.in[1];
    if (want[0])
        grad_in[0] = op_emit_shaped(g, OP_CONV2D_DX, (int[]){dy, w}, 2, n.attr, graph_shape(g, x));
    if (want[1])
        grad_in[1] = op_emit_shaped(g, OP_CONV2D_DW, (int[]){dy, x}, 2, n.attr, graph_shape(g, w));
    if (want[2]) grad_in[2] = op_emit_row_sum(g, dy, false);
    if (want[3]) grad_in[3] = dy;
}

/* Calls for every (output row, input row, tap) triple of the convolution: all three references are sums
 * over the same triples. */
struct conv_walk {
    const struct node *node;
    struct shape x, y;
};
static int64_t conv_source(const struct conv_walk *c, int64_t out_row, int tap) {
    int k = c->node->attr.conv.k, up = c->node->attr.conv.up;
    int64_t ox = out_row % c->y.w, oy = out_row / c->y.w % c->y.h, image = out_row / ((int64_t)c->y.w * c->y.h);
    int64_t iy = oy * c->node->attr.conv.stride + tap / k - c->node->attr.conv.pad;
    int64_t ix = ox * c->node->attr.conv.stride + tap % k - c->node->attr.conv.pad;
    if (iy < 0 || ix < 0 || iy >= (int64_t)c->x.h << up || ix >= (int64_t)c->x.w << up) return -1;
    return (image * c->x.h + (iy >> up)) * c->x.w + (ix >> up);
}

void op_conv2d_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    struct conv_walk walk = {node, op_shape_in(g, node, 0), op_shape_out(g, node, 0)};
    int n_in = walk.x.c, n_out = walk.y.c, taps = node->attr.conv.k * node->attr.conv.k;
    for (int64_t m = 0; m < shape_rows(walk.y); m++) {
        double *y = out[0] + m * n_out;
        for (int o = 0; o < n_out; o++) y[o] = (in[2] ? in[2][o] : 0) + (in[3] ? in[3][m * n_out + o] : 0);
        for (int tap = 0; tap < taps; tap++) {
            int64_t source = conv_source(&walk, m, tap);
            if (source < 0) continue;
            const double *x = in[0] + source * n_in;
            for (int o = 0; o < n_out; o++) {
                const double *w = in[1] + ((int64_t)tap * n_out + o) * n_in;
                double sum = 0;
                for (int i = 0; i < n_in; i++) sum += x[i] * w[i];
                y[o] += sum;
            }
        }
    }
}

void op_conv2d_dx_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    struct conv_walk walk = {node, op_shape_out(g, node, 0), op_shape_in(g, node, 0)};
    int n_in = walk.x.c, n_out = walk.y.c, taps = node->attr.conv.k * node->attr.conv.k;
    memset(out[0], 0, (size_t)shape_elems(walk.x) * sizeof(double));
    for (int64_t m = 0; m < shape_rows(walk.y); m++)
        for (int tap = 0; tap < taps; tap++) {
            int64_t source = conv_source(&walk, m, tap);
            if (source < 0) continue;
            double *dx = out[0] + source * n_in;
            for (int o = 0; o < n_out; o++) {
                const double *w = in[1] + ((int64_t)tap * n_out + o) * n_in;
                double dy = in[0][m * n_out + o];
                for (int i = 0; i < n_in; i++) dx[i] += dy * w[i];
            }
        }
}

void op_conv2d_dw_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    struct conv_walk walk = {node, op_shape_in(g, node, 1), op_shape_in(g, node, 0)};
    int n_in = walk.x.c, n_out = walk.y.c, taps = node->attr.conv.k * node->attr.conv.k;
    memset(out[0], 0, (size_t)taps * (size_t)n_out * (size_t)n_in * sizeof(double));
    for (int64_t m = 0; m < shape_rows(walk.y); m++)
        for (int tap = 0; tap < taps; tap++) {
            int64_t source = conv_source(&walk, m, tap);
            if (source < 0) continue;
            const double *x = in[1] + source * n_in;
            for (int o = 0; o < n_out; o++) {
                double *dw = out[0] + ((int64_t)tap * n_out + o) * n_in;
                double dy = in[0][m * n_out + o];
                for (int i = 0; i < n_in; i++) dw[i] += dy * x[i];
            }
        }
}

void op_upsample_grad(struct graph *g, int node, const int *grad_out, const bool *want, int *grad_in) {
    int x = g->nodes[node].in[0];
    if (want[0])
        grad_in[0] = op_emit_shaped(g, OP_UPSAMPLE_DX, grad_out, 1, (union op_attr){0}, graph_shape(g, x));
}

/* Row of the small image that row `m` of the large one reads. */
static int64_t upsample_source(struct shape small, struct shape large, int64_t m) {
    int64_t x = m % large.w * small.w / large.w, y = m / large.w % large.h * small.h / large.h;
    return (m / ((int64_t)large.w * large.h) * small.h + y) * small.w + x;
}

void op_upsample_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    struct shape small = op_shape_in(g, node, 0), large = op_shape_out(g, node, 0);
    for (int64_t m = 0; m < shape_rows(large); m++)
        memcpy(out[0] + m * large.c, in[0] + upsample_source(small, large, m) * large.c,
               (size_t)large.c * sizeof(double));
}

void op_upsample_dx_ref(const struct graph *g, const struct node *node, const double *const *in,
                        double *const *out) {
    struct shape small = op_shape_out(g, node, 0), large = op_shape_in(g, node, 0);
    memset(out[0], 0, (size_t)shape_elems(small) * sizeof(double));
    for (int64_t m = 0; m < shape_rows(large); m++) {
        double *dx = out[0] + upsample_source(small, large, m) * large.c;
        for (int c = 0; c < large.c; c++) dx[c] += in[0][m * large.c + c];
    }
}
