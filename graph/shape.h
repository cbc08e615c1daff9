#pragma once
/* Static shapes and the one device layout.
 *
 * A tensor is n images of h*w pixels with c channels. Its ROWS are n*h*w (row-major over n, h, w).
 * On the device it lies in 4-channel planes: texel (plane, row) at plane*shape_plane(s) + row, where a
 * texel is channels 4*plane .. 4*plane+3. Channels past c in the last plane, and rows past the last row
 * of a plane that a kernel reads as input, hold zeros or finite garbage that no result depends on;
 * CHANNEL padding is always zero.
 * Conventions: tokens [B,T,C] = {B,1,T,C}; linear weight [out,in] = {1,1,out,in};
 * convolution weight [O,I,kh,kw] = {kh*kw,1,O,I} (row = tap*O + o); vectors = {1,1,1,c}.
 * The host's canonical order is row-major [rows][c]. */
#include <stdbool.h>
#include <stdint.h>

struct shape {
    int32_t n, h, w, c;
};

/* Rows a GEMM tile writes at once: planes are padded to it so that no tile crosses into the next. */
#define SHAPE_ROW_TILE 32

static inline int64_t shape_rows(struct shape s) { return (int64_t)s.n * s.h * s.w; }
static inline int64_t shape_elems(struct shape s) { return shape_rows(s) * s.c; }
static inline int32_t shape_planes(struct shape s) { return (s.c + 3) / 4; }
/* Texels from one plane to the next. Powers of two are avoided: they alias in the caches. */
static inline int64_t shape_plane(struct shape s) {
    int64_t p = (shape_rows(s) + SHAPE_ROW_TILE - 1) / SHAPE_ROW_TILE * SHAPE_ROW_TILE;
    return shape_planes(s) > 1 && p % 128 == 0 ? p + 20 : p;
}
/* Single-row tensors (biases, per-channel vectors) are dense: plane stride 1. */
static inline int64_t shape_stride(struct shape s) { return shape_rows(s) == 1 ? 1 : shape_plane(s); }
static inline int64_t shape_texels(struct shape s) { return shape_planes(s) * shape_stride(s); }
static inline bool shape_equal(struct shape a, struct shape b) {
    return a.n == b.n && a.h == b.h && a.w == b.w && a.c == b.c;
}
