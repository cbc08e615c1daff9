#include "lora/delta.h"

#include "base/arena.h"
#include "base/thread.h"
#include "lora/dense.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct st_tensor *slot_tensor(const struct lora_module *m, int slot) {
    return slot ? m->tensors[slot] : NULL;
}

static const struct st_tensor *bias_of(const struct lora_module *m) {
    const struct st_tensor *plain = slot_tensor(m, m->kind->bias);
    return plain ? plain : slot_tensor(m, m->kind->scaled_bias);
}

/* Slot of the layer's weight or bias in the model, -1 without. */
static int base_slot(const struct lora_module *m, const struct nn_params *base, const char *what) {
    char name[320];
    snprintf(name, sizeof name, "%s.%s", m->target->path, what);
    return base ? nn_params_find(base, name) : -1;
}

bool lora_module_has_bias(const struct lora_module *m, const struct nn_params *base) {
    return bias_of(m) || (m->kind->delta_bias && base_slot(m, base, "bias") >= 0);
}

bool lora_module_has_weight(const struct lora_module *m) {
    for (int i = 0; i < m->kind->n_slots; i++)
        if (m->tensors[i] && (i == 0 || (i != m->kind->bias && i != m->kind->scaled_bias))) return true;
    return false;
}

int64_t lora_module_numbers(const struct lora_module *m, const struct nn_params *base) {
    struct shape w = m->target->weight;
    int64_t bias = lora_module_has_bias(m, base) ? (m->target->is_norm ? w.c : 4 * (int64_t)w.w) : 0;
    if (!lora_module_has_weight(m)) return bias;
    return bias + (lora_module_is_low_rank(m) ? (int64_t)m->rank * ((int64_t)w.n * w.c + w.w) : shape_elems(w));
}

static const struct st_tensor *magnitude_of(const struct lora_module *m, bool *rows) {
    const struct st_tensor *t = slot_tensor(m, m->kind->row_magnitude);
    *rows = t != NULL;
    return t ? t : slot_tensor(m, m->kind->magnitude);
}

bool lora_module_is_low_rank(const struct lora_module *m) {
    bool rows;
    return m->kind->factors && lora_module_has_weight(m) && !magnitude_of(m, &rows);
}

/* Whether the magnitudes are those of rows. LyCORIS: [out,1..] or [1,in..]. PEFT: [out], for convolutions [1,out,1,1]. */
static bool magnitude_rows(const struct lora_module *m, bool *rows) {
    const struct st_tensor *t = magnitude_of(m, rows);
    size_t n = st_tensor_elements(t), out = (size_t)m->target->weight.w, in = (size_t)m->target->weight.c;
    if (*rows) return n == out;
    *rows = t->rank >= 1 && (size_t)t->dims[0] == out && n == out;
    return *rows || (t->rank >= 2 && t->dims[0] == 1 && (size_t)t->dims[1] == in && n == in);
}

bool lora_module_fit(struct lora_module *m, struct error *e) {
    char text[ST_SHAPE_TEXT_BYTES];
    bool rows;
    const struct st_tensor *bias = bias_of(m), *magnitude = magnitude_of(m, &rows);
    if (m->target && !m->kind->for_all && m->target->is_norm != m->kind->for_norms)
        return error_set(e, "belongs on a %s, but the model has a %s there", m->kind->for_norms ? "norm" : "layer",
                         m->target->is_norm ? "norm" : "layer");
    if (lora_module_has_weight(m) && !m->kind->fit(m, e)) return false;
    if (!m->target) return true;
    int out = m->target->is_norm ? m->target->weight.c : m->target->weight.w;
    if (bias && st_tensor_elements(bias) != (size_t)out)
        return error_set(e, "has a bias difference %s for a layer with %d outputs", st_tensor_shape_text(bias, text), out);
    if (magnitude && !magnitude_rows(m, &rows))
        return error_set(e, "has a magnitude %s for a layer of %d to %d channels", st_tensor_shape_text(magnitude, text),
                         m->target->weight.c, m->target->weight.w);
    return true;
}

/* ---- DoRA ---- */

struct lengths {
    struct shape shape;
    const float *base, *dw;
    double *sum;
    bool rows;
};

/* Squared lengths of rows or columns [begin, end) over all taps. */
static void add_squares(void *ctx, size_t begin, size_t end) {
    const struct lengths *l = ctx;
    size_t out = (size_t)l->shape.w, in = (size_t)l->shape.c;
    for (size_t tap = 0; tap < (size_t)l->shape.n; tap++)
        for (size_t o = l->rows ? begin : 0; o < (l->rows ? end : out); o++) {
            const float *w = l->base + (tap * out + o) * in, *dw = l->dw + (tap * out + o) * in;
            for (size_t i = l->rows ? 0 : begin; i < (l->rows ? in : end); i++)
                l->sum[l->rows ? o : i] += ((double)w[i] + dw[i]) * ((double)w[i] + dw[i]);
        }
}

