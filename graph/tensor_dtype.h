#pragma once
/* How the numbers of a tensor are stored. */
#include <stddef.h>

enum tensor_dtype { TENSOR_F32, TENSOR_F16, TENSOR_INT8, TENSOR_NF4 };
static const char *const tensor_dtype_names[] = {"f32", "f16", "int8", "nf4"};
/* Four channels of a row; of the coded ones (graph/quant.h) without their scales. */
static inline size_t tensor_texel_bytes(enum tensor_dtype d) {
    return d == TENSOR_F32 ? 16 : d == TENSOR_F16 ? 8 : d == TENSOR_INT8 ? 4 : 2;
}
