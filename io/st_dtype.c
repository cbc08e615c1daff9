#include "io/safetensors.h"
#include "base/half.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "safetensors bytes are used as they lie");

static const struct {
    const char *name;
    int bits;
} table[ST_DTYPE_COUNT] = {
    [ST_BOOL] = {"BOOL", 8},
    [ST_F4] = {"F4", 4},
    [ST_F6_E2M3] = {"F6_E2M3", 6},
    [ST_F6_E3M2] = {"F6_E3M2", 6},
    [ST_U8] = {"U8", 8},
    [ST_I8] = {"I8", 8},
    [ST_F8_E5M2] = {"F8_E5M2", 8},
    [ST_F8_E4M3] = {"F8_E4M3", 8},
    [ST_F8_E8M0] = {"F8_E8M0", 8},
    [ST_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", 8},
    [ST_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", 8},
    [ST_I16] = {"I16", 16},
    [ST_U16] = {"U16", 16},
    [ST_F16] = {"F16", 16},
    [ST_BF16] = {"BF16", 16},
    [ST_I32] = {"I32", 32},
    [ST_U32] = {"U32", 32},
    [ST_F32] = {"F32", 32},
    [ST_C64] = {"C64", 64},
    [ST_F64] = {"F64", 64},
    [ST_I64] = {"I64", 64},
    [ST_U64] = {"U64", 64},
};

const char *st_dtype_name(enum st_dtype d) { return table[d].name; }

int st_dtype_bits(enum st_dtype d) { return table[d].bits; }

bool st_dtype_parse(const char *name, enum st_dtype *out) {
    for (int i = 0; i < ST_DTYPE_COUNT; i++)
        if (strcmp(table[i].name, name) == 0) {
            *out = (enum st_dtype)i;
            return true;
        }
    return false;
}

size_t st_tensor_elements(const struct st_tensor *t) {
    size_t n = 1;
    for (int i = 0; i < t->rank; i++) n *= (size_t)t->dims[i]; /* checked when the tensor was made */
    return n;
}

bool st_tensor_has_shape(const struct st_tensor *t, int rank, const int64_t *dims) {
    return t->rank == rank && (rank == 0 || memcmp(t->dims, dims, (size_t)rank * sizeof *dims) == 0);
}

char *st_tensor_shape_text(const struct st_tensor *t, char dst[ST_SHAPE_TEXT_BYTES]) {
    size_t at = 0;
    dst[at++] = '[';
    for (int i = 0; i < t->rank; i++)
        at += (size_t)snprintf(dst + at, ST_SHAPE_TEXT_BYTES - at, "%s%lld", i ? ", " : "", (long long)t->dims[i]);
    snprintf(dst + at, ST_SHAPE_TEXT_BYTES - at, "]");
    return dst;
}

/* ---- To f32 ---- */

/* Small floats with an IEEE-like layout; specials are decided by the caller. */
static float small_float(unsigned b, int mantissa_bits, int bias) {
    int exp_bits = 7 - mantissa_bits;
    unsigned man = b & ((1u << mantissa_bits) - 1), exp = (b >> mantissa_bits) & ((1u << exp_bits) - 1);
    float f = exp ? ldexpf((float)(man | 1u << mantissa_bits), (int)exp - bias - mantissa_bits)
                  : ldexpf((float)man, 1 - bias - mantissa_bits);
    return b & 0x80 ? -f : f;
}

static float byte_to_float(enum st_dtype d, uint8_t b) {
    switch (d) {
    case ST_F8_E4M3: return (b & 0x7F) == 0x7F ? NAN : small_float(b, 3, 7);
    case ST_F8_E5M2: return half_to_float((uint16_t)(b << 8));
    case ST_F8_E8M0: return b == 0xFF ? NAN : ldexpf(1, b - 127);
    case ST_F8_E4M3FNUZ: return b == 0x80 ? NAN : small_float(b, 3, 8);
    case ST_F8_E5M2FNUZ: return b == 0x80 ? NAN : small_float(b, 2, 16);
    case ST_I8: return (float)(int8_t)b;
    default: return (float)b;
    }
}

#define CONVERT(type, n, src, dst)                                                                           \
    for (size_t i = 0; i < (n); i++) {                                                                       \
        type v;                                                                                              \
        memcpy(&v, (src) + i * sizeof v, sizeof v);                                                          \
        (dst)[i] = (float)v;                                                                                 \
    }

/* 16-bit floats go through an aligned buffer, since file data may stand at odd addresses. */
static void halves(const uint8_t *src, float *dst, size_t n, void (*convert)(float *, const uint16_t *, size_t)) {
    uint16_t block[2048];
    for (size_t at = 0; at < n; at += 2048) {
        size_t m = n - at < 2048 ? n - at : 2048;
        memcpy(block, src + at * 2, m * 2);
        convert(dst + at, block, m);
    }
}

bool st_read_f32(const struct st_tensor *t, float *dst, size_t n, struct error *e) {
    const uint8_t *src = t->data;
    if (n != st_tensor_elements(t)) {
        char shape[ST_SHAPE_TEXT_BYTES];
        return error_set(e, "tensor '%s' has shape %s, %zu values were expected", t->name,
                         st_tensor_shape_text(t, shape), n);
    }
    if (n == 0) return true;
    switch (t->dtype) {
    case ST_F32: memcpy(dst, src, n * 4); return true;
    case ST_F16: halves(src, dst, n, half_to_float_n); return true;
    case ST_BF16: halves(src, dst, n, bf16_to_float_n); return true;
    case ST_F64: CONVERT(double, n, src, dst) return true;
    case ST_I64: CONVERT(int64_t, n, src, dst) return true;
    case ST_U64: CONVERT(uint64_t, n, src, dst) return true;
    case ST_I32: CONVERT(int32_t, n, src, dst) return true;
    case ST_U32: CONVERT(uint32_t, n, src, dst) return true;
    case ST_I16: CONVERT(int16_t, n, src, dst) return true;
    case ST_U16: CONVERT(uint16_t, n, src, dst) return true;
    default: break;
    }
    if (st_dtype_bits(t->dtype) != 8)
        return error_set(e, "tensor '%s' is stored as %s, which cannot be read as numbers here", t->name,
                         st_dtype_name(t->dtype));
    float lut[256];
    for (int b = 0; b < 256; b++) lut[b] = byte_to_float(t->dtype, (uint8_t)b);
    for (size_t i = 0; i < n; i++) dst[i] = lut[src[i]];
    return true;
}
