/* Dropout by a hash instead of a generator: a replayed or differentiated node drops the same parts. */
#include "graph/op_priv.h"

bool op_dropout_shape(struct graph *g, const struct node *node, struct shape out[GRAPH_MAX_OUT]) {
    if (!op_needs(g, node, 2)) return false;
    float rate = node->attr.dropout.rate;
    if (!op_is_vector(op_shape_in(g, node, 1), 2)) return graph_fail(g, "dropout: the key is not one row of 2"), false;
    if (!(rate >= 0 && rate < 1)) return graph_fail(g, "dropout: a rate of %g is not from 0 to below 1", (double)rate), false;
    out[0] = op_shape_in(g, node, 0);
    return true;
}

/* The same parts of the gradient, by the same factor. */
void op_dropout_grad(struct graph *g, int node, const int *grad_out, const bool *want, int *grad_in) {
    const struct node n = g->nodes[node];
    if (want[0]) grad_in[0] = op_emit(g, OP_DROPOUT, (int[]){grad_out[0], n.in[1]}, 2, n.attr);
}

/* "lowbias32", an integer hash found by search (Wellons; constants of the later, better pair). */
static uint32_t mix(uint32_t x) {
    x = (x ^ x >> 16) * 0x21f0aaadu;
    x = (x ^ x >> 15) * 0xd35a2d97u;
    return x ^ x >> 15;
}

void op_dropout_ref(const struct graph *g, const struct node *node, const double *const *in, double *const *out) {
    struct shape x = op_shape_in(g, node, 0);
    int64_t per_image = (int64_t)x.h * x.w * x.c;
    float rate = node->attr.dropout.rate;
    uint32_t threshold = (uint32_t)((double)rate * 4294967296.0);
    uint32_t key = mix(mix((uint32_t)in[1][0] + node->attr.dropout.stream * 0x9e3779b9u) ^ (uint32_t)in[1][1]);
    double scale = node->attr.dropout.rescale ? 1 / (1 - (double)rate) : 1;
    for (int64_t i = 0; i < shape_elems(x); i++) {
        uint32_t place = 0;
        if (node->attr.dropout.each == DROPOUT_NUMBER) place = (uint32_t)i;
        else if (node->attr.dropout.each == DROPOUT_CHANNEL) place = (uint32_t)(i / per_image * x.c + i % x.c);
        out[0][i] = mix(key + place) >= threshold ? in[0][i] * scale : 0;
    }
}
