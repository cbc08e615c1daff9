#include "graph/graph.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct graph *graph_create(struct arena *parent, enum tensor_dtype act_dtype) {
    struct arena *a = arena_create(parent);
    struct graph *g = arena_alloc(a, sizeof *g);
    g->arena = a;
    g->act_dtype = act_dtype;
    return g;
}

void graph_destroy(struct graph **g) {
    if (!*g) return;
    struct arena *a = (*g)->arena;
    *g = NULL;
    arena_destroy(&a);
}

bool graph_ok(const struct graph *g, struct error *err) {
    if (!g->failed) return true;
    return error_set(err, "%s", g->error.text);
}

int graph_fail(struct graph *g, const char *fmt, ...) {
    if (g->failed) return -1;
    g->failed = true;
    char text[640];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    error_set(&g->error, "%s%s%s", g->prefix, g->prefix[0] ? ": " : "", text);
    return -1;
}

size_t graph_push(struct graph *g, const char *fmt, ...) {
    size_t mark = strlen(g->prefix), at = mark;
    if (at && at + 1 < sizeof g->prefix) g->prefix[at++] = '.';
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(g->prefix + at, sizeof g->prefix - at, fmt, ap);
    va_end(ap);
    return mark;
}

void graph_pop(struct graph *g, size_t mark) { g->prefix[mark] = 0; }

void graph_segment_begin(struct graph *g) {
    assert(g->segment == 0);
    g->segment = ++g->n_segments;
}

void graph_segment_end(struct graph *g) { g->segment = 0; }

/* Arena memory is never moved in place; growth copies, which a build does a dozen times at most. */
static void *grow(struct arena *a, void *old, int n, int *cap, size_t size) {
    if (n < *cap) return old;
    int want = *cap ? *cap * 2 : 256;
    void *p = arena_alloc(a, (size_t)want * size);
    if (n) memcpy(p, old, (size_t)n * size);
    *cap = want;
    return p;
}

static int value_add(struct graph *g, struct value v) {
    g->values = grow(g->arena, g->values, g->n_values, &g->cap_values, sizeof *g->values);
    if (!v.label) v.label = arena_strdup(g->arena, g->prefix);
    g->values[g->n_values] = v;
    return g->n_values++;
}

static bool shape_valid(struct shape s) {
    return s.n > 0 && s.h > 0 && s.w > 0 && s.c > 0 && shape_texels(s) < (int64_t)1 << 27;
}

int graph_io(struct graph *g, const char *label, struct shape shape) {
    if (g->failed) return -1;
    if (!shape_valid(shape))
        return graph_fail(g, "input %s has an impossible size %dx%dx%dx%d", label, shape.n, shape.h, shape.w, shape.c);
    struct value v = {.shape = shape, .cls = VALUE_IO, .dtype = TENSOR_F32, .producer = -1, .view_of = -1,
                      .keep = true, .slot = -1, .label = arena_strdup(g->arena, label)};
    return value_add(g, v);
}

int graph_slot(struct graph *g, struct tensor_set *set, enum set_bank bank, int slot) {
    if (g->failed) return -1;
    assert(slot >= 0 && slot < set->n_slots);
    struct value v = {.shape = set->slots[slot].shape, .cls = VALUE_SET, .dtype = set->slots[slot].dtype, .producer = -1,
                      .view_of = -1, .set = set, .bank = bank, .slot = slot, .keep = true,
                      .needs_grad = set->trainable && bank == SET_DATA, .label = set->slots[slot].name};
    return value_add(g, v);
}

int graph_flat(struct graph *g, struct tensor_set *set, enum set_bank bank, int chunk) {
    if (g->failed) return -1;
    assert(chunk >= 0 && chunk < set->n_chunks);
    int64_t texels = (set->chunk_texels[chunk] + SHAPE_ROW_TILE - 1) / SHAPE_ROW_TILE * SHAPE_ROW_TILE;
    struct value v = {.shape = {1, 1, (int32_t)texels, 4}, .cls = VALUE_FLAT, .dtype = set->dtype, .producer = -1,
                      .view_of = -1, .set = set, .bank = bank, .slot = chunk, .keep = true, .label = set->name};
    return value_add(g, v);
}

int graph_view(struct graph *g, int value, struct shape shape, int64_t offset_texels) {
    if (g->failed || value < 0) return -1;
    struct value base = g->values[value];
    assert(shape_stride(shape) == shape_stride(base.shape));
    assert(offset_texels >= 0 && offset_texels + shape_texels(shape) <= shape_texels(base.shape));
    struct value v = {.shape = shape, .cls = base.cls, .dtype = base.dtype, .producer = -1, .view_of = value,
                      .view_texels = offset_texels, .set = base.set, .bank = base.bank, .slot = base.slot,
                      .needs_grad = base.needs_grad, .keep = base.keep};
    return value_add(g, v);
}

