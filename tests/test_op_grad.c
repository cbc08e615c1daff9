/* Every operator's gradient rule against central differences of its double reference. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include "base/rng.h"
#include "tests/support/op_cases.h"

static double dot(const double *a, const double *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static double *normals(struct arena *a, int64_t n, uint64_t seed) {
    struct rng rng;
    rng_seed(&rng, seed);
    float *f = arena_alloc(a, (size_t)n * sizeof *f);
    double *d = arena_alloc(a, (size_t)n * sizeof *d);
    rng_randn(&rng, f, (size_t)n);
    for (int64_t i = 0; i < n; i++) d[i] = (double)f[i];
    return d;
}

/* <seed, first result> with input `in` moved by step*direction. */
static double probe(const struct op_case *c, int in, const double *direction, double step, const double *seed) {
    struct arena *a = arena_create(NULL);
    struct graph *g = graph_create(a, TENSOR_F32);
    int inputs[GRAPH_MAX_IN];
    int node = op_case_build(g, c, 0, inputs);
    double **data = arena_alloc(a, (size_t)g->n_values * sizeof *data);
    op_case_fill(g, node, 1, data, a);
    for (int64_t i = 0; i < shape_elems(c->in[in]); i++) data[inputs[in]][i] += step * direction[i];
    graph_eval_ref(g, data, a);
    int y = g->nodes[node].out[0];
    double f = dot(data[y], seed, shape_elems(graph_shape(g, y)));
    arena_destroy(&a);
    return f;
}

/* Gradients of the inputs in `grads`, all asked for at once, each compared along two directions. */
static void check(const struct op_case *c, unsigned grads) {
    struct arena *a = arena_create(NULL);
    struct graph *g = graph_create(a, TENSOR_F32);
    struct error err = {""};
    int inputs[GRAPH_MAX_IN], wrt[GRAPH_MAX_IN], got[GRAPH_MAX_IN], n = 0;
    int node = op_case_build(g, c, grads, inputs);
    if (node < 0) fail_msg("%s (%s): %s", op_table[c->op].name, c->name, g->error.text);
    for (int i = 0; i < GRAPH_MAX_IN; i++)
        if (grads >> i & 1) wrt[n++] = inputs[i];
    int y = g->nodes[node].out[0];
    int seed = graph_io(g, "seed", graph_shape(g, y));
    if (!graph_grad_values(g, y, seed, wrt, n, got, &err)) fail_msg("%s: %s", c->name, err.text);
    assert_true(graph_verify(g, &err));
    double **data = arena_alloc(a, (size_t)g->n_values * sizeof *data);
    op_case_fill(g, node, 1, data, a);
    data[seed] = normals(a, shape_elems(graph_shape(g, seed)), 2);
    for (int i = 0; i < n; i++) { /* gradients that are views are read by a copy */
        assert_true(got[i] >= 0);
        int copy = graph_append(g, OP_COPY, &got[i], 1, (union op_attr){0});
        got[i] = g->nodes[copy].out[0];
    }
    double **more = arena_grow(a, data, (size_t)g->n_values - (size_t)n, (size_t)g->n_values, sizeof *data);
    graph_eval_ref(g, more, a);
    n = 0;
    for (int i = 0; i < GRAPH_MAX_IN; i++) {
        if (!(grads >> i & 1)) continue;
        const double *grad = more[got[n]];
        assert_true(shape_equal(graph_shape(g, got[n++]), c->in[i]));
        int64_t size = shape_elems(c->in[i]);
        for (int k = 0; k < 2; k++) {
            double *direction = normals(a, size, (uint64_t)(3 + k));
            double h = 1e-5, want = (probe(c, i, direction, h, more[seed]) - probe(c, i, direction, -h, more[seed])) / (2 * h);
            double scale = sqrt(dot(grad, grad, size)) + 1e-3, have = dot(grad, direction, size);
            if (!(fabs(have - want) < 1e-6 * scale))
                fail_msg("%s (%s), input %d of mask %x: rule %.9g, differences %.9g", op_table[c->op].name, c->name, i,
                         grads, have, want);
        }
    }
    arena_destroy(&a);
}

static void test_gradients(void **state) {
    for (int k = 0; k < op_case_count; k++) {
        const struct op_case *c = &op_cases[k];
        if (!op_table[c->op].grad || c->big) continue;
        unsigned all = 0;
        for (int i = 0; i < GRAPH_MAX_IN; i++)
            if (c->in[i].n && !(c->no_grad >> i & 1)) all |= 1u << i;
        check(c, all);
        for (int i = 0; i < GRAPH_MAX_IN; i++) /* one at a time: the others' results are dropped */
            if ((all >> i & 1) && all != 1u << i) check(c, 1u << i);
    }
}

static void test_every_op_has_a_case(void **state) {
    for (int op = 0; op < OP_COUNT; op++) {
        int cases = 0;
        for (int k = 0; k < op_case_count; k++) cases += (int)op_cases[k].op == op;
        if (!cases) fail_msg("%s has no case", op_table[op].name);
        if (!op_table[op].ref) fail_msg("%s has no reference", op_table[op].name);
        if (!op_table[op].grad && !op_table[op].no_grad) fail_msg("%s has neither gradient nor NO_GRAD", op_table[op].name);
    }
}

/* Every case is a program that passes its own shape rule; the references touch all of every result. */
static void test_references_fill_results(void **state) {
    for (int k = 0; k < op_case_count; k++) {
        const struct op_case *c = &op_cases[k];
        struct arena *a = arena_create(NULL);
        struct graph *g = graph_create(a, TENSOR_F32);
        int inputs[GRAPH_MAX_IN], node = op_case_build(g, c, 0, inputs);
        if (node < 0) fail_msg("%s (%s): %s", op_table[c->op].name, c->name, g->error.text);
        double **data = arena_alloc(a, (size_t)g->n_values * sizeof *data);
        op_case_fill(g, node, 1, data, a);
        for (int i = 0; i < g->nodes[node].n_out; i++) {
            int v = g->nodes[node].out[i];
            if (g->values[v].view_of >= 0) continue;
            data[v] = arena_alloc(a, (size_t)shape_elems(graph_shape(g, v)) * sizeof(double));
            for (int64_t e = 0; e < shape_elems(graph_shape(g, v)); e++) data[v][e] = NAN;
        }
        graph_eval_ref(g, data, a);
        for (int i = 0; i < g->nodes[node].n_out; i++) {
            int v = g->nodes[node].out[i];
            for (int64_t e = 0; e < shape_elems(graph_shape(g, v)); e++)
                if (!isfinite(data[v][e]))
                    fail_msg("%s (%s): result %d, element %lld", op_table[c->op].name, c->name, i, (long long)e);
        }
        arena_destroy(&a);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_op_has_a_case),
        cmocka_unit_test(test_references_fill_results),
        cmocka_unit_test(test_gradients),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
