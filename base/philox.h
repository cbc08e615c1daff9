/* Philox4x32-10 as CUDA's generator uses it: the noise that A1111 calls GPU and NV. Stateless. */
#ifndef ATELIER_BASE_PHILOX_H
#define ATELIER_BASE_PHILOX_H

#include <stddef.h>
#include <stdint.h>

/* Standard normal values of the call-th draw (from 0) of a generator with this seed. The same numbers as torch's on
 * a CUDA device as long as the count is below that device's launch grid (100,000 and more on cards of today). */
void philox_randn(uint64_t seed, uint32_t call, float *dst, size_t n);

#endif
