#include "graph/quant.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/thread.h"

const float quant_nf4_levels[16] = {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
                                    -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
                                    0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
                                    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

/* How many of the 15 middles between levels lie below x. */
static unsigned nf4_code(float x) {
    unsigned code = 0;
    for (unsigned step = 8; step; step >>= 1) {
        unsigned at = code + step;
        if (at < 16 && x > 0.5f * (quant_nf4_levels[at - 1] + quant_nf4_levels[at])) code = at;
    }
    return code;
}

static unsigned code_of(enum tensor_dtype d, float x, float inverse) {
    if (d == TENSOR_NF4) return nf4_code(x * inverse);
    float q = rintf(x * inverse * 127);
    return (unsigned)(int)(q > 127 ? 127 : q < -127 ? -127 : q) & 0xff;
}

static float value_of(enum tensor_dtype d, unsigned code, float scale) {
    return scale * (d == TENSOR_NF4 ? quant_nf4_levels[code] : (float)(int8_t)code);
}

/* Byte of a value's code in its tile array; for nf4 the low half holds the even channel. */
static int64_t code_at(enum tensor_dtype d, int64_t stride, int64_t row, int plane, int channel) {
    int64_t tile = plane * stride + row / 4;
    return d == TENSOR_NF4 ? tile * 8 + row % 4 * 2 + channel / 2 : tile * 16 + row % 4 * 4 + channel;
}

struct job {
    enum tensor_dtype d;
    struct shape s;
    const float *src;
    uint8_t *codes;
    float *scales;
};

static void pack_block(const struct job *j, int64_t row, int block) {
    int64_t stride = quant_tile_stride(j->s);
    int first = block * QUANT_BLOCK, n = j->s.c - first < QUANT_BLOCK ? j->s.c - first : QUANT_BLOCK;
    const float *x = j->src + row * j->s.c + first;
    float most = 0;
    for (int i = 0; i < n; i++) most = fmaxf(most, fabsf(x[i]));
    float inverse = most > 0 ? 1 / most : 0;
    j->scales[(block * stride + row / 4) * 4 + row % 4] = j->d == TENSOR_NF4 ? most : most / 127;
    for (int i = 0; i < n; i++) {
        uint8_t *to = j->codes + code_at(j->d, stride, row, (first + i) / 4, i % 4);
        unsigned code = code_of(j->d, x[i], inverse);
        if (j->d == TENSOR_INT8) *to = (uint8_t)code;
        else *to = (uint8_t)(i % 2 ? (*to & 0x0f) | code << 4 : code);
    }
}

/* A unit is four rows: whole tiles, so that no two threads share a byte. */
static void pack_rows(void *ctx, size_t begin, size_t end) {
    const struct job *j = ctx;
    for (size_t r = begin * 4; r < end * 4; r++)
        for (int block = 0; block * QUANT_BLOCK < j->s.c; block++) pack_block(j, (int64_t)r, block);
}

void quant_pack(void *dst, enum tensor_dtype d, struct shape s, const float *src) {
    assert(quant_is_coded(d) && quant_fits(s));
    memset(dst, 0, (size_t)quant_bytes(d, s)); /* what lies between planes is read, and its product dropped */
    struct job j = {d, s, src, dst, (float *)((uint8_t *)dst + quant_scales_offset(d, s))};
    thread_parallel_for((size_t)shape_rows(s) / 4, pack_rows, &j);
}

void quant_unpack(float *dst, enum tensor_dtype d, struct shape s, const void *src) {
    assert(quant_is_coded(d) && quant_fits(s));
    const uint8_t *codes = src;
    const float *scales = (const float *)(codes + quant_scales_offset(d, s));
    int64_t stride = quant_tile_stride(s);
    for (int64_t row = 0; row < shape_rows(s); row++)
        for (int i = 0; i < s.c; i++) {
            unsigned code = codes[code_at(d, stride, row, i / 4, i % 4)];
            if (d == TENSOR_NF4) code = i % 2 ? code >> 4 : code & 15;
            dst[row * s.c + i] = value_of(d, code, scales[(i / QUANT_BLOCK * stride + row / 4) * 4 + row % 4]);
        }
}
