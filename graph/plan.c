#include "graph/plan.h"

#include <stdlib.h>
#include <string.h>

/* A stretch of memory that must live from node `first` to node `last`. */
struct span {
    int64_t bytes, offset;
    int first, last, chunk;
    int value; /* root value, or -1 - node for scratch */
};

struct planner {
    struct graph *g;
    const struct plan_params *p;
    struct plan *out;
    int *root;  /* value -> value that owns the storage (views and in-place resolved) */
    int *last;  /* root value -> last node using it */
    struct span *spans;
    int n_spans;
};

static int64_t align_up(int64_t v, int64_t a) { return (v + a - 1) / a * a; }

int64_t graph_value_bytes(const struct graph *g, int v) {
    return align_up(shape_texels(g->values[v].shape) * (int64_t)tensor_texel_bytes(g->values[v].dtype), PLAN_ALIGN);
}

static void resolve_views(struct planner *pl) {
    struct graph *g = pl->g;
    for (int v = 0; v < g->n_values; v++) {
        int r = v;
        while (g->values[r].view_of >= 0) r = g->values[r].view_of;
        pl->root[v] = r;
    }
}

static void find_last_uses(struct planner *pl) {
    struct graph *g = pl->g;
    for (int v = 0; v < g->n_values; v++) pl->last[v] = -1;
    for (int n = 0; n < g->n_nodes; n++) {
        for (int i = 0; i < g->nodes[n].n_in; i++)
            if (g->nodes[n].in[i] >= 0) pl->last[pl->root[g->nodes[n].in[i]]] = n;
        for (int i = 0; i < g->nodes[n].n_out; i++)
            if (g->nodes[n].out[i] >= 0) pl->last[pl->root[g->nodes[n].out[i]]] = n;
    }
    for (int v = 0; v < g->n_values; v++)
        if (g->values[v].keep && pl->last[pl->root[v]] >= 0) pl->last[pl->root[v]] = g->n_nodes;
}

/* A result may take over an input that dies here, if no other operand shares that storage. */
static void merge_in_place(struct planner *pl) {
    struct graph *g = pl->g;
    for (int n = 0; n < g->n_nodes; n++) {
        const struct node *node = &g->nodes[n];
        int k = op_table[node->op].inplace;
        if (k < 0 || k >= node->n_in || node->in[k] < 0 || node->out[0] < 0) continue;
        int in = node->in[k], out = node->out[0], from = pl->root[in];
        if (pl->root[out] != out || g->values[out].cls != VALUE_ACT || g->values[from].cls != VALUE_ACT) continue;
        if (pl->last[from] != n || g->values[in].view_texels || from == out) continue;
        if (graph_value_bytes(g, from) != graph_value_bytes(g, out) || g->values[from].dtype != g->values[out].dtype)
            continue;
        bool shared = false;
        for (int i = 0; i < node->n_in; i++)
            if (i != k && node->in[i] >= 0 && pl->root[node->in[i]] == from) shared = true;
        if (shared) continue;
        pl->last[from] = pl->last[out];
        for (int v = 0; v < g->n_values; v++)
            if (pl->root[v] == out) pl->root[v] = from;
    }
}

static void collect_spans(struct planner *pl) {
    struct graph *g = pl->g;
    for (int v = 0; v < g->n_values; v++) {
        struct value *val = &g->values[v];
        if (pl->root[v] != v || val->cls != VALUE_ACT || pl->last[v] < 0 || val->producer < 0) continue;
        pl->spans[pl->n_spans++] = (struct span){.bytes = graph_value_bytes(g, v), .first = val->producer,
                                                 .last = pl->last[v], .value = v};
    }
    for (int n = 0; n < g->n_nodes && pl->p->scratch; n++) {
        int64_t bytes = pl->p->scratch(pl->p->ctx, g, n);
        if (bytes > 0)
            pl->spans[pl->n_spans++] =
                (struct span){.bytes = align_up(bytes, PLAN_ALIGN), .first = n, .last = n, .value = -1 - n};
    }
}

static int span_order(const void *x, const void *y) {
    const struct span *a = x, *b = y;
    if (a->bytes != b->bytes) return a->bytes < b->bytes ? 1 : -1;
    if (a->first != b->first) return a->first - b->first;
    return a->value - b->value;
}

static int by_offset(const void *x, const void *y) {
    const struct span *a = *(const struct span *const *)x, *b = *(const struct span *const *)y;
    return a->offset < b->offset ? -1 : a->offset > b->offset;
}

/* Lowest gap in `chunk` free during the span; largest spans go first (greedy by size). */
static int64_t find_gap(struct span *spans, int n, const struct span *s, int chunk, struct span **busy) {
    int n_busy = 0;
    for (int i = 0; i < n; i++)
        if (spans[i].chunk == chunk && spans[i].first <= s->last && s->first <= spans[i].last) busy[n_busy++] = &spans[i];
    qsort(busy, (size_t)n_busy, sizeof *busy, by_offset);
    int64_t at = PLAN_ZERO_BYTES;
    for (int i = 0; i < n_busy; i++) {
        if (busy[i]->offset - at >= s->bytes) break;
        if (busy[i]->offset + busy[i]->bytes > at) at = busy[i]->offset + busy[i]->bytes;
    }
    return at;
}

