#include "tests/support/cm.h"
#include "tests/support/evaluate.h"

#include <math.h>

#include "tests/support/golden.h"

static void read_params(const void *ctx, int slot, float *dst) {
    nn_params_read_slot(ctx, slot, dst);
}

struct eval_set eval_params(const struct nn_params *p) {
    return (struct eval_set){p->set, read_params, p};
}

double **eval_begin(const struct graph *g, struct arena *a, const struct eval_set *sets, int n_sets) {
    double **data = arena_alloc_n(a, (size_t)g->n_values, sizeof *data);
    for (int v = 0; v < g->n_values; v++) {
        const struct value *value = &g->values[v];
        if (value->cls != VALUE_SET || value->view_of >= 0 || value->bank != SET_DATA) continue;
        for (int s = 0; s < n_sets; s++) {
            if (sets[s].set != value->set) continue;
            size_t n = (size_t)shape_elems(value->shape);
            float *tmp = arena_alloc_n(a, n, sizeof *tmp);
            data[v] = arena_alloc_n(a, n, sizeof **data);
            sets[s].read(sets[s].ctx, value->slot, tmp);
            for (size_t i = 0; i < n; i++) data[v][i] = tmp[i];
        }
        assert_non_null(data[v]);
    }
    return data;
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
