#pragma once
/* Shared by graph/op_*.c: every rule and reference named in ops.def, declared, and small helpers. */
#include <assert.h>
#include <math.h>
#include <string.h>
#include "graph/build.h"

typedef bool op_shape_fn(struct graph *g, const struct node *node, struct shape out[GRAPH_MAX_OUT]);
typedef void op_grad_fn(struct graph *g, int node, const int *grad_out, const bool *want, int *grad_in);
typedef void op_ref_fn(const struct graph *g, const struct node *node, const double *const *in,
                       double *const *out);
#define SIZE_STATED op_size_stated
#define NO_GRAD op_no_grad
#define OP(id, name, n_in, n_out, inplace, shape, grad, ref) \
    op_shape_fn shape;                                       \
    op_grad_fn grad;                                         \
    op_ref_fn ref;
#include "graph/ops.def"
#undef OP
#undef SIZE_STATED
#undef NO_GRAD

static inline bool op_has(const struct node *node, int i) { return i < node->n_in && node->in[i] >= 0; }
static inline struct shape op_shape_in(const struct graph *g, const struct node *node, int i) {
    assert(op_has(node, i));
    return g->values[node->in[i]].shape;
}
static inline struct shape op_shape_out(const struct graph *g, const struct node *node, int i) {
    assert(node->out[i] >= 0);
    return g->values[node->out[i]].shape;
}
/* One row of c channels. */
static inline struct shape op_vector(int32_t c) { return (struct shape){1, 1, 1, c}; }
static inline bool op_is_vector(struct shape s, int32_t c) { return shape_rows(s) == 1 && s.c == c; }
/* False (with the sticky error) unless the first n inputs are there. */
static inline bool op_needs(struct graph *g, const struct node *node, int n) {
    for (int i = 0; i < n; i++)
        if (!op_has(node, i)) return graph_fail(g, "%s: input %d is missing", op_table[node->op].name, i), false;
    return true;
}
/* Appends a node; its first result, or -1. */
static inline int op_emit(struct graph *g, enum op op, const int *in, int n_in, union op_attr attr) {
    int node = graph_append(g, op, in, n_in, attr);
    return node < 0 ? -1 : g->nodes[node].out[0];
}
static inline int op_emit_shaped(struct graph *g, enum op op, const int *in, int n_in, union op_attr attr,
                                 struct shape out) {
    int node = graph_append_shaped(g, op, in, n_in, attr, &out, 1);
    return node < 0 ? -1 : g->nodes[node].out[0];
}
/* Sums x's rows into a vector: the gradient of a row that was broadcast. */
static inline int op_emit_row_sum(struct graph *g, int x, bool per_image) {
    return op_emit(g, OP_ROW_SUM, &x, 1, (union op_attr){.sum = {per_image}});
}
/* Strikes a result nobody asked for, so that it is neither placed nor computed. */
static inline void op_drop_out(struct graph *g, int node, int i) {
    struct node *n = &g->nodes[node];
    if (n->out[i] >= 0) g->values[n->out[i]].producer = -1;
    n->out[i] = -1;
}
