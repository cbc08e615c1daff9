#pragma once
/* Every row's functions are declared from the rows themselves, by the few signatures they can have. */
#include "gpu/kernel.h"
#define EMIT(f) void f(struct emit *e);
#define BYTES(f) int64_t f(const struct kernel_query *q);
#define FITS(f) bool f(const struct kernel_query *q);
EMIT(kern_unary) EMIT(kern_unary_dx) EMIT(kern_add) EMIT(kern_mul) EMIT(kern_scale) EMIT(kern_copy) EMIT(kern_concat)
EMIT(kern_slice) EMIT(kern_slice_dx) EMIT(kern_geglu) EMIT(kern_geglu_dx) EMIT(kern_upsample) EMIT(kern_upsample_dx)
EMIT(kern_row_sum) EMIT(kern_group_norm) EMIT(kern_group_norm_dx) EMIT(kern_group_norm_dp) BYTES(kern_group_norm_scratch)
EMIT(kern_layer_norm) EMIT(kern_layer_norm_dx) EMIT(kern_layer_norm_dp) EMIT(kern_embed) EMIT(kern_embed_dw)
EMIT(kern_timestep) EMIT(kern_mse) EMIT(kern_mse_dx) EMIT(kern_huber) EMIT(kern_huber_dx) EMIT(kern_sum_squares)
BYTES(kern_sum_squares_scratch)
EMIT(kern_accumulate) EMIT(kern_ema) EMIT(kern_adamw) EMIT(kern_lion) EMIT(kern_schedule_free) EMIT(kern_prodigy)
BYTES(kern_prodigy_sums_scratch) EMIT(kern_prodigy_sums) BYTES(kern_adafactor_scratch) EMIT(kern_adafactor)
BYTES(kern_pair_norm_scratch) EMIT(kern_pair_norm) EMIT(kern_dropout)
#include "gpu/kernels_cpu_heavy.h"
#include "gpu/kernels_gpu_heavy.h"
EMIT(cpu_decode_emit)
#undef EMIT
#undef BYTES
#undef FITS
/* Workgroups of 64 over a flat bank, in two dimensions past the smallest guaranteed limit of one. */
void kern_flat_groups(struct dispatch *d, int texels);
