#pragma once
/* Frozen weights in 8 or 4 bits. A block is 64 neighbouring input channels of one row (one output channel of one
 * tap); the last block of a row may be shorter. A block's scale is f32.
 *   int8: round(x * 127/absmax), value = code * absmax/127.
 *   nf4:  nearest of 16 levels times absmax: the quantiles of a normal distribution (QLoRA, Dettmers et al., 2023),
 *         with bitsandbytes' figures. Of widths that divide by 64 it makes bitsandbytes' codes and scales.
 * On the device codes lie in tiles of 4 rows x 4 channels, in the order of the texels they stand for (plane by plane,
 * row by row; int8 16 bytes, nf4 8 bytes a tile), and after them the scales: for 16 planes and 4 rows four f32. */
#include "graph/shape.h"
#include "graph/tensor_dtype.h"

enum { QUANT_BLOCK = 64, QUANT_BLOCK_PLANES = QUANT_BLOCK / 4 };
extern const float quant_nf4_levels[16];

static inline bool quant_is_coded(enum tensor_dtype d) { return d == TENSOR_INT8 || d == TENSOR_NF4; }
/* Whether a weight can lie in tiles: whole rows of 4 per tap and whole planes. */
static inline bool quant_fits(struct shape s) { return s.h == 1 && s.w % 4 == 0 && s.c % 4 == 0; }
/* Tiles from one plane to the next. Even, and no power of two apart. */
static inline int64_t quant_tile_stride(struct shape s) {
    int64_t t = (shape_rows(s) / 4 + 1) / 2 * 2;
    return t % 64 == 0 ? t + 2 : t;
}
static inline int64_t quant_scales_offset(enum tensor_dtype d, struct shape s) { /* bytes */
    return shape_planes(s) * quant_tile_stride(s) * (d == TENSOR_NF4 ? 8 : 16);
}
static inline int64_t quant_bytes(enum tensor_dtype d, struct shape s) {
    int64_t blocks = (shape_planes(s) + QUANT_BLOCK_PLANES - 1) / QUANT_BLOCK_PLANES;
    return quant_scales_offset(d, s) + blocks * quant_tile_stride(s) * 16;
}
/* Canonical [rows][c] to the device's bytes and back. pack uses all cores. */
void quant_pack(void *dst, enum tensor_dtype d, struct shape s, const float *src);
void quant_unpack(float *dst, enum tensor_dtype d, struct shape s, const void *src);
