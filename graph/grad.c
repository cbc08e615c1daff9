/* Reverse-mode differentiation of a tape: walks the forward nodes backwards, asks each operator's rule for
 * the gradients of its inputs, and adds up what arrives at each value.
 *
 * Gradients are kept per root: a reshape's gradient is its base's under another name, and every reading of
 * one trainable slot is the same parameter. */
#include <assert.h>
#include <string.h>
#include "graph/graph.h"

struct grad_pass {
    struct graph *g;
    int n_values; /* values before the pass: only these have gradients */
    int *grad;    /* per value: its gradient so far, or -1 */
    int *same;    /* per value: the value that stands for it */
};

static bool is_param(const struct value *v) {
    return v->cls == VALUE_SET && v->bank == SET_DATA && v->set->trainable && v->view_of < 0;
}

/* Several values may name one slot; the first stands for all. */
static void find_params(struct grad_pass *p) {
    int *params = arena_alloc(p->g->arena, (size_t)p->n_values * sizeof *params), n = 0;
    for (int v = 0; v < p->n_values; v++) {
        p->same[v] = v;
        const struct value *value = graph_value(p->g, v);
        if (!is_param(value)) continue;
        for (int i = 0; i < n; i++) {
            const struct value *first = graph_value(p->g, params[i]);
            if (first->set == value->set && first->slot == value->slot) p->same[v] = params[i];
        }
        if (p->same[v] == v) params[n++] = v;
    }
}

/* The gradient of a value's root, seen as the root. -1 after an error. */
static int to_root(struct grad_pass *p, int *v, int grad) {
    struct graph *g = p->g;
    while (grad >= 0 && g->values[*v].view_of >= 0) {
        const struct value *view = graph_value(g, *v);
        struct shape base = graph_shape(g, view->view_of);
        if (view->view_texels || shape_rows(base) != shape_rows(view->shape) || base.c != view->shape.c)
            return graph_fail(g, "%s: a view of part of a value has no gradient; use graph_slice", view->label);
        *v = view->view_of;
        if (!shape_equal(base, graph_shape(g, grad))) grad = graph_view(g, grad, base, 0);
    }
    *v = p->same[*v];
    return grad;
}

/* A matrix product made just now can add the earlier sum itself: one pass over memory less. */
static bool absorb(struct graph *g, int sum, int grad, int first_node) {
    const struct value *value = graph_value(g, grad);
    if (value->producer < first_node || value->view_of >= 0) return false;
    struct node *node = &g->nodes[value->producer];
    int slot = node->op == OP_MATMUL ? 3 : node->op == OP_MATMUL_TN ? 2 : -1;
    if (slot < 0 || node->in[slot] >= 0 || !shape_equal(graph_shape(g, sum), value->shape)) return false;
    int root = sum;
    while (g->values[root].view_of >= 0) root = g->values[root].view_of;
    if (g->values[root].producer >= value->producer) return false;
    node->in[slot] = sum;
    node->n_in = slot + 1; /* inputs past the given ones are -1 already */
    return true;
}

/* Adds `grad` to what has arrived at v. Nodes from first_node on were made for this gradient alone. */
static void contribute(struct grad_pass *p, int v, int grad, int first_node) {
    struct graph *g = p->g;
    int direct = grad;
    grad = to_root(p, &v, grad);
    if (grad < 0) return;
    int sum = p->grad[v];
    if (sum < 0) {
        p->grad[v] = grad;
    } else if (grad == direct && absorb(g, sum, grad, first_node)) {
        p->grad[v] = grad;
    } else {
        int add = graph_append(g, OP_ADD, (int[]){sum, grad}, 2, (union op_attr){0});
        p->grad[v] = add < 0 ? -1 : g->nodes[add].out[0];
    }
}

static void node_backward(struct grad_pass *p, int n) {
    struct graph *g = p->g;
    const struct node node = g->nodes[n];
    int grad_out[GRAPH_MAX_OUT], grad_in[GRAPH_MAX_IN];
    bool want[GRAPH_MAX_IN] = {0}, any_out = false, any_in = false;
    for (int i = 0; i < GRAPH_MAX_OUT; i++) {
        grad_out[i] = i < node.n_out && node.out[i] >= 0 ? p->grad[node.out[i]] : -1;
        any_out |= grad_out[i] >= 0;
    }
    for (int i = 0; i < GRAPH_MAX_IN; i++) {
        grad_in[i] = -1;
        want[i] = i < node.n_in && node.in[i] >= 0 && g->values[node.in[i]].needs_grad;
        any_in |= want[i];
    }
    if (!any_out || !any_in || op_table[node.op].no_grad) return;
    size_t mark = graph_push(g, "%s", node.label);
    if (grad_out[0] < 0) /* means, log sums and the like are read by gradients only */
        graph_fail(g, "%s: only the first result has a gradient", op_table[node.op].name);
    int first_node = g->n_nodes;
    if (!g->failed) op_table[node.op].grad(g, n, grad_out, want, grad_in);
    for (int i = 0; i < node.n_in && !g->failed; i++) {
        if (!want[i] || grad_in[i] < 0) continue;
        int uses = 0; /* one gradient may serve two inputs; then neither may add into it */
        for (int j = 0; j < node.n_in; j++) uses += want[j] && grad_in[j] == grad_in[i];
        contribute(p, node.in[i], grad_in[i], uses == 1 ? first_node : g->n_nodes);
    }
    graph_pop(g, mark);
}

