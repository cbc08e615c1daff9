/* PEFT's OFT and BOFT, which turn a layer's inputs: the columns of the weight matrix [out, in*k*k].
 *
 * oft: r [n, b(b-1)/2], the upper triangles of skew blocks (one block for all where n is 1): every row of the matrix,
 * cut into pieces of b, becomes R times it. R is a start of (I + Q)(I - Q)^-1's series, five terms unless PEFT's
 * settings say otherwise; with use_cayley_neumann off it is (I - Q)(I + Q)^-1, of the other sign.
 * boft: r [m, n, b, b], Q = (B - B')/2, R = (I - Q)(I + Q)^-1, one stage after the other, stage i on columns brought
 * together from distances of b/2 within 2^i * b; then s [out] multiplies rows. Its biases stay.
 * For convolutions this is the weight that PEFT merges; its unmerged forward folds overlapping patches. */
#include "lora/file.h"
#include "lora/rotation.h"

#include "base/arena.h"
#include "lora/dense.h"

enum { R, S };

/* The matrix turned on its side: rows [in*k*k] of `out` numbers, taps fastest as in files. */
static void to_side(float *side, const float *rows, struct shape w) {
    size_t out = (size_t)w.w, in = (size_t)w.c, taps = (size_t)w.n;
    for (size_t t = 0; t < taps; t++)
        for (size_t o = 0; o < out; o++)
            for (size_t i = 0; i < in; i++) side[(i * taps + t) * out + o] = rows[(t * out + o) * in + i];
}

static void from_side(float *rows, const float *side, struct shape w) {
    size_t out = (size_t)w.w, in = (size_t)w.c, taps = (size_t)w.n;
    for (size_t t = 0; t < taps; t++)
        for (size_t o = 0; o < out; o++)
            for (size_t i = 0; i < in; i++) rows[(t * out + o) * in + i] = side[(i * taps + t) * out + o];
}

static struct shape side_shape(struct shape w) { return (struct shape){1, 1, w.n * w.c, w.w}; }

static bool wrong_blocks(const struct lora_module *m, struct error *e) {
    char text[ST_SHAPE_TEXT_BYTES];
    const struct nn_target *t = m->target;
    if (!t) return error_set(e, "has blocks %s", st_tensor_shape_text(m->tensors[R], text));
    return error_set(e, "has blocks %s for a layer with %d inputs", st_tensor_shape_text(m->tensors[R], text),
                     t->weight.c * t->weight.n);
}

/* b from b(b-1)/2; 0 where there is none. */
static size_t block_of(const struct st_tensor *t) {
    if (t->rank != 2 || !st_tensor_elements(t) || t->dims[1] > 1 << 24) return 0;
    size_t b = 2;
    while (b * (b - 1) / 2 < (size_t)t->dims[1]) b++;
    return b * (b - 1) / 2 == (size_t)t->dims[1] ? b : 0;
}

static bool fit_oft(struct lora_module *m, struct error *e) {
    size_t b = block_of(m->tensors[R]), n = b ? (size_t)m->tensors[R]->dims[0] : 0;
    size_t inputs = m->target ? (size_t)(m->target->weight.c * m->target->weight.n) : n * b;
    return (b && (n * b == inputs || (n == 1 && inputs % b == 0))) || wrong_blocks(m, e);
}

static bool delta_oft(const struct lora_module *m, const float *base, float *dw, struct error *e) {
    struct arena *scratch = arena_create(NULL);
    struct shape w = m->target->weight, side = side_shape(w);
    size_t b = block_of(m->tensors[R]), stored = (size_t)m->tensors[R]->dims[0], n = (size_t)side.w / b,
           total = (size_t)shape_elems(w);
    float *triangle = lora_dense_read(m->tensors[R], scratch, e);
    double *q = arena_alloc_n(scratch, b * b, sizeof *q), *r = arena_alloc_n(scratch, n * b * b, sizeof *r);
    float *turned = arena_alloc_n(scratch, total, sizeof *turned), *change = arena_alloc_n(scratch, total, sizeof *change);
    for (size_t k = 0; triangle && k < n; k++) {
        const float *v = triangle + (stored == 1 ? 0 : k) * (b * (b - 1) / 2);
        for (size_t i = 0; i < b; i++)
            for (size_t j = i + 1; j < b; j++, v++) q[i * b + j] = *v, q[j * b + i] = -(double)*v;
        if (m->neumann_terms) lora_rotation_series(r + k * b * b, q, b, m->neumann_terms);
        else lora_rotation_cayley(r + k * b * b, q, b, true);
    }
    if (triangle) {
        to_side(turned, base, w);
        lora_rotation_apply(&(struct lora_rotation){r, n, b, NULL}, side, turned, change);
        from_side(dw, change, w);
    }
    arena_destroy(&scratch);
    return triangle != NULL;
}

