/* The gradient pass on tapes: sums over many readers, views, shared parameters, where gradients end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "tests/support/small_net.h"

static double weighted_loss(const struct small_net *n, double *const *data) {
    double sum = 0;
    for (int i = 0; i < graph_shape(n->g, n->loss).n; i++) sum += data[n->loss][i] * data[n->seed][i];
    return sum;
}

/* The loss with one adapter element moved. */
static double moved(int slot, int64_t element, double step) {
    struct arena *a = arena_create(NULL);
    struct small_net n = small_net_build(a);
    double **data = tape_fill(n.g, a);
    for (int v = 0; v < n.g->n_values; v++)
        if (n.g->values[v].set == n.adapter && n.g->values[v].slot == slot) data[v][element] += step;
    graph_eval_ref(n.g, data, a);
    double loss = weighted_loss(&n, data);
    arena_destroy(&a);
    return loss;
}

static void test_network_against_differences(void **state) {
    struct arena *a = arena_create(NULL);
    struct error err;
    struct small_net n = small_net_build(a);
    if (!graph_grad(n.g, n.loss, n.seed, &err)) fail_msg("%s", err.text);
    graph_prune(n.g);
    if (!graph_verify(n.g, &err)) fail_msg("%s", err.text);
    double **data = tape_run(n.g, a);
    for (int slot = 0; slot < n.adapter->n_slots; slot++) {
        int grad = small_net_gradient(&n, slot);
        assert_true(grad >= 0);
        assert_true(shape_equal(graph_shape(n.g, grad), n.adapter->slots[slot].shape));
        int64_t element = slot % shape_elems(n.adapter->slots[slot].shape);
        double want = (moved(slot, element, 1e-5) - moved(slot, element, -1e-5)) / 2e-5;
        if (fabs(data[grad][element] - want) > 1e-7 + 1e-5 * fabs(want))
            fail_msg("%s[%d]: %.9g, differences %.9g", n.adapter->slots[slot].name, (int)element, data[grad][element], want);
    }
    arena_destroy(&a);
}

static int count(const struct graph *g, enum op op, int from) {
    int n = 0;
    for (int i = from; i < g->n_nodes; i++) n += g->nodes[i].op == op;
    return n;
}

/* y = x w' + x w': both products' gradients to x and w add up inside the products. */
static void test_products_add_up_in_place(void **state) {
    struct arena *a = arena_create(NULL);
    struct graph *g = graph_create(a, TENSOR_F32);
    struct tensor_set *set = tensor_set_create(a, "p", TENSOR_F32, true, 1 << 20);
    int slot = tensor_set_add(set, "w", (struct shape){1, 1, 4, 4});
    int x = graph_io(g, "x", (struct shape){1, 1, 8, 4});
    graph_value(g, x)->needs_grad = true;
    int first = graph_linear(g, x, graph_slot(g, set, SET_DATA, slot), -1, -1);
    int y = graph_linear(g, x, graph_slot(g, set, SET_DATA, slot), -1, first);
    int seed = graph_io(g, "seed", graph_shape(g, y)), dx;
    struct error err;
    int forward = g->n_nodes;
    assert_true(graph_grad_values(g, y, seed, &x, 1, &dx, &err));
    assert_int_equal(count(g, OP_ADD, forward), 0);
    assert_int_equal(count(g, OP_MATMUL, forward), 2);
    assert_int_equal(count(g, OP_MATMUL_TN, forward), 2);
    assert_true(g->nodes[g->values[dx].producer].in[3] >= 0);
    assert_true(graph_verify(g, &err));
    arena_destroy(&a);
}

/* y = x w' + x w': two readings of one slot are one parameter, written once: dw = 2 dy' x. */
static void test_readings_of_a_slot(void **state) {
    struct arena *a = arena_create(NULL);
    struct graph *g = graph_create(a, TENSOR_F32);
    struct tensor_set *set = tensor_set_create(a, "p", TENSOR_F32, true, 1 << 20);
    int slot = tensor_set_add(set, "w", (struct shape){1, 1, 4, 4}), home = -1;
    int x = graph_io(g, "x", (struct shape){1, 1, 8, 4});
    int first = graph_linear(g, x, graph_slot(g, set, SET_DATA, slot), -1, -1);
    int y = graph_linear(g, x, graph_slot(g, set, SET_DATA, slot), -1, first);
    int seed = graph_io(g, "seed", graph_shape(g, y));
    struct error err;
    if (!graph_grad(g, y, seed, &err)) fail_msg("%s", err.text);
    for (int v = 0; v < g->n_values; v++)
        if (g->values[v].bank == SET_GRAD && g->values[v].cls == VALUE_SET) assert_int_equal(home, -1), home = v;
    assert_true(home >= 0);
    double **data = tape_run(g, a);
    for (int o = 0; o < 4; o++)
        for (int i = 0; i < 4; i++) {
            double want = 0;
            for (int r = 0; r < 8; r++) want += 2 * data[seed][r * 4 + o] * data[x][r * 4 + i];
            assert_true(fabs(data[home][o * 4 + i] - want) < 1e-12);
        }
    arena_destroy(&a);
}