/* Statistics, losses and parameter gradients keep f32 whatever activations are stored as. */
static enum tensor_dtype result_dtype(const struct graph *g, enum op op, int i) {
    switch (op) {
    case OP_GROUP_NORM:
    case OP_LAYER_NORM:
    case OP_ATTENTION: return i == 0 ? g->act_dtype : TENSOR_F32;
    case OP_MATMUL_TN:
    case OP_CONV2D_DW:
    case OP_ROW_SUM:
    case OP_GROUP_NORM_DP:
    case OP_LAYER_NORM_DP:
    case OP_EMBED_DW:
    case OP_TIMESTEP:
    case OP_MSE:
    case OP_HUBER:
    case OP_SUM_SQUARES:
    case OP_PRODIGY_SUMS: return TENSOR_F32;
    default: return g->act_dtype;
    }
}

/* Results of in-place updates share their input's storage: index of that input, or -1. */
static int updated_input(enum op op, int i) {
    static const int two_states[3] = {0, 2, 3};
    switch (op) {
    case OP_ADAMW:
    case OP_LION:
    case OP_SCHEDULE_FREE:
    case OP_PRODIGY:
    case OP_ADAFACTOR: return two_states[i];
    case OP_PRODIGY_SUMS: return i == 0 ? 3 : -1;
    case OP_PAIR_NORM: return i;
    case OP_ACCUMULATE:
    case OP_EMA: return 0;
    default: return -1;
    }
}

static bool any_needs_grad(const struct graph *g, const int *in, int n_in) {
    for (int i = 0; i < n_in; i++)
        if (in[i] >= 0 && g->values[in[i]].needs_grad) return true;
    return false;
}

int graph_append_shaped(struct graph *g, enum op op, const int *in, int n_in, union op_attr attr,
                        const struct shape *out, int n_out) {
    if (g->failed) return -1;
    const struct op_info *info = &op_table[op];
    assert(n_in <= info->n_in && n_out <= info->n_out);
    struct node node = {.op = op, .attr = attr, .n_in = n_in, .n_out = n_out, .segment = g->segment};
    for (int i = 0; i < GRAPH_MAX_IN; i++) node.in[i] = i < n_in ? in[i] : -1;
    for (int i = 0; i < GRAPH_MAX_OUT; i++) node.out[i] = -1;
    bool grad = !info->no_grad && any_needs_grad(g, in, n_in);
    for (int i = 0; i < n_out; i++) {
        if (!shape_valid(out[i]))
            return graph_fail(g, "%s would make an impossible size %dx%dx%dx%d", info->name, out[i].n, out[i].h,
                              out[i].w, out[i].c);
        struct value v = {.shape = out[i], .cls = VALUE_ACT, .dtype = result_dtype(g, op, i),
                          .producer = g->n_nodes, .view_of = -1, .slot = -1, .needs_grad = grad};
        int u = updated_input(op, i);
        if (u >= 0) {
            const struct value *src = &g->values[in[u]];
            v.view_of = in[u], v.cls = src->cls, v.dtype = src->dtype, v.keep = src->keep;
            v.set = src->set, v.bank = src->bank, v.slot = src->slot;
        }
        node.out[i] = value_add(g, v);
    }
    node.label = n_out ? g->values[node.out[0]].label : arena_strdup(g->arena, g->prefix);
    g->nodes = grow(g->arena, g->nodes, g->n_nodes, &g->cap_nodes, sizeof *g->nodes);
    g->nodes[g->n_nodes] = node;
    return g->n_nodes++;
}

int graph_append(struct graph *g, enum op op, const int *in, int n_in, union op_attr attr) {
    if (g->failed) return -1;
    const struct op_info *info = &op_table[op];
    struct node node = {.op = op, .attr = attr, .n_in = n_in};
    for (int i = 0; i < GRAPH_MAX_IN; i++) node.in[i] = i < n_in ? in[i] : -1;
    struct shape out[GRAPH_MAX_OUT] = {0};
    assert(info->shape);
    if (!info->shape(g, &node, out)) {
        graph_fail(g, "%s: operand sizes do not fit together", info->name); /* keeps the first message */
        return -1;
    }
    return graph_append_shaped(g, op, in, n_in, attr, out, info->n_out);
}

