#pragma once
/* Shape cases per operator, shared by the gradient tests and the kernel tests: a new op needs rows here
 * and nothing else. */
#include "graph/build.h"
#include "graph/plan.h"

struct op_case {
    enum op op;
    const char *name;
    union op_attr attr;
    struct shape in[GRAPH_MAX_IN]; /* n = 0: optional input left out */
    struct shape out;              /* for ops whose size is stated; n = 0 otherwise */
    unsigned no_grad;              /* bit i: input i has no gradient (ids, targets of no interest) */
    bool big;                      /* too slow for finite differences; for kernels only */
};
extern const struct op_case op_cases[];
extern const int op_case_count;

/* Appends the case's node to g, its inputs made as IO values; in[i] (-1 where left out) gets them. Inputs
 * in `grads` (bit per input) are marked as needing a gradient. The node's index, or -1. */
int op_case_build(struct graph *g, const struct op_case *c, unsigned grads, int in[GRAPH_MAX_IN]);
/* The case's node over values made by the caller. */
int op_case_append(struct graph *g, const struct op_case *c, const int in[GRAPH_MAX_IN]);
/* Plausible input arrays, the same for the same seed: ids are in range, statistics belong to their x.
 * data is indexed by the graph's values. */
void op_case_fill(const struct graph *g, int node, uint64_t seed, double **data, struct arena *a);

/* For tests on whole tapes: an array for every value that no node makes, normal(0,1)/2 and a function of the
 * value's label and shape alone. */
double **tape_fill(const struct graph *g, struct arena *a);
/* The filled tape, run. */
double **tape_run(const struct graph *g, struct arena *a);
