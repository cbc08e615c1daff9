/* Recompute: the same numbers, less memory, and a literal tape. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "tests/support/small_net.h"

static void test_same_numbers_less_memory(void **state) {
    struct arena *a = arena_create(NULL);
    struct error err;
    struct small_net nets[2];
    double **data[2];
    struct plan plans[2];
    for (int i = 0; i < 2; i++) {
        nets[i] = small_net_build(a);
        assert_true(graph_grad(nets[i].g, nets[i].loss, nets[i].seed, &err));
        graph_prune(nets[i].g);
        if (i && !graph_remat(nets[i].g, &err)) fail_msg("%s", err.text);
        data[i] = tape_run(nets[i].g, a);
        assert_true(graph_plan(nets[i].g, &(struct plan_params){0}, &plans[i], &err));
    }
    for (int slot = 0; slot < nets[0].adapter->n_slots; slot++) {
        int g0 = small_net_gradient(&nets[0], slot), g1 = small_net_gradient(&nets[1], slot);
        size_t bytes = (size_t)shape_elems(nets[0].adapter->slots[slot].shape) * sizeof(double);
        assert_memory_equal(data[0][g0], data[1][g1], bytes);
    }
    assert_memory_equal(data[0][nets[0].loss], data[1][nets[1].loss], 2 * sizeof(double));
    assert_true(plans[1].peak_live_bytes < plans[0].peak_live_bytes);
    int again = 0, attention = 0;
    for (int n = 0; n < nets[1].g->n_nodes; n++) {
        again += nets[1].g->nodes[n].recompute;
        attention += nets[1].g->nodes[n].op == OP_ATTENTION;
        if (nets[1].g->nodes[n].recompute) assert_true(n >= nets[1].g->n_forward);
    }
    assert_true(again > 0);
    assert_int_equal(attention, 3); /* kept, not made again */
    arena_destroy(&a);
}

/* Two segments of silu(x w1') w2' with only w2 trainable, then a third outside. */
static int layer(struct graph *g, struct tensor_set *frozen, struct tensor_set *set, int x) {
    struct shape s = {1, 1, 4, 4};
    int h = graph_linear(g, x, graph_slot(g, frozen, SET_DATA, tensor_set_add(frozen, "w1", s)), -1, -1);
    return graph_linear(g, graph_unary(g, UNARY_SILU, h), graph_slot(g, set, SET_DATA, tensor_set_add(set, "w2", s)), -1, -1);
}

static void test_literal_tape(void **state) {
    struct arena *a = arena_create(NULL);
    struct error err;
    struct graph *g = graph_create(a, TENSOR_F32);
    struct tensor_set *frozen = tensor_set_create(a, "f", TENSOR_F32, false, 1 << 20);
    struct tensor_set *set = tensor_set_create(a, "p", TENSOR_F32, true, 1 << 20);
    int x = graph_io(g, "x", (struct shape){1, 1, 40, 4});
    for (int i = 0; i < 2; i++) {
        graph_segment_begin(g);
        x = layer(g, frozen, set, x);
        graph_segment_end(g);
    }
    int seed = graph_io(g, "seed", graph_shape(g, x));
    assert_true(graph_grad(g, x, seed, &err));
    static const enum op before[] = {OP_MATMUL, OP_UNARY, OP_MATMUL, OP_MATMUL, OP_UNARY, OP_MATMUL, /* forward */
                                     OP_MATMUL, OP_MATMUL_TN, OP_UNARY_DX, OP_MATMUL,               /* second */
                                     OP_MATMUL_TN};                                                  /* first */
    assert_int_equal(g->n_nodes, sizeof before / sizeof *before);
    for (int n = 0; n < g->n_nodes; n++) assert_int_equal(g->nodes[n].op, before[n]);
    assert_true(graph_remat(g, &err));
    static const struct { enum op op; bool again; } after[] = {
        {OP_MATMUL, 0}, {OP_UNARY, 0}, {OP_MATMUL, 0}, {OP_MATMUL, 0}, {OP_UNARY, 0}, {OP_MATMUL, 0},
        {OP_MATMUL, 0},                                     /* to the silu's result: reads only w2 */
        {OP_MATMUL, 1}, {OP_UNARY, 1}, {OP_MATMUL_TN, 0}, {OP_UNARY_DX, 0}, {OP_MATMUL, 0},
        {OP_MATMUL, 1}, {OP_UNARY, 1}, {OP_MATMUL_TN, 0}};
    assert_int_equal(g->n_nodes, sizeof after / sizeof *after);
    for (int n = 0; n < g->n_nodes; n++) {
        assert_int_equal(g->nodes[n].op, after[n].op);
        assert_int_equal(g->nodes[n].recompute, after[n].again);
    }
    /* The second segment starts from the first one's kept result, the replay too. */
    assert_int_equal(g->nodes[7].in[0], g->nodes[2].out[0]);
    assert_int_equal(g->nodes[8].in[0], g->nodes[7].out[0]);
    assert_int_equal(g->nodes[9].in[1], g->nodes[8].out[0]);
    assert_int_equal(g->nodes[10].in[1], g->nodes[7].out[0]);
    arena_destroy(&a);
}

static void test_nothing_marked(void **state) {
    struct arena *a = arena_create(NULL);
    struct error err;
    struct graph *g = graph_create(a, TENSOR_F32);
    struct tensor_set *set = tensor_set_create(a, "p", TENSOR_F32, true, 1 << 20);
    int x = layer(g, set, set, graph_io(g, "x", (struct shape){1, 1, 40, 4}));
    assert_true(graph_grad(g, x, graph_io(g, "seed", graph_shape(g, x)), &err));
    int nodes = g->n_nodes;
    assert_true(graph_remat(g, &err));
    assert_int_equal(g->n_nodes, nodes);
    arena_destroy(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_numbers_less_memory),
        cmocka_unit_test(test_literal_tape),
        cmocka_unit_test(test_nothing_marked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