int graph_output(struct graph *g, const char *label, int value) {
    if (g->failed || value < 0) return -1;
    int node = graph_append(g, OP_COPY, &value, 1, (union op_attr){0});
    if (node < 0) return -1;
    struct value *v = &g->values[g->nodes[node].out[0]];
    v->cls = VALUE_IO, v->dtype = TENSOR_F32, v->keep = true;
    v->label = arena_strdup(g->arena, label);
    g->nodes[node].label = v->label;
    return g->nodes[node].out[0];
}

/* --- passes that look at the whole tape ------------------------------------------------------------ */

static int storage_root(const struct graph *g, int v) {
    while (g->values[v].view_of >= 0) v = g->values[v].view_of;
    return v;
}

void graph_prune(struct graph *g) {
    bool *needed = arena_alloc(g->arena, (size_t)g->n_values);
    bool *keep_node = arena_alloc(g->arena, (size_t)g->n_nodes);
    for (int n = g->n_nodes - 1; n >= 0; n--) {
        struct node *node = &g->nodes[n];
        for (int i = 0; i < node->n_out; i++) {
            if (node->out[i] < 0) continue;
            int root = storage_root(g, node->out[i]);
            if (needed[node->out[i]] || g->values[node->out[i]].keep || g->values[root].keep) keep_node[n] = true;
        }
        if (!keep_node[n]) continue;
        for (int i = 0; i < node->n_in; i++)
            for (int v = node->in[i]; v >= 0; v = g->values[v].view_of) needed[v] = true;
    }
    int *remap = arena_alloc(g->arena, (size_t)g->n_nodes * sizeof *remap);
    int kept = 0, forward = 0;
    for (int n = 0; n < g->n_nodes; n++) {
        if (n == g->n_forward) forward = kept;
        remap[n] = keep_node[n] ? kept : -1;
        if (keep_node[n]) g->nodes[kept++] = g->nodes[n];
    }
    if (g->n_forward >= g->n_nodes) forward = kept;
    g->n_nodes = kept, g->n_forward = g->n_forward ? forward : 0;
    for (int v = 0; v < g->n_values; v++)
        if (g->values[v].producer >= 0) g->values[v].producer = remap[g->values[v].producer];
    /* Secondary results nobody reads need no storage. */
    for (int n = 0; n < g->n_nodes; n++)
        for (int i = 1; i < g->nodes[n].n_out; i++) {
            int o = g->nodes[n].out[i];
            if (o >= 0 && !needed[o] && !g->values[o].keep) g->nodes[n].out[i] = -1;
        }
}

bool graph_verify(const struct graph *g, struct error *err) {
    if (!graph_ok(g, err)) return false;
    for (int n = 0; n < g->n_nodes; n++) {
        const struct node *node = &g->nodes[n];
        for (int i = 0; i < node->n_in; i++) {
            int v = node->in[i];
            if (v < 0) continue;
            if (v >= g->n_values) return error_set(err, "node %d (%s) reads value %d of %d", n, node->label, v, g->n_values);
            int producer = g->values[storage_root(g, v)].producer;
            if (g->values[storage_root(g, v)].cls == VALUE_ACT && (producer < 0 || producer >= n))
                return error_set(err, "node %d %s (%s) reads %s before node %d makes it", n, op_table[node->op].name,
                                 node->label, g->values[v].label, producer);
        }
        for (int i = 0; i < node->n_out; i++)
            if (node->out[i] >= 0 && g->values[node->out[i]].producer != n)
                return error_set(err, "node %d (%s): result %d names node %d as its producer", n, node->label, i,
                                 g->values[node->out[i]].producer);
    }
    return true;
}

void graph_dump(const struct graph *g, void (*write)(void *ctx, const char *line), void *ctx) {
    char line[1024];
    for (int n = 0; n < g->n_nodes; n++) {
        const struct node *node = &g->nodes[n];
        int at = snprintf(line, sizeof line, "%4d %-14s", n, op_table[node->op].name);
        for (int i = 0; i < node->n_out && at < 900; i++) {
            if (node->out[i] < 0) continue;
            struct shape s = g->values[node->out[i]].shape;
            at += snprintf(line + at, sizeof line - (size_t)at, " v%d[%d,%d,%d,%d]", node->out[i], s.n, s.h, s.w, s.c);
        }
        at += snprintf(line + at, sizeof line - (size_t)at, " <-");
        for (int i = 0; i < node->n_in && at < 900; i++)
            at += snprintf(line + at, sizeof line - (size_t)at, " v%d", node->in[i]);
        snprintf(line + at, sizeof line - (size_t)at, "  %s%s", node->label, node->recompute ? " (again)" : "");
        write(ctx, line);
    }
}
