/* The meaning of a program: every node by its double reference, in order. Slow; for tests and --check. */
#include <assert.h>
#include <string.h>
#include "graph/plan.h"

static double *make(const struct graph *g, struct arena *a, int v) {
    return arena_alloc(a, (size_t)shape_elems(graph_shape(g, v)) * sizeof(double));
}

/* The elements a view sees. Views speak of texels, canonical arrays of rows and channels. */
static double *view_elements(const struct graph *g, const double *base, int v, struct arena *a) {
    struct shape s = graph_shape(g, v), b = graph_shape(g, g->values[v].view_of);
    double *out = make(g, a, v);
    for (int64_t m = 0; m < shape_rows(s); m++)
        for (int c = 0; c < s.c; c++) {
            int64_t texel = g->values[v].view_texels + c / 4 * shape_stride(s) + m;
            int64_t row = texel % shape_stride(b), channel = texel / shape_stride(b) * 4 + c % 4;
            assert(row < shape_rows(b) && channel < b.c);
            out[m * s.c + c] = base[row * b.c + channel];
        }
    return out;
}

static double *read_value(const struct graph *g, double **data, int v, struct arena *a) {
    const struct value *value = graph_value(g, v);
    if (data[v] || value->view_of < 0) {
        assert(data[v]); /* an IO input, slot or flat that the caller did not fill */
        return data[v];
    }
    double *base = read_value(g, data, value->view_of, a);
    struct shape b = graph_shape(g, value->view_of);
    bool all = shape_rows(b) == shape_rows(value->shape) && b.c == value->shape.c && !value->view_texels;
    return data[v] = all ? base : view_elements(g, base, v, a);
}

void graph_eval_ref(const struct graph *g, double **data, struct arena *a) {
    for (int n = 0; n < g->n_nodes; n++) {
        const struct node *node = &g->nodes[n];
        const double *in[GRAPH_MAX_IN] = {0};
        double *out[GRAPH_MAX_OUT] = {0};
        for (int i = 0; i < node->n_in; i++)
            if (node->in[i] >= 0) in[i] = read_value(g, data, node->in[i], a);
        for (int i = 0; i < node->n_out; i++) {
            int v = node->out[i];
            if (v < 0) continue;
            int updated = g->values[v].view_of; /* in-place results: the array of what they update */
            if (updated >= 0) data[v] = read_value(g, data, updated, a);
            if (!data[v]) data[v] = make(g, a, v);
            out[i] = data[v];
        }
        op_table[node->op].ref(g, node, in, out);
    }
}
