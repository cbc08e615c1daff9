/* Debugging runs: node by node, stopping at the first value that is not finite (--nan) or that differs
 * from the op's double reference (--check). */
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "gpu/gpu_priv.h"

static double *fetch_double(struct gpu_program *prog, int v, struct arena *a, struct error *err) {
    int64_t n = shape_elems(prog->g->values[v].shape);
    float *f = arena_alloc(a, (size_t)n * sizeof *f);
    double *d = arena_alloc(a, (size_t)n * sizeof *d);
    if (!gpu_program_fetch(prog, v, f, err)) return NULL;
    for (int64_t i = 0; i < n; i++) d[i] = f[i];
    return d;
}

static bool finite_results(struct gpu_program *prog, int n, struct arena *a, struct error *err) {
    const struct node *node = &prog->g->nodes[n];
    for (int i = 0; i < node->n_out; i++) {
        if (node->out[i] < 0) continue;
        double *d = fetch_double(prog, node->out[i], a, err);
        if (!d) return false;
        int64_t m = shape_elems(prog->g->values[node->out[i]].shape);
        for (int64_t k = 0; k < m; k++)
            if (!isfinite(d[k]))
                return error_set(err, "Node %d, %s at %s, made %s at element %lld: the first value that is not finite.", n,
                                 op_table[node->op].name, node->label, isnan(d[k]) ? "NaN" : "infinity", (long long)k);
    }
    return true;
}

/* What the reference makes of the inputs as they are on the device now. */
static bool reference_results(struct gpu_program *prog, int n, struct arena *a, double **out, struct error *err) {
    const struct node *node = &prog->g->nodes[n];
    const double *in[GRAPH_MAX_IN] = {0};
    for (int i = 0; i < node->n_in; i++)
        if (node->in[i] >= 0 && !(in[i] = fetch_double(prog, node->in[i], a, err))) return false;
    for (int i = 0; i < node->n_out; i++)
        if (node->out[i] >= 0)
            out[i] = arena_alloc(a, (size_t)shape_elems(prog->g->values[node->out[i]].shape) * sizeof(double));
    op_table[node->op].ref(prog->g, node, in, out);
    return true;
}

static bool compare(struct gpu_program *prog, int n, struct arena *a, double *const *ref, struct error *err) {
    const struct node *node = &prog->g->nodes[n];
    for (int i = 0; i < node->n_out; i++) {
        if (node->out[i] < 0) continue;
        const struct value *v = &prog->g->values[node->out[i]];
        double *got = fetch_double(prog, node->out[i], a, err), range = 0, worst = 0;
        if (!got) return false;
        int64_t m = shape_elems(v->shape);
        for (int64_t k = 0; k < m; k++) {
            double e = fabs(got[k] - ref[i][k]);
            if (fabs(ref[i][k]) > range) range = fabs(ref[i][k]);
            if (!(e <= worst)) worst = e;
        }
        double allowed = (v->dtype == TENSOR_F16 ? 4e-3 : 2e-4) * range + 1e-6;
        log_debug("%4d %-14s %-12s error %.2g of %.2g  %s", n, op_table[node->op].name, prog->kernels[n]->variant, worst, range,
                  node->label);
        if (!(worst <= allowed))
            return error_set(err, "Node %d, %s__%s at %s, differs from its reference by %g where values reach %g.", n,
                             op_table[node->op].name, prog->kernels[n]->variant, node->label, worst, range);
    }
    return true;
}

bool gpu_program_run_stepwise(struct gpu_program *prog, struct error *err) {
    bool ok = true;
    for (int n = 0; ok && n < prog->g->n_nodes; n++) {
        struct arena *a = arena_create(NULL);
        double *ref[GRAPH_MAX_OUT] = {0};
        if (prog->params.check) ok = reference_results(prog, n, a, ref, err); /* before: results may replace inputs */
        ok = ok && gpu_submit(prog->dev, prog->step_commands[n], err);
        if (ok && prog->params.stop_at_nan) ok = finite_results(prog, n, a, err);
        if (ok && prog->params.check) ok = compare(prog, n, a, ref, err);
        arena_destroy(&a);
    }
    return ok;
}

bool gpu_program_trace_nan(struct gpu_program *prog, struct error *err) {
    if (!prog->step_commands && !gpu_program_record_steps(prog, err)) return false;
    bool before = prog->params.stop_at_nan;
    prog->params.stop_at_nan = true;
    bool ok = gpu_program_run_stepwise(prog, err);
    prog->params.stop_at_nan = before;
    return ok;
}
