/* Token embeddings and the timestep sinusoid. */
#include "graph/op_priv.h"

bool op_embed_shape(struct graph *g, const struct node *node, struct shape out[GRAPH_MAX_OUT]) {
    if (!op_needs(g, node, 2)) return false;
    struct shape ids = op_shape_in(g, node, 0), table = op_shape_in(g, node, 1);
    if (ids.c != 1) return graph_fail(g, "embed: ids have %d channels, not 1", ids.c), false;
    out[0] = (struct shape){ids.n, ids.h, ids.w, table.c};
    if (!op_has(node, 2)) return true;
    struct shape positions = op_shape_in(g, node, 2);
    if (positions.c != table.c || shape_rows(positions) < (int64_t)ids.h * ids.w)
        return graph_fail(g, "embed: {%lld rows, %d} positions for %d tokens of %d channels",
                          (long long)shape_rows(positions), positions.c, ids.h * ids.w, table.c),
               false;
    return true;
}

void op_embed_grad(struct graph *g, int node, const int *grad_out, const bool *want, int *grad_in) {
    const struct node n = g->nodes[node];
    if (want[1])
        grad_in[1] = op_emit_shaped(g, OP_EMBED_DW, (int[]){n.in[0], grad_out[0]}, 2, n.attr, graph_shape(g, n.in[1]));
    if (want[0] || want[2]) graph_fail(g, "embed: only the token table can be trained");
}

/* Ids beyond the table read its last row, as the kernels do: no read leaves the table. */
static int64_t embed_row(double id, struct shape table) {
    int64_t row = id < 0 ? 0 : (int64_t)(id + 0.5);
    return row < shape_rows(table) ? row : shape_rows(table) - 1;
}

void op_embed_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    struct shape ids = op_shape_in(g, node, 0), table = op_shape_in(g, node, 1);
    int tokens = ids.h * ids.w;
    for (int64_t m = 0; m < shape_rows(ids); m++)
        for (int c = 0; c < table.c; c++)
            out[0][m * table.c + c] =
                in[1][embed_row(in[0][m], table) * table.c + c] + (in[2] ? in[2][m % tokens * table.c + c] : 0);
}

void op_embed_dw_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    struct shape ids = op_shape_in(g, node, 0), table = op_shape_out(g, node, 0);
    memset(out[0], 0, (size_t)shape_elems(table) * sizeof(double));
    for (int64_t m = 0; m < shape_rows(ids); m++)
        for (int c = 0; c < table.c; c++) out[0][embed_row(in[0][m], table) * table.c + c] += in[1][m * table.c + c];
}

void op_timestep_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    struct shape y = op_shape_out(g, node, 0);
    int half = y.c / 2;
    for (int64_t m = 0; m < shape_rows(y); m++)
        for (int i = 0; i < half; i++) {
            double angle = in[0][m] * exp(-log(10000.0) * i / (half - (double)node->attr.timestep.freq_shift));
            int flip = node->attr.timestep.flip_sin_to_cos;
            out[0][m * y.c + i] = flip ? cos(angle) : sin(angle);
            out[0][m * y.c + half + i] = flip ? sin(angle) : cos(angle);
        }
}
