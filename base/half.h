/* IEEE binary16 and bfloat16 as bits in uint16_t. Narrowing rounds to nearest even; nan stays a quiet nan;
 * binary16 overflows to infinity. All functions are pure. The _n forms may not overlap. */
#ifndef ATELIER_BASE_HALF_H
#define ATELIER_BASE_HALF_H

#include <stddef.h>
#include <stdint.h>

float half_to_float(uint16_t h);
uint16_t half_from_float(float f);
float bf16_to_float(uint16_t b);
uint16_t bf16_from_float(float f);

void half_to_float_n(float *dst, const uint16_t *src, size_t n);
void half_from_float_n(uint16_t *dst, const float *src, size_t n);
void bf16_to_float_n(float *dst, const uint16_t *src, size_t n);
void bf16_from_float_n(uint16_t *dst, const float *src, size_t n);

#endif