/* y = a + b: one gradient for two parameters; each bank slot is written, the seed itself is not taken over. */
static void test_shared_gradient_is_copied(void **state) {
    struct arena *a = arena_create(NULL);
    struct graph *g = graph_create(a, TENSOR_F32);
    struct tensor_set *set = tensor_set_create(a, "p", TENSOR_F32, true, 1 << 20);
    struct shape s = {1, 1, 1, 8};
    int pa = graph_slot(g, set, SET_DATA, tensor_set_add(set, "a", s)),
        pb = graph_slot(g, set, SET_DATA, tensor_set_add(set, "b", s));
    int y = graph_add(g, pa, pb, BCAST_NONE);
    int seed = graph_io(g, "seed", s);
    struct error err;
    assert_true(graph_grad(g, y, seed, &err));
    int homes[2] = {0};
    for (int n = g->n_forward; n < g->n_nodes; n++) {
        const struct value *out = graph_value(g, g->nodes[n].out[0]);
        assert_int_equal(g->nodes[n].op, OP_COPY);
        assert_int_equal(out->bank, SET_GRAD);
        homes[out->slot]++;
    }
    assert_int_equal(homes[0], 1);
    assert_int_equal(homes[1], 1);
    assert_int_equal(graph_value(g, seed)->cls, VALUE_IO);
    arena_destroy(&a);
}

/* Nodes that lead to nothing trainable get no gradient nodes; a frozen weight gets no dW. */
static void test_frozen_parts_are_skipped(void **state) {
    struct arena *a = arena_create(NULL);
    struct small_net n = small_net_build(a);
    struct error err;
    int forward = n.g->n_nodes;
    assert_true(graph_grad(n.g, n.loss, n.seed, &err));
    assert_int_equal(count(n.g, OP_CONV2D_DW, forward), 0);
    assert_int_equal(count(n.g, OP_GROUP_NORM_DP, forward), 0);
    assert_int_equal(count(n.g, OP_CONV2D_DX, forward), 2); /* the first block's input needs none */
    assert_int_equal(count(n.g, OP_GROUP_NORM_DX, forward), 2);
    assert_int_equal(count(n.g, OP_LAYER_NORM_DP, forward), 3);
    assert_int_equal(count(n.g, OP_MATMUL_TN, forward), 24);
    arena_destroy(&a);
}

static void test_errors(void **state) {
    struct arena *a = arena_create(NULL);
    struct error err;
    struct graph *g = graph_create(a, TENSOR_F32);
    int x = graph_io(g, "x", (struct shape){1, 1, 4, 8});
    int y = graph_scale(g, x, 2);
    assert_false(graph_grad(g, y, graph_io(g, "seed", graph_shape(g, y)), &err));
    assert_non_null(strstr(err.text, "nothing trainable"));
    g = graph_create(a, TENSOR_F32);
    x = graph_io(g, "x", (struct shape){1, 1, 4, 8});
    graph_value(g, x)->needs_grad = true;
    int part = graph_view(g, x, (struct shape){1, 1, 4, 4}, 32);
    y = graph_scale(g, part, 2);
    assert_false(graph_grad(g, y, graph_io(g, "seed", graph_shape(g, y)), &err));
    assert_non_null(strstr(err.text, "graph_slice"));
    g = graph_create(a, TENSOR_F32);
    int bad =
        graph_linear(g, graph_io(g, "x", (struct shape){1, 1, 4, 8}), graph_io(g, "w", (struct shape){1, 1, 4, 6}), -1, -1);
    assert_int_equal(bad, -1);
    assert_int_equal(graph_unary(g, UNARY_SILU, bad), -1);
    assert_false(graph_ok(g, &err));
    assert_non_null(strstr(err.text, "8 channels"));
    arena_destroy(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_network_against_differences), cmocka_unit_test(test_products_add_up_in_place),
        cmocka_unit_test(test_shared_gradient_is_copied),   cmocka_unit_test(test_frozen_parts_are_skipped),
        cmocka_unit_test(test_readings_of_a_slot),          cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
