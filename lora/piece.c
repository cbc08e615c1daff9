/* Kernels in the forms that LoHa, LoKr and GLoRA give them. */
#include "lora/dense.h"

#include "base/arena.h"

enum { MAX_RANK = 1 << 16 };

/* Elements behind the first dimension; 0 for scalars and empty tensors. */
static size_t behind_first(const struct st_tensor *t) {
    return t->rank < 1 || t->dims[0] < 1 ? 0 : st_tensor_elements(t) / (size_t)t->dims[0];
}

static bool measure_whole(const struct st_tensor *t, struct lora_piece_size *out) {
    if (t->rank < 2 || t->rank > 4 || !st_tensor_elements(t)) return false;
    out->rows = (size_t)t->dims[0], out->columns = (size_t)t->dims[1];
    return st_tensor_elements(t) == out->rows * out->columns * out->taps;
}

static bool measure_core(const struct lora_piece *p, struct lora_piece_size *out) {
    const struct st_tensor *t = p->t;
    if (t->rank != 4 || !st_tensor_elements(t) || (size_t)(t->dims[2] * t->dims[3]) != out->taps) return false;
    out->rows = behind_first(p->a), out->columns = behind_first(p->b), out->rank = (size_t)t->dims[1];
    return out->rows && out->columns && p->a->dims[0] == t->dims[0] && p->b->dims[0] == t->dims[1] &&
           t->dims[0] <= MAX_RANK && t->dims[1] <= MAX_RANK;
}

bool lora_piece_measure(const struct lora_piece *p, size_t taps, struct lora_piece_size *out) {
    *out = (struct lora_piece_size){.taps = taps ? taps : 1};
    const struct st_tensor *kernel = p->t ? p->t : p->whole;
    if (!taps && kernel && kernel->rank == 4 && st_tensor_elements(kernel))
        out->taps = (size_t)(kernel->dims[2] * kernel->dims[3]);
    if (p->whole) return !p->a && !p->b && !p->t && measure_whole(p->whole, out);
    if (!p->a || !p->b) return false;
    if (p->t) return measure_core(p, out);
    size_t inner = behind_first(p->a), columns = behind_first(p->b);
    if (!inner || !columns || inner > MAX_RANK || (size_t)p->b->dims[0] != inner || columns % out->taps) return false;
    out->rank = inner, out->rows = (size_t)p->a->dims[0], out->columns = columns / out->taps;
    return true;
}

/* dst[tap] = a' * t[tap] * b. */
static bool build_core(const struct lora_piece *p, const struct lora_piece_size *s, float *dst, struct arena *scratch,
                       struct error *e) {
    size_t left = (size_t)p->t->dims[0], right = (size_t)p->t->dims[1];
    float *a = lora_dense_read(p->a, scratch, e), *b = a ? lora_dense_read(p->b, scratch, e) : NULL;
    float *raw = b ? lora_dense_read(p->t, scratch, e) : NULL;
    if (!raw) return false;
    float *rows = arena_alloc_n(scratch, s->rows * left, sizeof *rows);
    float *core = arena_alloc_n(scratch, left * right * s->taps, sizeof *core);
    float *half = arena_alloc_n(scratch, left * s->columns, sizeof *half);
    lora_dense_transpose(rows, a, left, s->rows);
    lora_dense_taps_first(core, raw, left, right, s->taps);
    for (size_t tap = 0; tap < s->taps; tap++) {
        lora_dense_product(half, core + tap * left * right, b, left, right, s->columns);
        lora_dense_product(dst + tap * s->rows * s->columns, rows, half, s->rows, left, s->columns);
    }
    return true;
}

static bool build_product(const struct lora_piece *p, const struct lora_piece_size *s, float *dst, struct arena *scratch,
                          struct error *e) {
    float *a = lora_dense_read(p->a, scratch, e), *b = a ? lora_dense_read(p->b, scratch, e) : NULL;
    if (!b) return false;
    float *taps = b; /* [tap][r][columns]: then the product needs no turning */
    if (s->taps > 1) {
        taps = arena_alloc_n(scratch, s->rank * s->columns * s->taps, sizeof *taps);
        lora_dense_taps_first(taps, b, s->rank, s->columns, s->taps);
    }
    for (size_t tap = 0; tap < s->taps; tap++)
        lora_dense_product(dst + tap * s->rows * s->columns, a, taps + tap * s->rank * s->columns, s->rows, s->rank,
                           s->columns);
    return true;
}

bool lora_piece_build(const struct lora_piece *p, const struct lora_piece_size *s, float *dst, struct error *e) {
    struct arena *scratch = arena_create(NULL);
    float *raw = NULL;
    bool ok;
    if (p->whole) {
        ok = (raw = lora_dense_read(p->whole, scratch, e)) != NULL;
        if (ok) lora_dense_taps_first(dst, raw, s->rows, s->columns, s->taps);
    } else {
        ok = p->t ? build_core(p, s, dst, scratch, e) : build_product(p, s, dst, scratch, e);
    }
    arena_destroy(&scratch);
    return ok;
}
