#include "gpu/kernel.h"

#include "gpu/kernels_priv.h"

const struct kernel kernel_table[] = {
#define KERNEL(op, variant, cls, fits, scratch, prep, emit_prep, emit) \
    {OP_##op, variant, cls, fits, scratch, prep, emit_prep, emit, false},
#define KERNEL_DECODES(op, variant, cls, fits, scratch, emit) \
    {OP_##op, variant, cls, fits, scratch, NULL, NULL, emit, true},
#include "gpu/kernels.def"
#undef KERNEL
#undef KERNEL_DECODES
};
const int kernel_count = sizeof kernel_table / sizeof kernel_table[0];

static bool is_narrow(const struct kernel_query *q, int input) {
    enum tensor_dtype d = input >= 0 ? q->g->values[input].dtype : TENSOR_F32;
    return quant_is_coded(d) || (q->caps->cls == KERNEL_CPU && d != TENSOR_F32);
}

bool kernel_accepts(const struct kernel *k, const struct kernel_query *q) {
    for (int i = 0; i < q->node->n_in; i++)
        if (is_narrow(q, q->node->in[i]) != (i == 1 && k->decodes)) return false;
    return !k->fits || k->fits(q);
}
