#pragma once
/* Inside gpu/ only: what the gpu class's GEMM and attention rows share. */
#include "gpu/push.h"

enum { GPU_ENOUGH_GROUPS = 128 }; /* workgroups that keep a large GPU busy; below it contractions are split */

static inline uint32_t f16_bit(const struct operand *o, int operand) {
    return o->address && o->dtype == TENSOR_F16 ? 1u << operand : 0;
}
/* y = the `slices` parts (each with y's planes and stride) + bias + res; either may be absent. */
void kern_gpu_sum_slices(struct emit *e, const struct operand *part, int slices, const struct operand *bias,
                         const struct operand *res, const struct operand *y);

bool kern_gpu_gemm_fits(const struct kernel_query *q);
int64_t kern_gpu_gemm_scratch(const struct kernel_query *q);
void kern_gpu_gemm_emit(struct emit *e);
int64_t kern_gpu_gemm_tn_scratch(const struct kernel_query *q);
void kern_gpu_gemm_tn_emit(struct emit *e);
bool kern_gpu_attention_fits(const struct kernel_query *q);
void kern_gpu_attention_emit(struct emit *e);
int64_t kern_gpu_attention_dx_scratch(const struct kernel_query *q);
void kern_gpu_attention_dx_emit(struct emit *e);
/* Heads that are no whole planes, slowly. */
bool kern_gpu_attention_plain_fits(const struct kernel_query *q);
void kern_gpu_attention_plain_emit(struct emit *e);
void kern_gpu_attention_plain_dx_emit(struct emit *e);
