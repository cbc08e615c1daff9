/* GLoRA without its bias and prompt terms, as LyCORIS has it: dW = alpha/r * (W * a1 * a2 + b1 * b2), the b part perhaps
 * with a Tucker core. Files of LyCORIS before 1.9 have the four the other way round, a2 [in,r] a1 [r,in] b2 [out,r]
 * b1 [r,in]. The scale enters once, as in LyCORIS' bypass mode and ComfyUI; LyCORIS 4.1's merged mode applies it twice,
 * which differs where alpha is not the rank. (Chavan et al., One-for-All: Generalized LoRA, 2023) */
#include "lora/dense.h"
#include "lora/file.h"

#include "base/arena.h"

enum { A1, A2, B1, B2, BM, BIAS, MAGNITUDE };

/* Left and right factors of both terms. */
struct factors {
    const struct st_tensor *a_left, *a_right;
    struct lora_piece b;
    struct lora_piece_size size;
    size_t in, rank;
};

static bool is_matrix(const struct st_tensor *t, size_t rows, size_t columns) {
    return t->rank >= 2 && (size_t)t->dims[0] == rows && (size_t)t->dims[1] == columns &&
           st_tensor_elements(t) == rows * columns;
}

static bool measure_as(const struct lora_module *m, bool old, struct factors *f) {
    const struct st_tensor *const *t = m->tensors;
    *f = (struct factors){.a_left = t[old ? A2 : A1], .a_right = t[old ? A1 : A2],
                          .b = {.a = t[old ? B2 : B1], .b = t[old ? B1 : B2]}};
    if (f->a_left->rank < 2 || (old && t[BM])) return false;
    f->in = (size_t)f->a_left->dims[0], f->rank = (size_t)f->a_left->dims[1];
    if (!f->rank || !is_matrix(f->a_left, f->in, f->rank) || !is_matrix(f->a_right, f->rank, f->in)) return false;
    if (t[BM]) return true; /* measured when it is built */
    size_t taps = m->target ? (size_t)m->target->weight.n : 0;
    return lora_piece_measure(&f->b, taps, &f->size) && f->size.rank == f->rank;
}

/* What tells old from new is which dimension the four share; where all are square, new is meant. */
static bool measure(const struct lora_module *m, struct factors *f) {
    bool fits = measure_as(m, false, f) && (!m->target || f->in == (size_t)m->target->weight.c);
    return fits || (measure_as(m, true, f) && (!m->target || f->in == (size_t)m->target->weight.c));
}

static bool fit(struct lora_module *m, struct error *e) {
    struct factors f;
    char a[ST_SHAPE_TEXT_BYTES], b[ST_SHAPE_TEXT_BYTES];
    const struct st_tensor *const *t = m->tensors;
    if (!measure(m, &f))
        return error_set(e, "has factors %s and %s that do not belong together or to the layer",
                         st_tensor_shape_text(t[A1], a), st_tensor_shape_text(t[B1], b));
    m->rank = (int)f.rank;
    if (!m->target) return true;
    struct shape w = m->target->weight;
    if (t[BM])
        return (t[BM]->rank == 4 && st_tensor_elements(t[BM]) && (size_t)t[BM]->dims[0] == f.rank &&
                (size_t)t[BM]->dims[1] == f.rank && t[BM]->dims[2] * t[BM]->dims[3] == w.n &&
                is_matrix(t[B1], (size_t)w.w, f.rank) && is_matrix(t[B2], f.rank, (size_t)w.c)) ||
               error_set(e, "has a core %s that does not fit the layer", st_tensor_shape_text(t[BM], a));
    if (f.size.rows == (size_t)w.w && f.size.columns == (size_t)w.c) return true;
    return error_set(e, "is made for a layer of %zu to %zu channels; the model's has %d to %d", f.size.columns, f.size.rows,
                     w.c, w.w);
}

/* b1 * bm[tap] * b2, none transposed here. */
static bool build_core(const struct lora_module *m, size_t rank, float *dw, struct arena *scratch, struct error *e) {
    struct shape w = m->target->weight;
    float *left = lora_dense_read(m->tensors[B1], scratch, e),
          *right = left ? lora_dense_read(m->tensors[B2], scratch, e) : NULL;
    size_t taps = (size_t)w.n, out = (size_t)w.w, in = (size_t)w.c;
    float *core = arena_alloc_n(scratch, rank * rank * taps, sizeof *core),
          *half = arena_alloc_n(scratch, rank * in, sizeof *half);
    if (!right || !lora_dense_read_rows(m->tensors[BM], (struct shape){w.n, 1, (int)rank, (int)rank}, core, e)) return false;
    for (size_t tap = 0; tap < taps; tap++) {
        lora_dense_product(half, core + tap * rank * rank, right, rank, rank, in);
        lora_dense_product(dw + tap * out * in, left, half, out, rank, in);
    }
    return true;
}

static bool delta(const struct lora_module *m, const float *base, float *dw, struct error *e) {
    struct factors f;
    if (!measure(m, &f)) return error_set(e, "has factors that do not belong together");
    struct arena *scratch = arena_create(NULL);
    struct shape w = m->target->weight;
    size_t rows = (size_t)shape_rows(w), in = (size_t)w.c, n = rows * in;
    float *left = lora_dense_read(f.a_left, scratch, e), *right = left ? lora_dense_read(f.a_right, scratch, e) : NULL;
    float *wa = arena_alloc_n(scratch, rows * f.rank, sizeof *wa), *term = arena_alloc_n(scratch, n, sizeof *term);
    bool ok = right && (m->tensors[BM] ? build_core(m, f.rank, dw, scratch, e) : lora_piece_build(&f.b, &f.size, dw, e));
    if (ok) {
        lora_dense_product(wa, base, left, rows, in, f.rank);
        lora_dense_product(term, wa, right, rows, f.rank, in);
        for (size_t i = 0; i < n; i++) dw[i] = (dw[i] + term[i]) * m->scale;
    }
    arena_destroy(&scratch);
    return ok;
}

const struct lora_kind lora_kind_glora = {
    .name = "glora",
    .title = "GLoRA",
    .slots = {"a1", "a2", "b1", "b2", "bm", "bias", "magnitude"},
    .n_slots = 7,
    .n_required = 4,
    .bias = BIAS,
    .magnitude = MAGNITUDE,
    .needs_base = true,
    .fit = fit,
    .delta = delta};