static bool fit_boft(struct lora_module *m, struct error *e) {
    const struct st_tensor *t = m->tensors[R], *s = m->tensors[S];
    char text[ST_SHAPE_TEXT_BYTES];
    bool square = t->rank == 4 && st_tensor_elements(t) && t->dims[2] == t->dims[3] && t->dims[0] < 32;
    if (!square) return wrong_blocks(m, e);
    if (!m->target) return true;
    size_t inputs = (size_t)(m->target->weight.c * m->target->weight.n), b = (size_t)t->dims[2], stages = (size_t)t->dims[0];
    if ((size_t)t->dims[1] * b != inputs || (stages > 1 && (b % 2 || inputs % (b << (stages - 1))))) return wrong_blocks(m, e);
    return st_tensor_elements(s) == (size_t)m->target->weight.w ||
           error_set(e, "has a scale %s for a layer with %d outputs", st_tensor_shape_text(s, text), m->target->weight.w);
}

/* PEFT's block_butterfly_perm: within 2^stage * b columns, the even pieces of b/2 first, then the odd ones. Its matrix P
 * has a one at (i, p(i)), and a stage is P D P': the value at column i sits at place p(i) of the blocks. */
static void butterfly_rows(size_t *row_of, size_t n, size_t b, size_t stage) {
    size_t span = b << stage, half = b / 2, pieces = span / (half ? half : 1);
    for (size_t i = 0; i < n; i++) {
        if (stage == 0) {
            row_of[i] = i;
            continue;
        }
        size_t piece = i % span / half, evens = pieces / 2;
        size_t from = piece < evens ? 2 * piece : 2 * (piece - evens) + 1;
        row_of[i / span * span + from * half + i % half] = i;
    }
}

static bool delta_boft(const struct lora_module *m, const float *base, float *dw, struct error *e) {
    const struct st_tensor *t = m->tensors[R];
    struct arena *scratch = arena_create(NULL);
    struct shape w = m->target->weight, side = side_shape(w);
    size_t n = (size_t)t->dims[1], b = (size_t)t->dims[2], per = b * b, total = (size_t)shape_elems(w), out = (size_t)w.w;
    float *raw = lora_dense_read(t, scratch, e), *scale = raw ? lora_dense_read(m->tensors[S], scratch, e) : NULL;
    double *q = arena_alloc_n(scratch, per, sizeof *q), *r = arena_alloc_n(scratch, n * per, sizeof *r);
    size_t *row_of = arena_alloc_n(scratch, (size_t)side.w, sizeof *row_of);
    float *turned = arena_alloc_n(scratch, total, sizeof *turned), *change = arena_alloc_n(scratch, total, sizeof *change);
    if (scale) to_side(turned, base, w);
    for (size_t stage = 0; scale && stage < (size_t)t->dims[0]; stage++) {
        for (size_t k = 0; k < n; k++) {
            const float *block = raw + (stage * n + k) * per;
            for (size_t i = 0; i < per; i++) q[i] = 0.5 * ((double)block[i] - block[i % b * b + i / b]);
            lora_rotation_cayley(r + k * per, q, b, true);
        }
        butterfly_rows(row_of, (size_t)side.w, b, stage);
        lora_rotation_apply(&(struct lora_rotation){r, n, b, row_of}, side, turned, change);
    }
    if (scale) from_side(dw, change, w);
    for (size_t i = 0; scale && i < total; i++) {
        double s = scale[i / (size_t)w.c % out];
        dw[i] = (float)(s * dw[i] + (s - 1) * base[i]);
    }
    arena_destroy(&scratch);
    return scale != NULL;
}

const struct lora_kind lora_kind_oft_peft = {.name = "oft_peft",
                                             .title = "OFT of PEFT",
                                             .slots = {"r"},
                                             .n_slots = 1,
                                             .n_required = 1,
                                             .needs_base = true,
                                             .fit = fit_oft,
                                             .delta = delta_oft};

const struct lora_kind lora_kind_boft_peft = {.name = "boft_peft",
                                              .title = "BOFT of PEFT",
                                              .slots = {"r", "s"},
                                              .n_slots = 2,
                                              .n_required = 2,
                                              .needs_base = true,
                                              .fit = fit_boft,
                                              .delta = delta_boft};
