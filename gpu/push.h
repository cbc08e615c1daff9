#pragma once
/* The C side of the push blocks in shaders/push: the same text, with C's names for the types. */
#include <stdint.h>
#include "gpu/kernel.h"
struct ref { uint32_t lo, hi; };
#define REF struct ref
/* An operand as a shader reads it (cpu class: texel index) or writes it (address). */
static inline struct ref ref_read(const struct emit *e, const struct operand *o) {
    if (e->q.caps->cls == KERNEL_CPU) return (struct ref){(uint32_t)o->texel, 0};
    return (struct ref){(uint32_t)o->address, (uint32_t)(o->address >> 32)};
}
static inline struct ref ref_write(const struct operand *o) {
    return (struct ref){(uint32_t)o->address, (uint32_t)(o->address >> 32)};
}
/* Spec constant 1: bit i where read i, and bit 8+i where result i, is f16 (the light shaders' numbering). */
static inline uint32_t storage_mask(const struct operand *const *reads, int n_reads, const struct operand *const *results,
                                    int n_results) {
    uint32_t mask = 0;
    for (int i = 0; i < n_reads; i++)
        if (reads[i] && reads[i]->dtype == TENSOR_F16) mask |= 1u << i;
    for (int i = 0; i < n_results; i++)
        if (results[i] && results[i]->dtype == TENSOR_F16) mask |= 1u << (8 + i);
    return mask;
}