static bool walk(struct grad_pass *p, struct graph *g, int loss, int seed) {
    if (g->failed || loss < 0 || seed < 0) return false;
    assert(!g->n_forward);
    if (!shape_equal(graph_shape(g, loss), graph_shape(g, seed)))
        return graph_fail(g, "grad: the seed's shape differs from the loss's"), false;
    if (!g->values[loss].needs_grad) return graph_fail(g, "grad: the loss depends on nothing trainable"), false;
    *p = (struct grad_pass){.g = g, .n_values = g->n_values};
    p->grad = arena_alloc(g->arena, (size_t)g->n_values * sizeof(int));
    p->same = arena_alloc(g->arena, (size_t)g->n_values * sizeof(int));
    for (int v = 0; v < p->n_values; v++) p->grad[v] = -1;
    find_params(p);
    int segment = g->segment;
    char prefix[sizeof g->prefix];
    memcpy(prefix, g->prefix, sizeof prefix);
    g->prefix[0] = 0, g->segment = 0, g->n_forward = g->n_nodes;
    contribute(p, loss, seed, g->n_nodes);
    for (int n = g->n_forward - 1; n >= 0 && !g->failed; n--) node_backward(p, n);
    memcpy(g->prefix, prefix, sizeof prefix);
    g->segment = segment;
    return !g->failed;
}

/* Writes each parameter's gradient into its set: the node that makes it writes there, or a copy does. */
static void home_params(struct grad_pass *p) {
    struct graph *g = p->g;
    bool *read = arena_alloc(g->arena, (size_t)g->n_values);
    for (int n = 0; n < g->n_nodes; n++)
        for (int i = 0; i < g->nodes[n].n_in; i++)
            for (int v = g->nodes[n].in[i]; v >= 0; v = g->values[v].view_of) read[v] = true;
    for (int v = 0; v < p->n_values && !g->failed; v++) {
        int grad = p->grad[v];
        if (grad < 0 || !is_param(graph_value(g, v))) continue;
        const struct value param = g->values[v];
        const struct value *value = graph_value(g, grad);
        bool own = grad >= p->n_values && value->cls == VALUE_ACT && value->view_of < 0 && !read[grad] &&
                   shape_rows(value->shape) == shape_rows(param.shape) && value->shape.c == param.shape.c;
        if (!own) {
            int node = graph_append(g, OP_COPY, &grad, 1, (union op_attr){0});
            if (node < 0) return;
            grad = g->nodes[node].out[0];
        }
        struct value *home = graph_value(g, grad);
        home->shape = param.shape, home->cls = VALUE_SET, home->dtype = param.set->dtype;
        home->set = param.set, home->bank = SET_GRAD, home->slot = param.slot;
        home->keep = true, home->label = param.label;
    }
}

bool graph_grad(struct graph *g, int loss, int seed, struct error *err) {
    struct grad_pass pass;
    if (walk(&pass, g, loss, seed)) home_params(&pass);
    return graph_ok(g, err);
}

bool graph_grad_values(struct graph *g, int loss, int seed, const int *wrt, int n_wrt, int *grads,
                       struct error *err) {
    struct grad_pass pass;
    for (int i = 0; i < n_wrt; i++) grads[i] = -1;
    if (!walk(&pass, g, loss, seed)) return graph_ok(g, err);
    for (int i = 0; i < n_wrt; i++) {
        int v = wrt[i];
        while (g->values[v].view_of >= 0) v = g->values[v].view_of;
        int grad = pass.grad[pass.same[v]];
        struct shape want = graph_shape(g, wrt[i]);
        if (grad >= 0 && !shape_equal(graph_shape(g, grad), want)) grad = graph_view(g, grad, want, 0);
        grads[i] = grad;
    }
    return graph_ok(g, err);
}
