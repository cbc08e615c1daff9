/* Checkpoint tensors to canonical f32 rows, on all cores, straight from the mapped file. */
#include "nn/params.h"

#include <assert.h>
#include <string.h>

#include "base/half.h"
#include "base/thread.h"

/* Elements converted at a time: small enough for the stack, a multiple of 3x3 and of 8. */
enum { CHUNK = 2304 };

/* Elements [first, first+n), n <= CHUNK. The mapped bytes may stand at any address, hence the copies. */
static void read_elements(const struct st_tensor *t, size_t first, size_t n, float *dst) {
    const uint8_t *src = t->data;
    if (t->dtype == ST_F32) {
        memcpy(dst, src + first * 4, n * 4);
        return;
    }
    if (t->dtype != ST_F16 && t->dtype != ST_BF16) { /* rare: F64, F8 */
        struct st_tensor part = {.name = t->name, .dtype = t->dtype, .rank = 1, .dims = {(int64_t)n},
                                 .data = src + first * ((size_t)st_dtype_bits(t->dtype) / 8)};
        struct error impossible;
        bool ok = st_read_f32(&part, dst, n, &impossible);
        assert(ok && "nn_dtype_is_weight let something through");
        return;
    }
    uint16_t bits[CHUNK];
    memcpy(bits, src + first * 2, n * 2);
    if (t->dtype == ST_F16)
        half_to_float_n(dst, bits, n);
    else
        bf16_to_float_n(dst, bits, n);
}

struct read_job {
    const struct st_tensor *t;
    struct shape shape;
    float *dst;
};

/* Vectors, matrices and 1x1 convolutions: file order is canonical order. */
static void read_rows(void *ctx, size_t begin, size_t end) {
    const struct read_job *job = ctx;
    size_t c = (size_t)job->shape.c;
    for (size_t at = begin * c; at < end * c; at += CHUNK) {
        size_t n = end * c - at < CHUNK ? end * c - at : CHUNK;
        read_elements(job->t, at, n, job->dst + at);
    }
}

/* k x k convolutions, outputs [begin, end): [O,I,k,k] -> row tap*O + o, column i. */
static void read_conv(void *ctx, size_t begin, size_t end) {
    const struct read_job *job = ctx;
    size_t taps = (size_t)job->shape.n, outs = (size_t)job->shape.w, ins = (size_t)job->shape.c;
    size_t step = CHUNK / taps;
    float part[CHUNK];
    for (size_t o = begin; o < end; o++)
        for (size_t i = 0; i < ins; i += step) {
            size_t n = ins - i < step ? ins - i : step;
            read_elements(job->t, (o * ins + i) * taps, n * taps, part);
            for (size_t tap = 0; tap < taps; tap++) {
                float *row = job->dst + (tap * outs + o) * ins + i;
                for (size_t j = 0; j < n; j++) row[j] = part[j * taps + tap];
            }
        }
}

void nn_params_read_tensor(const struct st_tensor *t, struct shape shape, float *dst) {
    assert(nn_params_fits(t, shape) && shape.n <= CHUNK);
    struct read_job job = {t, shape, dst};
    thread_parallel_for((size_t)shape.w, shape.n > 1 ? read_conv : read_rows, &job);
}

void nn_params_read_slot(const struct nn_params *p, int slot, float *dst) {
    assert(slot >= 0 && slot < p->set->n_slots && p->tensors && p->tensors[slot]);
    nn_params_read_tensor(p->tensors[slot], p->set->slots[slot].shape, dst);
}
