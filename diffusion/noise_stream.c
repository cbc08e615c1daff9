#include "diffusion/noise_stream.h"

#include "base/philox.h"

#include <string.h>

void noise_stream_seed(struct noise_stream *n, enum noise_source source, uint64_t seed) {
    n->source = source;
    n->seed = seed;
    n->calls = 0;
    rng_seed(&n->torch, seed);
}

void noise_stream_draw(struct noise_stream *n, float *dst, size_t count) {
    switch (n->source) {
    case NOISE_TORCH: rng_randn(&n->torch, dst, count); break;
    case NOISE_TORCH_F16: rng_randn_f16(&n->torch, dst, count); break;
    case NOISE_TORCH1_F16: rng_randn_f16_torch1(&n->torch, dst, count); break;
    case NOISE_PHILOX: philox_randn(n->seed, n->calls, dst, count); break;
    }
    n->calls++;
}

bool noise_source_parse(const char *name, enum noise_source *out, struct error *e) {
    static const char *const names[] = {"torch", "torch-f16", "torch1-f16", "philox"};
    for (int i = 0; i < 4; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (enum noise_source)i;
            return true;
        }
    return error_set(e, "noise '%.60s' is not known; it can be torch, torch-f16, torch1-f16 or philox", name);
}
