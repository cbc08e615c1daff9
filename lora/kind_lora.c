/* LoRA and LoCon: W' = W + strength * alpha/rank * up * down. A Tucker core ("mid") between 1x1 factors is folded into
 * down, which then has the kernel's size. */
#include "lora/file.h"

#include "base/arena.h"
#include "lora/dense.h"

#include <string.h>

enum { DOWN, UP, MID, BIAS, UP_BIAS, MAGNITUDE = UP_BIAS, ROW_MAGNITUDE }; /* PEFT has no DoRA with biases */
enum { MAX_RANK = 1 << 16 };

/* Edge of a square kernel; 1 for matrices; 0 where the tensor is neither. */
static int64_t kernel_of(const struct st_tensor *t) {
    if (t->rank == 2) return 1;
    return t->rank == 4 && t->dims[2] == t->dims[3] ? t->dims[2] : 0;
}

static bool fit_target(const struct lora_module *m, int64_t kernel, struct error *e) {
    const struct st_tensor *down = m->tensors[DOWN], *up = m->tensors[UP];
    struct shape w = m->target->weight;
    int64_t k = m->target->conv.k;
    if (down->dims[1] == w.c && up->dims[0] == w.w && kernel == k) return true;
    return error_set(e, "is made for a layer of %lld to %lld channels and kernel %lld; the model's has %d to %d and %lld",
                     (long long)down->dims[1], (long long)up->dims[0], (long long)kernel, w.c, w.w, (long long)k);
}

static bool fit(struct lora_module *m, struct error *e) {
    const struct st_tensor *down = m->tensors[DOWN], *up = m->tensors[UP], *mid = m->tensors[MID];
    char a[ST_SHAPE_TEXT_BYTES], b[ST_SHAPE_TEXT_BYTES];
    int64_t kernel = kernel_of(down), rank = down->rank ? down->dims[0] : 0;
    bool fits = kernel > 0 && kernel_of(up) == 1 && up->dims[1] == rank && rank > 0 && rank <= MAX_RANK;
    if (!fits)
        return error_set(e, "has factors %s and %s that do not belong together", st_tensor_shape_text(down, a),
                         st_tensor_shape_text(up, b));
    if (mid) {
        int64_t core = kernel_of(mid);
        if (kernel != 1 || core < 1 || mid->rank != 4 || mid->dims[0] != rank || mid->dims[1] != rank)
            return error_set(e, "has a core %s that does not fit its factor %s", st_tensor_shape_text(mid, a),
                             st_tensor_shape_text(down, b));
        kernel = core;
    }
    m->rank = (int)rank;
    return !m->target || fit_target(m, kernel, e);
}

/* down'[p, i, tap] = sum over q of mid[p, q, tap] * down[q, i]. */
static bool fold_core(const struct lora_module *m, float *dst, struct arena *scratch, struct error *e) {
    size_t rank = (size_t)m->rank, in = (size_t)m->tensors[DOWN]->dims[1];
    size_t taps = (size_t)(m->tensors[MID]->dims[2] * m->tensors[MID]->dims[3]);
    float *down = arena_alloc_n(scratch, rank * in, sizeof *down);
    float *mid = arena_alloc_n(scratch, rank * rank * taps, sizeof *mid);
    if (!st_read_f32(m->tensors[DOWN], down, rank * in, e) || !st_read_f32(m->tensors[MID], mid, rank * rank * taps, e))
        return false;
    memset(dst, 0, taps * rank * in * sizeof *dst);
    for (size_t t = 0; t < taps; t++)
        for (size_t p = 0; p < rank; p++)
            for (size_t q = 0; q < rank; q++) {
                float weight = mid[(p * rank + q) * taps + t], *row = dst + (t * rank + p) * in;
                for (size_t i = 0; i < in; i++) row[i] += weight * down[q * in + i];
            }
    return true;
}

static bool factors(const struct lora_module *m, float *down, float *up, struct error *e) {
    const struct st_tensor *d = m->tensors[DOWN];
    if (!st_read_f32(m->tensors[UP], up, st_tensor_elements(m->tensors[UP]), e)) return false;
    struct arena *scratch = arena_create(NULL);
    size_t n = st_tensor_elements(d);
    bool ok;
    if (m->tensors[MID]) {
        ok = fold_core(m, down, scratch, e);
    } else {
        float *raw = arena_alloc_n(scratch, n, sizeof *raw);
        ok = st_read_f32(d, raw, n, e);
        size_t rows = (size_t)d->dims[0], inner = (size_t)d->dims[1];
        if (ok && n) lora_dense_taps_first(down, raw, rows, inner, n / rows / inner);
    }
    arena_destroy(&scratch);
    return ok;
}

const struct lora_kind lora_kind_lora = {.name = "lora",
                                         .title = "LoRA",
                                         .slots = {"down", "up", "mid", "bias", "up_bias"},
                                         .n_slots = 5,
                                         .n_required = 2,
                                         .bias = BIAS,
                                         .scaled_bias = UP_BIAS,
                                         .fit = fit,
                                         .factors = factors};

/* The same factors, then lengths for the rows or columns of the sum (lora/delta.c). */
const struct lora_kind lora_kind_dora = {.name = "dora",
                                         .title = "DoRA",
                                         .slots = {"down", "up", "mid", "bias", "magnitude", "row_magnitude"},
                                         .n_slots = 6,
                                         .n_required = 2,
                                         .bias = BIAS,
                                         .magnitude = MAGNITUDE,
                                         .row_magnitude = ROW_MAGNITUDE,
                                         .fit = fit,
                                         .factors = factors};
