#include "tests/support/cm.h"
#include "tests/support/evaluate.h"

#include <math.h>

#include "gpu/program.h"
#include "tests/support/golden.h"

static void read_params(const void *ctx, int slot, float *dst) {
    nn_params_read_slot(ctx, slot, dst);
}

struct eval_set eval_params(const struct nn_params *p) {
    return (struct eval_set){p->set, read_params, p};
}

static float *read_slot(const struct eval_set *set, int slot, struct arena *a) {
    float *rows = arena_alloc_n(a, (size_t)shape_elems(set->set->slots[slot].shape), sizeof *rows);
    set->read(set->ctx, slot, rows);
    return rows;
}

static double *widen(const float *src, int64_t n, struct arena *a) {
    double *out = arena_alloc_n(a, (size_t)n, sizeof *out);
    for (int64_t i = 0; i < n; i++) out[i] = src[i];
    return out;
}

static void run_reference(struct graph *g, double **data, const struct eval_set *sets, int n_sets,
                          struct arena *a) {
    for (int v = 0; v < g->n_values; v++) {
        const struct value *value = &g->values[v];
        if (value->cls != VALUE_SET || value->view_of >= 0 || value->bank != SET_DATA) continue;
        for (int s = 0; s < n_sets; s++)
            if (sets[s].set == value->set)
                data[v] = widen(read_slot(&sets[s], value->slot, a), shape_elems(value->shape), a);
        assert_non_null(data[v]);
    }
    graph_eval_ref(g, data, a);
}

struct device_sets {
    struct gpu_binding bindings[8];
    int n;
};

static struct gpu_set *add_bank(struct gpu_device *dev, struct device_sets *d, const struct tensor_set *set,
                                enum set_bank bank) {
    struct error e = {0};
    struct gpu_set *s = gpu_set_create(dev, set, bank, &e);
    if (!s) fail_msg("%s", e.text);
    d->bindings[d->n++] = (struct gpu_binding){set, bank, s};
    return s;
}

static void upload(struct gpu_device *dev, struct device_sets *d, const struct eval_set *sets, int n_sets,
                   struct arena *a) {
    struct error e = {0};
    for (int s = 0; s < n_sets; s++) {
        if (sets[s].set->n_slots == 0) continue;
        struct gpu_set *data = add_bank(dev, d, sets[s].set, SET_DATA);
        for (int slot = 0; slot < sets[s].set->n_slots; slot++)
            if (!gpu_set_write(data, slot, read_slot(&sets[s], slot, a), &e)) fail_msg("%s", e.text);
        if (sets[s].set->trainable) add_bank(dev, d, sets[s].set, SET_GRAD);
    }
}

static void read_back(struct gpu_program *prog, const struct graph *g, double **data,
                      const struct device_sets *d, struct arena *a) {
    struct error e = {0};
    for (int v = 0; v < g->n_values; v++) {
        const struct value *value = &g->values[v];
        bool output = value->cls == VALUE_IO && value->view_of < 0 && value->producer >= 0;
        bool gradient = value->cls == VALUE_SET && value->bank == SET_GRAD && value->producer >= 0;
        if (!output && !gradient) continue;
        int64_t n = shape_elems(value->shape);
        float *rows = arena_alloc_n(a, (size_t)n, sizeof *rows);
        if (output) gpu_program_read(prog, v, rows);
        for (int s = 0; gradient && s < d->n; s++)
            if (d->bindings[s].set == value->set && d->bindings[s].bank == SET_GRAD &&
                !gpu_set_read(d->bindings[s].data, value->slot, rows, &e))
                fail_msg("%s", e.text);
        data[v] = widen(rows, n, a);
    }
}

static void run_device(struct gpu_device *dev, struct graph *g, double **data, const struct eval_set *sets,
                       int n_sets, struct arena *a) {
    struct error e = {0};
    struct device_sets d = {.n = 0};
    upload(dev, &d, sets, n_sets, a);
    struct gpu_program_params params = {.name = "a test", .bindings = d.bindings, .n_bindings = d.n};
    struct gpu_program *prog = gpu_program_create(dev, g, &params, &e);
    if (!prog) fail_msg("%s", e.text);
    for (int v = 0; v < g->n_values; v++) {
        const struct value *value = &g->values[v];
        if (value->cls != VALUE_IO || value->view_of >= 0 || value->producer >= 0 || !data[v]) continue;
        int64_t n = shape_elems(value->shape);
        float *rows = arena_alloc_n(a, (size_t)n, sizeof *rows);
        for (int64_t i = 0; i < n; i++) rows[i] = (float)data[v][i];
        gpu_program_write(prog, v, rows);
    }
    if (!gpu_program_run(prog, &e)) fail_msg("%s", e.text);
    read_back(prog, g, data, &d, a);
    gpu_program_destroy(&prog);
    for (int s = 0; s < d.n; s++) gpu_set_destroy(&d.bindings[s].data);
    assert_int_equal(gpu_device_messages(dev), 0);
}

void eval_run(struct gpu_device *dev, struct graph *g, double **data, const struct eval_set *sets, int n_sets,
              struct arena *a) {
    if (dev) {
        graph_prune(g);
        run_device(dev, g, data, sets, n_sets, a);
    } else {
        run_reference(g, data, sets, n_sets, a);
    }
}

double *eval_golden(const struct st_file *f, const char *name, struct arena *a, struct shape *shape) {
    const float *rows = golden_rows(f, name, a, shape);
    size_t n = (size_t)shape_elems(*shape);
    double *out = arena_alloc_n(a, n, sizeof *out);
    for (size_t i = 0; i < n; i++) out[i] = rows[i];
    return out;
}

double eval_worst(const double *got, const double *want, int64_t n) {
    double low = want[0], high = want[0], worst = 0;
    for (int64_t i = 0; i < n; i++) {
        low = fmin(low, want[i]), high = fmax(high, want[i]);
        double d = fabs(got[i] - want[i]);
        if (!(d <= worst)) worst = d; /* nan counts */
    }
    return worst / fmax(high - low, 1e-30);
}

const char *eval_data_path(struct arena *a, const char *name) {
    return golden_path(a, name);
}