static bool place_spans(struct planner *pl, struct error *err) {
    int64_t limit = pl->p->max_chunk_bytes ? pl->p->max_chunk_bytes : ((int64_t)2 << 30) - 65536;
    struct plan *out = pl->out;
    struct span **busy = arena_alloc(pl->g->arena, (size_t)(pl->n_spans + 1) * sizeof *busy);
    qsort(pl->spans, (size_t)pl->n_spans, sizeof *pl->spans, span_order);
    for (int i = 0; i < pl->n_spans; i++) {
        struct span *s = &pl->spans[i];
        int chunk = 0;
        for (;; chunk++) {
            if (chunk == PLAN_MAX_CHUNKS || s->bytes + PLAN_ZERO_BYTES > limit) {
                int node = s->value < 0 ? -1 - s->value : s->first;
                return error_set(err, "%s: one tensor takes %.0f MiB, more than a buffer of this device can hold (%.0f MiB); "
                                 "make the picture or the batch smaller", pl->g->nodes[node].label,
                                 (double)s->bytes / 1048576, (double)limit / 1048576);
            }
            if (pl->p->no_reuse) s->offset = out->act_bytes[chunk] ? out->act_bytes[chunk] : PLAN_ZERO_BYTES;
            else s->offset = find_gap(pl->spans, i, s, chunk, busy);
            if (s->offset + s->bytes <= limit) break;
        }
        s->chunk = chunk;
        if (chunk + 1 > out->n_act_chunks) out->n_act_chunks = chunk + 1;
        if (s->offset + s->bytes > out->act_bytes[chunk]) out->act_bytes[chunk] = s->offset + s->bytes;
    }
    return true;
}

static void find_peak(struct planner *pl) {
    int n = pl->g->n_nodes;
    int64_t *delta = arena_alloc(pl->g->arena, (size_t)(n + 2) * sizeof *delta), live = 0;
    for (int i = 0; i < pl->n_spans; i++) {
        int last = pl->spans[i].last < n ? pl->spans[i].last : n;
        delta[pl->spans[i].first] += pl->spans[i].bytes;
        delta[last + 1] -= pl->spans[i].bytes;
    }
    for (int i = 0; i <= n; i++) {
        live += delta[i];
        if (live > pl->out->peak_live_bytes) pl->out->peak_live_bytes = live, pl->out->peak_node = i < n ? i : n - 1;
    }
}

static void publish(struct planner *pl) {
    struct graph *g = pl->g;
    struct plan *out = pl->out;
    for (int v = 0; v < g->n_values; v++) out->values[v].chunk = -1;
    for (int n = 0; n < g->n_nodes; n++) out->scratch[n].chunk = -1;
    for (int i = 0; i < pl->n_spans; i++) {
        struct plan_place place = {pl->spans[i].chunk, pl->spans[i].offset};
        if (pl->spans[i].value >= 0) out->values[pl->spans[i].value] = place;
        else out->scratch[-1 - pl->spans[i].value] = place;
    }
    out->io_bytes = PLAN_ZERO_BYTES;
    for (int v = 0; v < g->n_values; v++) {
        if (g->values[v].cls != VALUE_IO || pl->root[v] != v) continue;
        out->values[v] = (struct plan_place){0, out->io_bytes};
        out->io_bytes += graph_value_bytes(g, v);
    }
    for (int v = 0; v < g->n_values; v++) {
        if (g->values[v].cls != VALUE_ACT && g->values[v].cls != VALUE_IO) continue;
        int64_t shift = 0;
        for (int w = v; g->values[w].view_of >= 0; w = g->values[w].view_of)
            shift += g->values[w].view_texels * (int64_t)tensor_texel_bytes(g->values[w].dtype);
        struct plan_place r = out->values[pl->root[v]];
        if (r.chunk >= 0 && pl->root[v] != v) out->values[v] = (struct plan_place){r.chunk, r.offset + shift};
    }
}

bool graph_plan(struct graph *g, const struct plan_params *p, struct plan *out, struct error *err) {
    if (!graph_verify(g, err)) return false;
    *out = (struct plan){0};
    struct arena *a = g->arena;
    struct planner pl = {.g = g, .p = p, .out = out};
    pl.root = arena_alloc(a, (size_t)(g->n_values + 1) * sizeof(int));
    pl.last = arena_alloc(a, (size_t)(g->n_values + 1) * sizeof(int));
    pl.spans = arena_alloc(a, (size_t)(g->n_values + g->n_nodes + 1) * sizeof *pl.spans);
    out->values = arena_alloc(a, (size_t)(g->n_values + 1) * sizeof *out->values);
    out->scratch = arena_alloc(a, (size_t)(g->n_nodes + 1) * sizeof *out->scratch);
    resolve_views(&pl);
    find_last_uses(&pl);
    if (!p->no_reuse) merge_in_place(&pl);
    collect_spans(&pl);
    if (!place_spans(&pl, err)) return false;
    find_peak(&pl);
    publish(&pl);
    return true;
}
