#include "gpu/kernel.h"

#include "gpu/kernels_priv.h"

const struct kernel kernel_table[] = {
#define KERNEL(op, variant, cls, fits, scratch, prep, emit_prep, emit) \
    {OP_##op, variant, cls, fits, scratch, prep, emit_prep, emit},
#include "gpu/kernels.def"
#undef KERNEL
};
const int kernel_count = sizeof kernel_table / sizeof kernel_table[0];
