/* Trades time for memory: what a segment made on the way forward and only the backward pass still needs
 * is dropped, and made again just before the first backward node that reads it.
 *
 * Kept, not made again: what later segments read (it lives on anyway), attention's results (dear to
 * compute, small beside the scores behind them) and second results such as means and 1/std (tiny). */
#include <assert.h>
#include <string.h>
#include "graph/graph.h"

struct remat {
    struct graph *g;
    struct node *old;   /* the tape before the pass */
    int n_old;
    int n_values;       /* values before the pass */
    bool *interior;     /* per value: may be dropped */
    bool *again;        /* per forward node: made again */
    int *clone;         /* per value: its second making, or -1 */
    bool *replayed;     /* per segment */
};

static int root_of(const struct graph *g, int v) {
    while (g->values[v].view_of >= 0) v = g->values[v].view_of;
    return v;
}

/* The segment whose nodes may make v again, or 0. */
static int interior_segment(const struct remat *r, int v) {
    int root = root_of(r->g, v);
    if (root >= r->n_values || !r->interior[root]) return 0;
    return r->old[r->g->values[root].producer].segment;
}

static void find_interior(struct remat *r) {
    const struct graph *g = r->g;
    for (int n = 0; n < g->n_forward; n++) {
        const struct node *node = &r->old[n];
        int v = node->out[0];
        if (!node->segment || v < 0 || node->op == OP_ATTENTION) continue;
        r->interior[v] = g->values[v].cls == VALUE_ACT && g->values[v].view_of < 0 && !g->values[v].keep;
    }
    for (int n = 0; n < g->n_forward; n++)
        for (int i = 0; i < r->old[n].n_in; i++) {
            int v = r->old[n].in[i];
            if (v < 0) continue;
            int segment = interior_segment(r, v);
            if (segment && segment != r->old[n].segment) r->interior[root_of(g, v)] = false;
        }
}

/* Nodes whose dropped result a backward node, or another node made again, reads. */
static void find_again(struct remat *r) {
    for (int n = r->n_old - 1; n >= 0; n--) {
        if (n < r->g->n_forward && !r->again[n]) continue;
        for (int i = 0; i < r->old[n].n_in; i++) {
            int v = r->old[n].in[i];
            if (v >= 0 && interior_segment(r, v)) r->again[r->g->values[root_of(r->g, v)].producer] = true;
        }
    }
}

static int value_copy(struct graph *g, int v) {
    if (g->n_values == g->cap_values) {
        g->values = arena_grow(g->arena, g->values, (size_t)g->n_values, (size_t)g->n_values * 2, sizeof *g->values);
        g->cap_values = g->n_values * 2;
    }
    g->values[g->n_values] = g->values[v];
    return g->n_values++;
}

/* What a reader of v reads now. */
static int renamed(struct remat *r, int v) {
    if (v < 0 || v >= r->n_values || !interior_segment(r, v)) return v;
    if (r->clone[v] < 0) {
        int base = r->g->values[v].view_of;
        assert(base >= 0); /* roots were renamed when their node was made again */
        base = renamed(r, base);
        r->clone[v] = value_copy(r->g, v);
        r->g->values[r->clone[v]].view_of = base;
    }
    return r->clone[v];
}

static void emit(struct remat *r, struct node node) {
    struct graph *g = r->g;
    for (int i = 0; i < node.n_out; i++)
        if (node.out[i] >= 0) g->values[node.out[i]].producer = g->n_nodes;
    g->nodes[g->n_nodes++] = node;
}

static void replay(struct remat *r, int segment) {
    if (r->replayed[segment]) return;
    r->replayed[segment] = true;
    for (int n = 0; n < r->g->n_forward; n++) {
        if (!r->again[n] || r->old[n].segment != segment) continue;
        struct node node = r->old[n];
        for (int i = 0; i < node.n_in; i++) node.in[i] = renamed(r, node.in[i]);
        r->clone[node.out[0]] = value_copy(r->g, node.out[0]);
        node.out[0] = r->clone[node.out[0]];
        for (int i = 1; i < node.n_out; i++) node.out[i] = -1;
        node.recompute = true;
        emit(r, node);
    }
}

bool graph_remat(struct graph *g, struct error *err) {
    if (g->failed || !g->n_forward || !g->n_segments) return graph_ok(g, err);
    struct remat r = {.g = g, .old = g->nodes, .n_old = g->n_nodes, .n_values = g->n_values};
    r.interior = arena_alloc(g->arena, (size_t)g->n_values);
    r.again = arena_alloc(g->arena, (size_t)g->n_nodes);
    r.clone = arena_alloc(g->arena, (size_t)g->n_values * sizeof(int));
    r.replayed = arena_alloc(g->arena, (size_t)g->n_segments + 1);
    memset(r.clone, 0xff, (size_t)g->n_values * sizeof(int));
    find_interior(&r);
    find_again(&r);
    g->cap_nodes = g->n_nodes + g->n_forward;
    g->nodes = arena_alloc(g->arena, (size_t)g->cap_nodes * sizeof *g->nodes);
    g->n_nodes = 0;
    for (int n = 0; n < r.n_old; n++) {
        struct node node = r.old[n];
        if (n >= g->n_forward)
            for (int i = 0; i < node.n_in; i++) {
                int segment = node.in[i] < 0 ? 0 : interior_segment(&r, node.in[i]);
                if (segment) replay(&r, segment);
                node.in[i] = renamed(&r, node.in[i]);
            }
        emit(&r, node);
    }
    return graph_verify(g, err);
}