/* dw becomes V * magnitude/|V| - W with V = W + dw, one length per row or per column. The small number beside the
 * length is LyCORIS'. (Liu et al., DoRA: Weight-Decomposed Low-Rank Adaptation, 2024) */
static bool decompose(const struct lora_module *m, const float *base, float *dw, struct arena *scratch, struct error *e) {
    bool rows;
    const struct st_tensor *t = magnitude_of(m, &rows);
    magnitude_rows(m, &rows);
    struct shape s = m->target->weight;
    size_t out = (size_t)s.w, in = (size_t)s.c, n = rows ? out : in, total = (size_t)shape_elems(s);
    float *magnitude = arena_alloc_n(scratch, n, sizeof *magnitude);
    if (!st_read_f32(t, magnitude, n, e)) return false;
    struct lengths l = {s, base, dw, arena_alloc_n(scratch, n, sizeof(double)), rows};
    thread_parallel_for(n, add_squares, &l);
    for (size_t i = 0; i < n; i++) l.sum[i] = magnitude[i] / (sqrt(l.sum[i]) + FLT_EPSILON);
    for (size_t r = 0; r < total / in; r++)
        for (size_t i = 0; i < in; i++) {
            double factor = l.sum[rows ? r % out : i];
            dw[r * in + i] = (float)(dw[r * in + i] * factor + base[r * in + i] * (factor - 1));
        }
    return true;
}

/* ---- All kinds ---- */

/* dw[tap] = scale * up * down[tap]. */
static bool multiply_out(const struct lora_module *m, float *dw, struct arena *scratch, struct error *e) {
    struct shape s = m->target->weight;
    size_t rank = (size_t)m->rank, out = (size_t)s.w, in = (size_t)s.c;
    float *down = arena_alloc_n(scratch, (size_t)s.n * rank * in, sizeof *down);
    float *up = arena_alloc_n(scratch, out * rank, sizeof *up);
    if (!m->kind->factors(m, down, up, e)) return false;
    for (size_t i = 0; i < out * rank; i++) up[i] *= m->scale;
    for (size_t tap = 0; tap < (size_t)s.n; tap++)
        lora_dense_product(dw + tap * out * in, up, down + tap * rank * in, out, rank, in);
    return true;
}

static float *read_base(const struct lora_module *m, const struct nn_params *base, struct arena *scratch, struct error *e) {
    int slot = base_slot(m, base, "weight");
    if (slot < 0) return error_set(e, "cannot be computed without the model's %s.weight", m->target->path), NULL;
    float *rows = arena_alloc_n(scratch, (size_t)shape_elems(m->target->weight), sizeof *rows);
    nn_params_read_slot(base, slot, rows);
    return rows;
}

static bool read_weight(const struct lora_module *m, const struct nn_params *params, float *dw, struct arena *scratch,
                        struct error *e) {
    bool rows, dora = magnitude_of(m, &rows) != NULL;
    float *base = NULL;
    if ((dora || m->kind->needs_base) && !(base = read_base(m, params, scratch, e))) return false;
    bool ok = m->kind->delta ? m->kind->delta(m, base, dw, e) : multiply_out(m, dw, scratch, e);
    return ok && (!dora || decompose(m, base, dw, scratch, e));
}

static bool read_bias(const struct lora_module *m, const struct nn_params *base, float *db, struct arena *scratch,
                      struct error *e) {
    const struct st_tensor *bias = bias_of(m);
    size_t out = bias ? st_tensor_elements(bias) : 0;
    float scale = bias && bias == slot_tensor(m, m->kind->scaled_bias) ? m->scale : 1;
    if (bias && !st_read_f32(bias, db, out, e)) return false;
    for (size_t o = 0; scale != 1 && o < out; o++) db[o] *= scale;
    if (bias) return true;
    int slot = base_slot(m, base, "bias");
    float *values = arena_alloc_n(scratch, (size_t)m->target->weight.w, sizeof *values);
    nn_params_read_slot(base, slot, values);
    return m->kind->delta_bias(m, values, db, e);
}

bool lora_module_delta(const struct lora_module *m, const struct nn_params *base, float *dw, float *db, struct error *e) {
    assert(m->status == LORA_MATCHED && (!dw || lora_module_has_weight(m)) && (!db || lora_module_has_bias(m, base)));
    struct arena *scratch = arena_create(NULL);
    bool ok = (!dw || read_weight(m, base, dw, scratch, e)) && (!db || read_bias(m, base, db, scratch, e));
    arena_destroy(&scratch);
    return ok || error_prefix(e, "%s", m->name);
}
