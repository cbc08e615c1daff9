#pragma once
/* The C side of shaders/push/*.h: the same text, with C's names for the types. */
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
