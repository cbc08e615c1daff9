#pragma once
/* A picture in overlapping tiles, joined by linear blends: diffusers' rule for large pictures (AutoencoderKL with
 * enable_tiling). Tiles begin every 3/4 of their size; the last ones are smaller. Host arithmetic only. */
#include <stdbool.h>
#include "base/arena.h"
#include "base/error.h"

struct tile_params {
    int h, w, in_channels;    /* what is cut */
    int tile;                 /* largest tile of it, a multiple of 4 (times `down` if that is > 1) */
    int out_channels;
    int up, down;             /* a result has `up` pixels, or 1/`down` of a pixel, for each pixel cut */
};
/* Makes one tile: in [h][w][in_channels] -> out [h*up/down][w*up/down][out_channels]. */
typedef bool tile_fn(void *ctx, int h, int w, const float *in, float *out, struct error *err);
/* Tiles of one size are asked for one after the other, the full ones first. Memory of the tiles comes from `a`. */
bool tile_run(const struct tile_params *p, struct arena *a, const float *in, float *out, tile_fn *make, void *ctx,
              struct error *err);
