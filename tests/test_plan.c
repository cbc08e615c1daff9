/* The planner: a tape is walked with a stamp in every 64 bytes saying whose numbers lie there, so that what a node reads must
 * still be there and what it writes may only take the place of what is done with. */
#include "tests/support/cm.h"
#include "tests/support/small_net.h"

#include <string.h>

enum { MOST_UNITS = 1 << 16, FREE = -1, SCRATCH = -2 };

struct memory {
    const struct graph *g;
    const struct plan *plan;
    int stamp[PLAN_MAX_CHUNKS][MOST_UNITS]; /* the root value whose numbers are there */
};

static int root_of(const struct graph *g, int v) {
    while (g->values[v].view_of >= 0) v = g->values[v].view_of;
    return v;
}

static bool is_act(const struct graph *g, int v) { return v >= 0 && g->values[root_of(g, v)].cls == VALUE_ACT; }

/* Bytes that the value's own numbers take, from its place on, whole units. */
static int64_t units_of(const struct graph *g, int v) { return graph_value_bytes(g, v) / PLAN_ALIGN; }

static void stamp(struct memory *m, const struct plan_place *p, int64_t units, int with) {
    assert_true(p->chunk >= 0 && p->chunk < m->plan->n_act_chunks && p->offset % PLAN_ALIGN == 0);
    assert_true(p->offset >= PLAN_ZERO_BYTES && p->offset + units * PLAN_ALIGN <= m->plan->act_bytes[p->chunk]);
    for (int64_t i = 0; i < units; i++) m->stamp[p->chunk][p->offset / PLAN_ALIGN + i] = with;
}

static void expect(const struct memory *m, int v, int node) {
    const struct plan_place *p = &m->plan->values[v];
    assert_true(p->chunk >= 0);
    for (int64_t i = 0; i < units_of(m->g, v); i++)
        if (m->stamp[p->chunk][p->offset / PLAN_ALIGN + i] != root_of(m->g, v))
            fail_msg("node %d (%s) reads value %d, whose place holds %d", node, m->g->nodes[node].label, v,
                     m->stamp[p->chunk][p->offset / PLAN_ALIGN + i]);
}

static bool overlap(const struct memory *m, int v, int w) {
    const struct plan_place *p = &m->plan->values[v], *q = &m->plan->values[w];
    return p->chunk == q->chunk && p->offset < q->offset + units_of(m->g, w) * PLAN_ALIGN &&
           q->offset < p->offset + units_of(m->g, v) * PLAN_ALIGN;
}

/* A result may lie where the operator's in-place operand lies, if that is all there, and no other operand. */
static void check_result(const struct memory *m, const struct node *n, int out, bool first) {
    int own = op_table[n->op].inplace;
    for (int i = 0; i < n->n_in; i++) {
        if (!is_act(m->g, n->in[i]) || !overlap(m, out, n->in[i])) continue;
        if (!first || i != own || m->plan->values[out].offset != m->plan->values[n->in[i]].offset)
            fail_msg("%s: a result lies on operand %d", n->label, i);
    }
}

static int64_t some_scratch(void *ctx, const struct graph *g, int node) { return node % 3 ? 0 : 100 + 37 * node; }

static void walk(struct graph *g, const struct plan_params *params, struct plan *plan) {
    struct error err;
    if (!graph_plan(g, params, plan, &err)) fail_msg("%s", err.text);
    struct memory *m = arena_alloc(g->arena, sizeof *m);
    *m = (struct memory){.g = g, .plan = plan};
    memset(m->stamp, 0xff, sizeof m->stamp);
    for (int c = 0; c < plan->n_act_chunks; c++) {
        assert_true(plan->act_bytes[c] <= MOST_UNITS * PLAN_ALIGN);
        assert_true(!params->max_chunk_bytes || plan->act_bytes[c] <= params->max_chunk_bytes);
    }
    for (int k = 0; k < g->n_nodes; k++) {
        const struct node *n = &g->nodes[k];
        int64_t scratch = params->scratch ? params->scratch(NULL, g, k) : 0;
        if (scratch) stamp(m, &plan->scratch[k], (scratch + PLAN_ALIGN - 1) / PLAN_ALIGN, SCRATCH);
        for (int i = 0; i < n->n_in; i++)
            if (is_act(g, n->in[i])) expect(m, n->in[i], k);
        for (int i = 0; i < n->n_out; i++) {
            if (!is_act(g, n->out[i])) continue;
            check_result(m, n, n->out[i], i == 0);
            if (g->values[n->out[i]].view_of < 0) stamp(m, &plan->values[n->out[i]], units_of(g, n->out[i]), n->out[i]);
        }
        for (int i = 0; i < n->n_out; i++)
            if (is_act(g, n->out[i])) expect(m, n->out[i], k); /* results lie apart */
        if (!scratch) continue;
        const struct plan_place *s = &plan->scratch[k];
        for (int64_t i = 0; i < (scratch + PLAN_ALIGN - 1) / PLAN_ALIGN; i++)
            assert_int_equal(m->stamp[s->chunk][s->offset / PLAN_ALIGN + i], SCRATCH);
    }
    for (int v = 0; v < g->n_values; v++)
        if (g->values[v].keep && is_act(g, v) && g->values[v].producer >= 0) expect(m, v, g->n_nodes - 1);
}

