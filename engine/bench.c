/* One-node programs, timed. */
#include "engine/bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "graph/build.h"

enum { MAX_RUNS = 2000 };

double bench_op_flops(const struct bench_op *op) {
    double a = op->size[0], b = op->size[1], c = op->size[2];
    switch (op->kind) {
    case BENCH_GEMM: return 2 * a * b * c;
    case BENCH_CONV: return 18 * a * a * b * b;
    case BENCH_ATTENTION: return 4 * a * b * b * c;
    case BENCH_ATTENTION_DX: return 10 * a * b * b * c;
    }
    return 0;
}

static uint32_t next_random(uint32_t *s) { return *s = *s * 1664525u + 1013904223u; }

static void fill_uniform(float *dst, int64_t n, float bound, uint32_t *s) {
    for (int64_t i = 0; i < n; i++) dst[i] = ((float)(next_random(s) >> 8) * 0x1p-23f - 1) * bound;
}

static bool is_norm_gain(const char *name) {
    size_t n = strlen(name);
    return n > 7 && !strcmp(name + n - 7, ".weight");
}

bool bench_fill_random(struct gpu_set *data, const struct tensor_set *set, struct error *err) {
    int64_t most = 1;
    for (int i = 0; i < set->n_slots; i++)
        if (shape_elems(set->slots[i].shape) > most) most = shape_elems(set->slots[i].shape);
    float *row = malloc((size_t)most * sizeof *row);
    if (!row) return error_set(err, "The host has no %.0f MiB left for random weights.", (double)most * 4 / 1048576);
    uint32_t seed = 1;
    bool ok = true;
    for (int i = 0; ok && i < set->n_slots; i++) {
        struct shape s = set->slots[i].shape;
        int64_t n = shape_elems(s);
        bool vector = s.n * s.h * s.w == 1;
        if (!vector) fill_uniform(row, n, sqrtf(3.0f / (float)(s.n * s.c)), &seed);
        else for (int64_t k = 0; k < n; k++) row[k] = is_norm_gain(set->slots[i].name) ? 1 : 0;
        ok = gpu_set_write(data, i, row, err);
    }
    free(row);
    return ok;
}

/* The gradients to q, k and v; what the forward pass would hand on is an input too. */
static int build_attention_dx(struct graph *g, const struct bench_op *op, int *inputs, int *n_inputs) {
    int heads = op->size[0], tokens = op->size[1], width = op->size[2];
    static const char *const names[] = {"q", "k", "v", "o", "lse", "gradient"};
    for (int i = 0; i < 6; i++)
        inputs[(*n_inputs)++] = graph_io(g, names[i], (struct shape){1, 1, tokens, i == 4 ? heads : heads * width});
    union op_attr attr = {.attn = {heads, 1 / sqrtf((float)width), 0}};
    int node = graph_append(g, OP_ATTENTION_DX, inputs, 6, attr);
    if (node < 0) return -1;
    for (int i = 0; i < 3; i++) graph_value(g, g->nodes[node].out[i])->keep = true;
    return g->nodes[node].out[0];
}

