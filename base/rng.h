// torch's CPU random generator, bit for bit: the same seed gives the same noise, so the same picture.
// The struct is plain data: copy it, or write its bytes to a checkpoint, to save and restore the stream.
// Not thread safe; one owner per generator.
#ifndef ATELIER_BASE_RNG_H
#define ATELIER_BASE_RNG_H

#include <stdint.h>
#include <stddef.h>

struct rng {
    uint32_t state[624];   // Mersenne twister words
    uint32_t next;         // index of the next word; 624 = twist first
    uint32_t has_cached;   // 1 when `cached` holds the second value of a small randn
    double cached;
};

// Only the lower 32 bits of the seed matter (as in torch). Clears the cached normal.
void rng_seed(struct rng *r, uint64_t seed);

// One 32-bit word of the stream.
uint32_t rng_word(struct rng *r);

// n uniform values in [0, 1) on a grid of 2^-24. torch.rand.
void rng_rand(struct rng *r, float *dst, size_t n);

// n standard normal values. Like torch.randn, counts below 16 and from 16 up take different paths, so one
// call for 32 values is not two calls for 16: draw a tensor in one call, in the order of its elements.
void rng_randn(struct rng *r, float *dst, size_t n);

// torch.randn(dtype=float16) on the CPU, as floats. Torch 2.13's are rounded single precision values, with another
// way of filling a count that is no multiple of 16; torch 1.13's come from coarser uniforms and are other values.
void rng_randn_f16(struct rng *r, float *dst, size_t n);
void rng_randn_f16_torch1(struct rng *r, float *dst, size_t n);

// One value of torch.randint(0, n). n > 0.
uint32_t rng_randint(struct rng *r, uint32_t n);

// A permutation of 0..n-1. torch.randperm. n < 2^31 / 10 (beyond that torch draws 64-bit words).
void rng_randperm(struct rng *r, uint32_t *dst, size_t n);

#endif
