/* From a tape to a program: kernels, plan, memory, buffers; inputs and outputs. */
#include "gpu/program.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "gpu/gpu_priv.h"

static struct kernel_query query(const struct gpu_program *prog, int node) {
    return (struct kernel_query){prog->g, &prog->g->nodes[node], &prog->dev->caps};
}

static bool forced(const struct gpu_program *prog, const struct kernel *k) {
    const char *f = prog->params.force_kernel;
    if (!f) return false;
    const char *eq = strchr(f, '=');
    size_t n = eq ? (size_t)(eq - f) : strlen(f);
    const char *name = op_table[k->op].name;
    return eq && strlen(name) == n && !strncmp(name, f, n) && !strcmp(eq + 1, k->variant);
}

static bool names_op(const char *f, const char *op) { return f && !strncmp(f, op, strlen(op)) && f[strlen(op)] == '='; }

bool gpu_kernels_select(struct gpu_program *prog, struct error *err) {
    for (int n = 0; n < prog->g->n_nodes; n++) {
        struct kernel_query q = query(prog, n);
        const struct kernel *best = NULL;
        bool must = names_op(prog->params.force_kernel, op_table[q.node->op].name);
        for (int i = 0; i < kernel_count; i++) {
            const struct kernel *k = &kernel_table[i];
            if (k->op != q.node->op || k->cls != prog->dev->caps.cls || !kernel_accepts(k, &q)) continue;
            if (k->prep_bytes && prog->params.no_prepare && !must) continue;
            if (must ? forced(prog, k) : true) {
                best = k;
                break;
            }
        }
        if (!best)
            return error_set(err, "No kernel%s%s fits %s at %s on %s.", must ? " " : "", must ? prog->params.force_kernel : "",
                             op_table[q.node->op].name, q.node->label, prog->dev->properties.deviceName);
        prog->kernels[n] = best;
    }
    return true;
}

static bool weight_is_frozen(const struct graph *g, const struct node *node) {
    int w = node->n_in > 1 ? node->in[1] : -1;
    return w >= 0 && g->values[w].cls == VALUE_SET && !g->values[w].set->trainable;
}

static int64_t kernel_scratch(void *ctx, const struct graph *g, int node) {
    struct gpu_program *prog = ctx;
    struct kernel_query q = {g, &g->nodes[node], &prog->dev->caps};
    const struct kernel *k = prog->kernels[node];
    int64_t bytes = k->scratch_bytes ? k->scratch_bytes(&q) : 0;
    bytes = (bytes + 63) / 64 * 64;
    if (k->prep_bytes && !weight_is_frozen(g, q.node)) bytes += k->prep_bytes(&q); /* prepared anew each run */
    return bytes;
}

/* Offsets in a chunk are 32-bit numbers to kernels, so a chunk that is full is followed by another. */
static bool plan_prepared(struct gpu_program *prog, struct error *err) {
    for (int n = 0; n < prog->g->n_nodes; n++) {
        struct kernel_query q = query(prog, n);
        const struct kernel *k = prog->kernels[n];
        prog->prep[n].chunk = -1;
        int64_t bytes = k->prep_bytes && weight_is_frozen(prog->g, q.node) ? (k->prep_bytes(&q) + 63) / 64 * 64 : 0;
        if (!bytes) continue;
        int c = prog->n_prepared - 1;
        if (c < 0 || prog->prepared_bytes[c] + bytes > prog->dev->max_chunk) {
            if (++c == PLAN_MAX_CHUNKS)
                return error_set(err, "The prepared weights need more than %d buffers.", PLAN_MAX_CHUNKS);
            prog->prepared_bytes[c] = PLAN_ZERO_BYTES, prog->n_prepared = c + 1;
        }
        prog->prep[n] = (struct plan_place){c, prog->prepared_bytes[c]};
        prog->prepared_bytes[c] += bytes;
    }
    for (int c = 0; c < prog->n_prepared; c++) prog->use.prepared += prog->prepared_bytes[c];
    return true;
}

static bool plan_program(struct gpu_program *prog, struct error *err) {
    struct graph *g = prog->g;
    if (!graph_verify(g, err)) return false;
    prog->kernels = arena_alloc(prog->arena, (size_t)(g->n_nodes + 1) * sizeof *prog->kernels);
    prog->prep = arena_alloc(prog->arena, (size_t)(g->n_nodes + 1) * sizeof *prog->prep);
    if (!gpu_kernels_select(prog, err)) return false;
    struct plan_params pp = {.max_chunk_bytes = prog->dev->max_chunk, .scratch = kernel_scratch, .ctx = prog,
                             .no_reuse = prog->params.no_reuse};
    if (!graph_plan(g, &pp, &prog->plan, err) || !plan_prepared(prog, err) || !gpu_stream_plan(prog, err)) return false;
    prog->use.io = prog->plan.io_bytes;
    prog->use.live_peak = prog->plan.peak_live_bytes;
    prog->use.peak_label = g->n_nodes ? g->nodes[prog->plan.peak_node].label : "";
    prog->use.peak_op = g->n_nodes ? op_table[g->nodes[prog->plan.peak_node].op].name : "";
    for (int i = 0; i < prog->plan.n_act_chunks; i++) prog->use.activations += prog->plan.act_bytes[i];
    for (int n = 0; n < g->n_nodes; n++) {
        int64_t s = kernel_scratch(prog, g, n);
        if (s > prog->use.scratch_peak) prog->use.scratch_peak = s;
    }
    return true;
}