/* The op's node over IO inputs and one frozen weight; returns its result. */
static int build_op(struct graph *g, const struct bench_op *op, struct tensor_set *set, int *inputs, int *n_inputs) {
    int a = op->size[0], b = op->size[1], c = op->size[2];
    if (op->kind == BENCH_GEMM) {
        inputs[(*n_inputs)++] = graph_io(g, "x", (struct shape){1, 1, a, c});
        return graph_linear(g, inputs[0], graph_slot(g, set, SET_DATA, tensor_set_add(set, "w", (struct shape){1, 1, b, c})),
                            -1, -1);
    }
    if (op->kind == BENCH_CONV) {
        struct conv_params p = {.k = 3, .stride = 1, .pad = 1};
        inputs[(*n_inputs)++] = graph_io(g, "x", (struct shape){1, b, b, a});
        return graph_conv2d(g, inputs[0], graph_slot(g, set, SET_DATA, tensor_set_add(set, "w", (struct shape){9, 1, a, a})),
                            -1, -1, &p);
    }
    if (op->kind == BENCH_ATTENTION_DX) return build_attention_dx(g, op, inputs, n_inputs);
    struct shape s = {1, 1, b, a * c};
    for (int i = 0; i < 3; i++) inputs[(*n_inputs)++] = graph_io(g, i == 0 ? "q" : i == 1 ? "k" : "v", s);
    return graph_attention(g, inputs[0], inputs[1], inputs[2], a, 1 / sqrtf((float)c), false);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static bool time_program(struct gpu_program *prog, double seconds, int least, struct bench_result *r, struct error *err) {
    double *times = malloc(MAX_RUNS * sizeof *times), end = 0;
    bool ok = times && gpu_program_run(prog, err);
    r->runs = 0;
    for (end = os_now_seconds() + seconds; ok && r->runs < MAX_RUNS && (r->runs < least || os_now_seconds() < end); r->runs++) {
        double start = os_now_seconds();
        ok = gpu_program_run(prog, err);
        times[r->runs] = os_now_seconds() - start;
        if (os_interrupted()) ok = error_set(err, "Stopped.");
    }
    if (ok) {
        qsort(times, (size_t)r->runs, sizeof *times, by_value);
        r->best = times[0], r->median = times[r->runs / 2];
    }
    free(times);
    return ok;
}

static bool fill_inputs(struct gpu_program *prog, const struct graph *g, const int *inputs, int n, struct error *err) {
    uint32_t seed = 7;
    for (int i = 0; i < n; i++) {
        int64_t count = shape_elems(graph_shape(g, inputs[i]));
        float *data = malloc((size_t)count * sizeof *data);
        if (!data) return error_set(err, "The host has no memory left for the inputs.");
        fill_uniform(data, count, 1, &seed);
        gpu_program_write(prog, inputs[i], data);
        free(data);
    }
    return true;
}

bool bench_run_op(struct gpu_device *dev, const struct bench_op *op, const char *kernel, double seconds,
                  struct bench_result *r, struct error *err) {
    struct arena *a = arena_create(NULL);
    struct graph *g = graph_create(a, gpu_device_storage(dev));
    struct tensor_set *set = tensor_set_create(a, "bench", gpu_device_storage(dev), false, gpu_device_max_chunk(dev));
    int inputs[GRAPH_MAX_IN], n_inputs = 0, y = build_op(g, op, set, inputs, &n_inputs);
    if (y >= 0) graph_value(g, y)->keep = true;
    graph_prune(g);
    struct gpu_set *data = NULL;
    struct gpu_program *prog = NULL;
    *r = (struct bench_result){.flops = bench_op_flops(op)};
    bool ok = graph_ok(g, err);
    if (ok && set->n_slots) ok = (data = gpu_set_create(dev, set, SET_DATA, err)) && bench_fill_random(data, set, err);
    struct gpu_binding binding = {set, SET_DATA, data};
    struct gpu_program_params p = {.name = "The benchmark", .bindings = &binding, .n_bindings = data != NULL, .profile = true,
                                   .force_kernel = kernel};
    ok = ok && (prog = gpu_program_create(dev, g, &p, err)) && fill_inputs(prog, g, inputs, n_inputs, err) &&
         time_program(prog, seconds, 5, r, err);
    struct gpu_timing t[4];
    if (ok && gpu_program_timings(prog, t, 4) > 0) snprintf(r->variant, sizeof r->variant, "%s", t[0].variant);
    gpu_program_destroy(&prog);
    gpu_set_destroy(&data);
    arena_destroy(&a);
    return ok;
}

/* ---- Whole programs ---- */

static int by_seconds(const void *a, const void *b) {
    double x = ((const struct bench_share *)a)->seconds, y = ((const struct bench_share *)b)->seconds;
    return (x < y) - (x > y);
}

int bench_shares(const struct gpu_program *prog, struct bench_share *out, int max) {
    int n_nodes = gpu_program_graph(prog)->n_nodes, n = 0;
    struct gpu_timing *t = calloc((size_t)n_nodes + 1, sizeof *t);
    if (!t) return 0;
    n_nodes = gpu_program_timings(prog, t, n_nodes);
    for (int i = 0; i < n_nodes; i++) {
        int k = 0;
        if (!t[i].op) continue;
        while (k < n && (strcmp(out[k].op, t[i].op) || strcmp(out[k].variant, t[i].variant))) k++;
        if (k == max) continue;
        if (k == n) out[n++] = (struct bench_share){.op = t[i].op, .variant = t[i].variant};
        out[k].seconds += t[i].seconds, out[k].flops += t[i].flops, out[k].nodes++;
    }
    free(t);
    qsort(out, (size_t)n, sizeof *out, by_seconds);
    return n;
}

bool bench_time_program(struct gpu_program *prog, int runs, struct bench_result *r, struct error *err) {
    return time_program(prog, 0, runs, r, err);
}
