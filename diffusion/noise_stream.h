/* Where a sampler's noise comes from. The same seed gives a peer's noise if kind and shape are the peer's. */
#ifndef ATELIER_DIFFUSION_NOISE_STREAM_H
#define ATELIER_DIFFUSION_NOISE_STREAM_H

#include "base/error.h"
#include "base/rng.h"

enum noise_source {
    NOISE_TORCH,      /* torch's CPU generator in single precision: diffusers, ComfyUI, A1111's CPU */
    NOISE_TORCH_F16,  /* the same in half precision: diffusers' half precision pipelines with a CPU generator */
    NOISE_TORCH1_F16, /* likewise under torch 1 */
    NOISE_PHILOX,     /* CUDA's generator: A1111's GPU and NV */
};

/* One stream; plain data, one owner. */
struct noise_stream {
    enum noise_source source;
    struct rng torch;
    uint64_t seed;
    uint32_t calls; /* draws so far; counts for philox */
};

void noise_stream_seed(struct noise_stream *n, enum noise_source source, uint64_t seed);

/* Standard normal values. Draw a tensor in one call, in torch's order of its elements. */
void noise_stream_draw(struct noise_stream *n, float *dst, size_t count);

/* Names "torch", "torch-f16", "torch1-f16", "philox". */
bool noise_source_parse(const char *name, enum noise_source *out, struct error *e);

#endif