/* Whether activation chunk i lies in the memory of the program that shares its own. */
static bool borrows(const struct gpu_program *prog, int i) {
    const struct gpu_program *s = prog->params.share;
    return s && i < s->plan.n_act_chunks && prog->plan.act_bytes[i] <= s->plan.act_bytes[i];
}

static bool memory_fits(struct gpu_program *prog, struct error *err) {
    for (int i = 0; i < prog->plan.n_act_chunks; i++)
        if (borrows(prog, i)) prog->use.activations -= prog->plan.act_bytes[i];
    int64_t need = prog->use.activations + prog->use.io + prog->use.prepared + prog->use.ring;
    int64_t left = prog->dev->memory_total - prog->dev->memory_used;
    if (prog->params.memory_limit && prog->params.memory_limit < left) left = prog->params.memory_limit;
    if (need <= left) return true;
    int peak = prog->plan.peak_node;
    return error_set(err, "%s needs %.0f MiB on %s beside what is loaded, but only %.0f MiB are free; most is live at %s (%s). "
                          "%s", prog->params.name ? prog->params.name : "This program", (double)need / 1048576,
                     prog->dev->properties.deviceName, (double)left / 1048576, prog->g->nodes[peak].label,
                     op_table[prog->g->nodes[peak].op].name,
                     prog->params.memory_hint ? prog->params.memory_hint : "Make the picture or the batch smaller.");
}

static struct gpu_program *program_new(struct gpu_device *dev, struct graph *g, const struct gpu_program_params *p) {
    struct arena *a = arena_create(dev->arena);
    struct gpu_program *prog = arena_alloc(a, sizeof *prog);
    prog->arena = a, prog->dev = dev, prog->g = g, prog->params = *p;
    struct gpu_binding *b = arena_alloc(a, (size_t)(p->n_bindings + 1) * sizeof *b);
    if (p->n_bindings) memcpy(b, p->bindings, (size_t)p->n_bindings * sizeof *b);
    prog->params.bindings = b;
    for (int i = 0; i < p->n_bindings; i++)
        if (b[i].data && gpu_set_is_streamed(b[i].data)) prog->params.no_prepare = true;
    if (prog->params.stop_at_nan || prog->params.check) prog->params.step = true;
    return prog;
}

bool gpu_program_measure(struct gpu_device *dev, struct graph *g, const struct gpu_program_params *p,
                         struct gpu_memory_use *use, struct error *err) {
    struct gpu_program *prog = program_new(dev, g, p);
    bool ok = plan_program(prog, err);
    *use = prog->use;
    struct arena *a = prog->arena;
    arena_destroy(&a);
    return ok;
}

static bool allocate(struct gpu_program *prog, struct error *err) {
    /* Activations start as zeros: padding rows are read (and their results dropped), so they must be finite. */
    for (int i = 0; i < prog->plan.n_act_chunks; i++)
        if (borrows(prog, i)) prog->act[i] = prog->params.share->act[i];
        else if (!gpu_chunk_create(prog->dev, &prog->act[i], prog->plan.act_bytes[i], true, true, "activations", err))
            return false;
    if (!gpu_chunk_create(prog->dev, &prog->io, prog->plan.io_bytes, false, true, "inputs and outputs", err)) return false;
    for (int i = 0; i < prog->n_prepared; i++)
        if (!gpu_chunk_create(prog->dev, &prog->prepared[i], prog->prepared_bytes[i], true, false, "prepared weights", err))
            return false;
    return gpu_stream_allocate(prog, err);
}

struct gpu_program *gpu_program_create(struct gpu_device *dev, struct graph *g, const struct gpu_program_params *p,
                                       struct error *err) {
    struct gpu_program *prog = program_new(dev, g, p);
    if (!plan_program(prog, err) || !memory_fits(prog, err) || !allocate(prog, err) || !gpu_program_record(prog, err))
        gpu_program_destroy(&prog);
    return prog;
}

void gpu_program_destroy(struct gpu_program **p) {
    struct gpu_program *prog = *p;
    if (!prog) return;
    *p = NULL;
    VkDevice d = prog->dev->handle;
    vkDeviceWaitIdle(d);
    if (prog->commands) vkFreeCommandBuffers(d, prog->dev->pool, 1, &prog->commands);
    if (prog->prep_commands) vkFreeCommandBuffers(d, prog->dev->pool, 1, &prog->prep_commands);
    for (int n = 0; prog->step_commands && n < prog->g->n_nodes; n++)
        if (prog->step_commands[n]) vkFreeCommandBuffers(d, prog->dev->pool, 1, &prog->step_commands[n]);
    vkDestroyDescriptorPool(d, prog->pool, NULL);
    vkDestroyQueryPool(d, prog->queries, NULL);
    for (int i = 0; i < PLAN_MAX_CHUNKS; i++)
        if (i >= prog->plan.n_act_chunks || !borrows(prog, i)) gpu_chunk_destroy(prog->dev, &prog->act[i]);
    gpu_chunk_destroy(prog->dev, &prog->io);
    for (int i = 0; i < prog->n_prepared; i++) gpu_chunk_destroy(prog->dev, &prog->prepared[i]);
    gpu_stream_destroy(prog);
    struct arena *a = prog->arena;
    arena_destroy(&a);
}