/* A network with its gradients: plain, recomputed, with scratch, in chunks; and each never larger than without reuse. */
static void test_nothing_is_overwritten(void **state) {
    for (int k = 0; k < 8; k++) {
        struct arena *a = arena_create(NULL);
        struct error err;
        struct small_net n = small_net_build(a);
        assert_true(graph_grad(n.g, n.loss, n.seed, &err));
        graph_prune(n.g);
        if (k & 1) assert_true(graph_remat(n.g, &err));
        struct plan_params p = {.scratch = k & 2 ? some_scratch : NULL, .max_chunk_bytes = k & 4 ? 24 << 10 : 0};
        struct plan plan, apart;
        walk(n.g, &p, &plan);
        assert_true(k & 4 ? plan.n_act_chunks > 1 : plan.n_act_chunks == 1);
        p.no_reuse = true, p.max_chunk_bytes = 0;
        walk(n.g, &p, &apart);
        int64_t used = 0, all = 0;
        for (int c = 0; c < plan.n_act_chunks; c++) used += plan.act_bytes[c];
        for (int c = 0; c < apart.n_act_chunks; c++) all += apart.act_bytes[c];
        assert_true(used < all && plan.peak_live_bytes <= used);
        arena_destroy(&a);
    }
}

/* Three products in a row, of 4096, 8192 and 2048 bytes: the first two are needed at once while the second is made. */
static void test_peak(void **state) {
    struct arena *a = arena_create(NULL);
    struct graph *g = graph_create(a, TENSOR_F32);
    struct tensor_set *set = tensor_set_create(a, "w", TENSOR_F32, false, 1 << 20);
    int x = graph_io(g, "x", (struct shape){1, 1, 64, 8}), widths[] = {16, 32, 8}, in = 8;
    for (int i = 0; i < 3; i++) {
        int slot = tensor_set_add(set, "w", (struct shape){1, 1, widths[i], in});
        x = graph_linear(g, x, graph_slot(g, set, SET_DATA, slot), -1, -1);
        in = widths[i];
    }
    graph_output(g, "y", x);
    struct plan plan;
    walk(g, &(struct plan_params){0}, &plan);
    int64_t first = graph_value_bytes(g, g->nodes[0].out[0]), second = graph_value_bytes(g, g->nodes[1].out[0]);
    assert_true(first >= 64 * 16 * 4 && second >= 64 * 32 * 4);
    assert_int_equal(plan.peak_live_bytes, first + second);
    assert_int_equal(plan.peak_node, 1);
    assert_int_equal(plan.act_bytes[0], PLAN_ZERO_BYTES + first + second);
    arena_destroy(&a);
}

/* x + x: the sum may not take over an operand that is read twice; x + y may. */
static void test_in_place(void **state) {
    for (int twice = 0; twice < 2; twice++) {
        struct arena *a = arena_create(NULL);
        struct graph *g = graph_create(a, TENSOR_F32);
        struct shape s = {1, 1, 64, 8};
        int x = graph_scale(g, graph_io(g, "x", s), 2), y = graph_scale(g, graph_io(g, "y", s), 3);
        int sum = graph_add(g, x, twice ? x : y, BCAST_NONE);
        graph_output(g, "sum", sum);
        struct plan plan;
        walk(g, &(struct plan_params){0}, &plan);
        assert_int_equal(plan.values[sum].offset == plan.values[x].offset, !twice);
        arena_destroy(&a);
    }
}

/* A tensor that no chunk can hold is named with its layer. */
static void test_too_large(void **state) {
    struct arena *a = arena_create(NULL);
    struct error err;
    struct graph *g = graph_create(a, TENSOR_F32);
    graph_push(g, "mid_block.wide");
    graph_output(g, "y", graph_scale(g, graph_io(g, "x", (struct shape){1, 1, 4096, 64}), 2));
    struct plan plan;
    assert_false(graph_plan(g, &(struct plan_params){.max_chunk_bytes = 1 << 20}, &plan, &err)); /* 1 MiB and the zeros */
    assert_non_null(strstr(err.text, "mid_block.wide"));
    arena_destroy(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_is_overwritten),
        cmocka_unit_test(test_peak),
        cmocka_unit_test(test_in_place),
        cmocka_unit_test(test_too_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
