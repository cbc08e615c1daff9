/* Checkpoint tensors straight to the device's texels, without canonical rows in between: every element is read once and
 * written once, in blocks that stay in the cache, on all cores. */
#include <assert.h>
#include <string.h>

#include "base/half.h"
#include "base/thread.h"
#include "nn/params.h"

/* Rows (outputs) and columns (inputs, times taps) of a block. 16 texels of f32 are four cache lines in a plane. */
enum { ROWS = 16, COLUMNS = 1152 };

struct pack_job {
    const struct st_tensor *t;
    struct shape shape;
    enum tensor_dtype dtype;
    uint8_t *dst;
};

/* Elements [first, first+n) of the file as f32. */
static void load(const struct st_tensor *t, size_t first, size_t n, float *dst) {
    const uint8_t *src = t->data;
    uint16_t bits[COLUMNS];
    if (t->dtype == ST_F32) {
        memcpy(dst, src + first * 4, n * 4);
        return;
    }
    memcpy(bits, src + first * 2, n * 2); /* mapped bytes may stand at any address */
    if (t->dtype == ST_F16) half_to_float_n(dst, bits, n);
    else bf16_to_float_n(dst, bits, n);
}

/* Texels (plane, row) .. (plane, row + n) from n vectors of 4, `step` floats apart. */
static void store(const struct pack_job *job, size_t plane, size_t row, size_t n, const float *v, size_t step) {
    size_t texel = plane * (size_t)shape_stride(job->shape) + row;
    if (job->dtype == TENSOR_F32) {
        float *dst = (float *)job->dst + 4 * texel;
        for (size_t i = 0; i < n; i++) memcpy(dst + 4 * i, v + i * step, 16);
        return;
    }
    float line[4 * ROWS];
    for (size_t i = 0; i < n; i++) memcpy(line + 4 * i, v + i * step, 16);
    half_from_float_n((uint16_t *)job->dst + 4 * texel, line, 4 * n);
}

/* Matrices and 1x1 convolutions: row o of the file is row o of every plane. */
static void pack_rows(const struct pack_job *job, size_t o, size_t n) {
    size_t c = (size_t)job->shape.c;
    float part[ROWS][COLUMNS];
    for (size_t at = 0; at < c; at += COLUMNS) {
        size_t m = c - at < COLUMNS ? c - at : COLUMNS, whole = (m + 3) / 4 * 4;
        for (size_t i = 0; i < n; i++) {
            load(job->t, (o + i) * c + at, m, part[i]);
            for (size_t j = m; j < whole; j++) part[i][j] = 0;
        }
        for (size_t j = 0; j < whole; j += 4) store(job, (at + j) / 4, o, n, &part[0][j], COLUMNS);
    }
}

/* k x k: the file has [O,I,k,k]; row tap*O + o, column i. Four inputs of all taps lie together in the file. */
static void pack_taps(const struct pack_job *job, size_t o, size_t n) {
    size_t ins = (size_t)job->shape.c, outs = (size_t)job->shape.w, taps = (size_t)job->shape.n;
    size_t step = COLUMNS / (4 * taps) * 4; /* inputs at a time */
    float part[ROWS][COLUMNS], texels[ROWS][4];
    for (size_t at = 0; at < ins; at += step) {
        size_t m = ins - at < step ? ins - at : step;
        for (size_t i = 0; i < n; i++) load(job->t, ((o + i) * ins + at) * taps, m * taps, part[i]);
        for (size_t j = 0; j < m; j += 4)
            for (size_t tap = 0; tap < taps; tap++) {
                for (size_t i = 0; i < n; i++)
                    for (size_t k = 0; k < 4; k++) texels[i][k] = j + k < m ? part[i][(j + k) * taps + tap] : 0;
                store(job, (at + j) / 4, tap * outs + o, n, texels[0], 4);
            }
    }
}

static void pack_block(void *ctx, size_t begin, size_t end) {
    const struct pack_job *job = ctx;
    size_t outs = (size_t)job->shape.w;
    for (size_t b = begin; b < end; b++) {
        size_t o = b * ROWS, n = outs - o < ROWS ? outs - o : ROWS;
        if (job->shape.n > 1) pack_taps(job, o, n);
        else pack_rows(job, o, n);
    }
}

/* Rows between the last and the next plane. */
static void clear_padding(const struct pack_job *job) {
    size_t rows = (size_t)shape_rows(job->shape), stride = (size_t)shape_stride(job->shape),
           texel = tensor_texel_bytes(job->dtype);
    for (size_t p = 0; p < (size_t)shape_planes(job->shape) && stride > rows; p++)
        memset(job->dst + (p * stride + rows) * texel, 0, (stride - rows) * texel);
}

bool nn_params_pack_slot(const struct nn_params *p, int slot, void *dst) {
    assert(slot >= 0 && slot < p->set->n_slots && p->tensors && p->tensors[slot]);
    const struct tensor_slot *s = &p->set->slots[slot];
    struct pack_job job = {p->tensors[slot], s->shape, s->dtype, dst};
    enum st_dtype d = job.t->dtype;
    bool plain = (d == ST_F16 || d == ST_BF16 || d == ST_F32) && (s->dtype == TENSOR_F32 || s->dtype == TENSOR_F16);
    if (!plain || s->shape.h != 1 || 4 * s->shape.n > COLUMNS) return false;
    assert(nn_params_fits(job.t, s->shape));
    size_t blocks = ((size_t)s->shape.w + ROWS - 1) / ROWS;
    if (shape_elems(s->shape) < 65536) pack_block(&job, 0, blocks);
    else thread_parallel_for(blocks, pack_block, &job);
    clear_padding(&job);
    return true;
}