void gpu_program_write(struct gpu_program *prog, int value, const float *data) {
    const struct value *v = &prog->g->values[value];
    assert(v->cls == VALUE_IO && prog->plan.values[value].chunk >= 0);
    gpu_layout_pack(prog->io.mapped + prog->plan.values[value].offset, v->dtype, v->shape, data);
}

void gpu_program_read(struct gpu_program *prog, int value, float *data) {
    const struct value *v = &prog->g->values[value];
    assert(v->cls == VALUE_IO && prog->plan.values[value].chunk >= 0);
    gpu_layout_unpack(data, v->dtype, v->shape, prog->io.mapped + prog->plan.values[value].offset);
}

bool gpu_program_peek(struct gpu_program *prog, int value, float *data, struct error *err) {
    assert(prog->params.no_reuse);
    return gpu_program_fetch(prog, value, data, err);
}

void gpu_program_invalidate(struct gpu_program *prog) { prog->prepared_ready = false; }

static bool prepare(struct gpu_program *prog, struct error *err) {
    if (prog->prepared_ready) return true;
    if (prog->prep_commands && !gpu_submit(prog->dev, prog->prep_commands, err)) return false;
    prog->prepared_ready = true;
    return true;
}

static bool read_timestamps(struct gpu_program *prog, struct error *err) {
    int n = prog->g->n_nodes;
    uint64_t *t = arena_alloc(prog->arena, (size_t)(n + 1) * sizeof *t);
    if (!gpu_vk_ok(vkGetQueryPoolResults(prog->dev->handle, prog->queries, 0, (uint32_t)n + 1, (size_t)(n + 1) * 8, t, 8,
                                         VK_QUERY_RESULT_64_BIT | VK_QUERY_RESULT_WAIT_BIT), "Reading timestamps", err))
        return false;
    for (int i = 0; i < n; i++)
        prog->seconds[i] = (double)(t[i + 1] - t[i]) * prog->dev->properties.limits.timestampPeriod * 1e-9;
    return true;
}

bool gpu_program_run(struct gpu_program *prog, struct error *err) {
    if (!prepare(prog, err)) return false;
    if (prog->params.step) return gpu_program_run_stepwise(prog, err);
    if (!gpu_submit(prog->dev, prog->commands, err)) return false;
    return !prog->params.profile || read_timestamps(prog, err);
}

struct gpu_memory_use gpu_program_memory(const struct gpu_program *prog) { return prog->use; }
const struct graph *gpu_program_graph(const struct gpu_program *prog) { return prog->g; }

static double node_flops(const struct graph *g, const struct node *node) {
    struct shape x = node->in[0] >= 0 ? g->values[node->in[0]].shape : (struct shape){0};
    struct shape o = node->out[0] >= 0 ? g->values[node->out[0]].shape : (struct shape){0};
    struct shape k = node->n_in > 1 && node->in[1] >= 0 ? g->values[node->in[1]].shape : (struct shape){0};
    switch (node->op) {
    case OP_MATMUL: return 2.0 * (double)shape_rows(x) * x.c * o.c;
    case OP_MATMUL_TN: return 2.0 * (double)shape_rows(x) * x.c * k.c;
    case OP_CONV2D: return 2.0 * k.n * (double)shape_rows(o) * o.c * x.c;
    case OP_CONV2D_DX: return 2.0 * k.n * (double)shape_rows(x) * o.c * x.c;
    case OP_CONV2D_DW: return 2.0 * o.n * (double)shape_rows(x) * x.c * k.c;
    case OP_ATTENTION: return 4.0 * (double)shape_rows(x) * k.h * k.w * x.c;
    case OP_ATTENTION_DX: return 10.0 * (double)shape_rows(x) * k.h * k.w * x.c;
    default: return 0;
    }
}

int gpu_program_timings(const struct gpu_program *prog, struct gpu_timing *out, int max) {
    int n = prog->g->n_nodes < max ? prog->g->n_nodes : max;
    for (int i = 0; i < n && prog->seconds; i++)
        out[i] = (struct gpu_timing){prog->g->nodes[i].label, op_table[prog->g->nodes[i].op].name, prog->kernels[i]->variant,
                                     prog->seconds[i], node_flops(prog->g, &prog->g->nodes[i])};
    return n;
}

double gpu_graph_flops(const struct graph *g) {
    double sum = 0;
    for (int n = 0; n < g->n_nodes; n++) sum += node_flops(g, &g->nodes[n]);
    return sum;
}
