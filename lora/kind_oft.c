/* Rotations of a layer's rows, as kohya's OFT and LyCORIS' diag-OFT and BOFT store them under one name.
 *
 * blocks [n, b, b], out = n*b: Q = B - B', scaled down so that its norm over all blocks is at most alpha * out (where
 * alpha is positive: it is a constraint here); R = (I + Q)(I - Q)^-1; new row (k, p) = sum over q of R[k, q, p] * row (k, q).
 * blocks [m, n, b, b]: m stages of a butterfly. At stage i rows are seen as (.., 2, h), h = 2^i * b/2, the last two are
 * swapped, blocks of b turn by R[i, j] and not its transpose, and the swap is undone.
 * rescale [out, 1..] then multiplies rows. (Qiu et al., OFT, 2023; Liu et al., BOFT, 2024) */
#include "lora/file.h"
#include "lora/rotation.h"

#include "base/arena.h"
#include "lora/dense.h"

#include <math.h>

enum { BLOCKS, RESCALE, BIAS };

struct form {
    size_t stages, n, b;
    bool butterfly;
};

static bool measure(const struct st_tensor *t, struct form *f) {
    if (t->rank < 3 || t->rank > 4 || !st_tensor_elements(t)) return false;
    const int64_t *d = t->dims + (t->rank - 3);
    *f = (struct form){t->rank == 4 ? (size_t)t->dims[0] : 1, (size_t)d[0], (size_t)d[1], t->rank == 4};
    return d[1] == d[2] && f->stages < 32;
}

/* Every stage must find whole groups: two halves of h rows each. */
static bool fits_layer(const struct form *f, size_t out) {
    if (f->n * f->b != out) return false;
    if (!f->butterfly) return true;
    return f->b % 2 == 0 && out % (f->b << (f->stages - 1)) == 0;
}

static bool fit(struct lora_module *m, struct error *e) {
    struct form f;
    char a[ST_SHAPE_TEXT_BYTES], b[ST_SHAPE_TEXT_BYTES];
    const struct st_tensor *rescale = m->tensors[RESCALE];
    if (!measure(m->tensors[BLOCKS], &f))
        return error_set(e, "has blocks %s; they must be square", st_tensor_shape_text(m->tensors[BLOCKS], a));
    if (!m->target) return true;
    if (!fits_layer(&f, (size_t)m->target->weight.w))
        return error_set(e, "has blocks %s for a layer with %d outputs", st_tensor_shape_text(m->tensors[BLOCKS], a),
                         m->target->weight.w);
    if (rescale && st_tensor_elements(rescale) != (size_t)m->target->weight.w)
        return error_set(e, "has a rescale %s for blocks %s", st_tensor_shape_text(rescale, a),
                         st_tensor_shape_text(m->tensors[BLOCKS], b));
    return true;
}

/* Q of all blocks, within the constraint. */
static double *skew(const struct lora_module *m, const struct form *f, struct arena *scratch, struct error *e) {
    size_t b = f->b, count = f->stages * f->n;
    float *raw = lora_dense_read(m->tensors[BLOCKS], scratch, e);
    if (!raw) return NULL;
    double *q = arena_alloc_n(scratch, count * b * b, sizeof *q), sum = 0, factor = 1;
    for (size_t k = 0; k < count; k++)
        for (size_t i = 0; i < b * b; i++) {
            double v = (double)raw[k * b * b + i] - raw[k * b * b + i % b * b + i / b];
            q[k * b * b + i] = v;
            sum += v * v;
        }
    double limit = m->has_alpha ? (double)m->alpha * m->target->weight.w : 0, norm = sqrt(sum) + 1e-8;
    if (limit > 0 && norm > limit) factor = limit / norm;
    for (size_t i = 0; i < count * b * b; i++) q[i] *= factor;
    return q;
}

/* Place in the grouping -> row: (c, k, 2) read as (c, 2, k). */
static void butterfly_rows(size_t *row_of, size_t out, size_t half) {
    for (size_t i = 0; i < out; i++) {
        size_t group = i / (2 * half), within = i % (2 * half);
        row_of[i] = group * 2 * half + within % 2 * half + within / 2;
    }
}

static bool delta(const struct lora_module *m, const float *base, float *dw, struct error *e) {
    struct form f;
    struct shape w = m->target->weight;
    if (!measure(m->tensors[BLOCKS], &f)) return error_set(e, "has blocks that are not square");
    struct arena *scratch = arena_create(NULL);
    size_t per = f.b * f.b, out = (size_t)w.w, in = (size_t)w.c, rows = (size_t)shape_rows(w);
    double *q = skew(m, &f, scratch, e), *r = arena_alloc_n(scratch, f.n * per, sizeof *r);
    size_t *row_of = arena_alloc_n(scratch, out, sizeof *row_of);
    for (size_t i = 0; i < rows * in; i++) dw[i] = 0;
    for (size_t stage = 0; q && stage < f.stages; stage++) {
        /* Turned by the transpose: the rotation of -Q. */
        for (size_t k = 0; k < f.n; k++) lora_rotation_cayley(r + k * per, q + (stage * f.n + k) * per, f.b, !f.butterfly);
        if (f.butterfly) butterfly_rows(row_of, out, (f.b / 2) << stage);
        struct lora_rotation rotation = {r, f.n, f.b, f.butterfly ? row_of : NULL};
        lora_rotation_apply(&rotation, w, base, dw);
    }
    const struct st_tensor *rescale = m->tensors[RESCALE];
    float *factor = rescale && q ? lora_dense_read(rescale, scratch, e) : NULL;
    for (size_t i = 0; factor && i < rows * in; i++) {
        double s = factor[i / in % out];
        dw[i] = (float)(s * dw[i] + (s - 1) * base[i]);
    }
    bool ok = q && (!rescale || factor);
    arena_destroy(&scratch);
    return ok;
}

const struct lora_kind lora_kind_oft = {.name = "oft",
                                        .title = "OFT",
                                        .slots = {"blocks", "rescale", "bias"},
                                        .n_slots = 3,
                                        .n_required = 1,
                                        .bias = BIAS,
                                        .needs_base = true,
                                        .fit = fit,
                                        .delta = delta};
