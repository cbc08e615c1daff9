#pragma once
/* Shared by the cpu class's heavy kernels (gpu/kern_cpu_*.c). */
#include "gpu/kernel.h"

enum cpu_conv { CPU_PRODUCT, CPU_CONV, CPU_CONV_GRADIENT };

/* One product y = x*w' (+ bias + res), or a batch of them, or a convolution. Operands may be NULL. */
struct cpu_gemm {
    const struct operand *x, *w, *bias, *res, *y;
    const struct operand *packed; /* scratch that w is packed into before it is read; not of a batch */
    bool w_packed;                /* w lies so already (cpu_gemm_packed_texels each of a batch); cpu_gemm_packs must hold */
    int64_t rows;     /* of y */
    int32_t c_in, c_out;
    int32_t trans;    /* as op_attr.matmul.trans */
    /* A batch of inner*outer products (0 means 1), texels apart; `inner` varies fastest. */
    int32_t inner, outer;
    int64_t x_step, w_step, y_step, x_outer, w_outer, y_outer;
    enum cpu_conv conv;
    struct shape src, dst; /* images read and written */
    union op_attr attr;    /* attr.conv */
    int32_t w_rows;        /* rows of w per tap */
};
void cpu_gemm_emit(struct emit *e, const struct cpu_gemm *g);
/* Whether any product with so many planes of output can read a packed weight (shaders/gemm_pack.comp), and its size. */
bool cpu_gemm_packs(int n4, int lanes);
int64_t cpu_gemm_packed_texels(int k4, int n4, int lanes);

/* A batch of products y = a'b over rows (+ acc), through parts in `parts`. Shapes count one
 * product's rows and channels. */
struct cpu_tn {
    const struct operand *a, *b, *acc, *y; /* acc NULL: none; it lies in steps like y */
    struct shape a_shape, b_shape;
    int32_t inner, outer;
    int64_t a_step, b_step, y_step, a_outer, b_outer, y_outer;
    bool conv; /* a tap per product; then attr, src (b's image), dst (a's) count */
    union op_attr attr;
    struct shape src, dst;
};
int64_t cpu_tn_parts_bytes(const struct kernel_query *q, const struct cpu_tn *t);
/* parts NULL is allowed where cpu_tn_parts_bytes says 0. */
void cpu_tn_emit(struct emit *e, const struct cpu_tn *t, const struct operand *parts);

/* Two 16-bit halves of a push constant. */
static inline int32_t cpu_pair(int32_t low, int32_t high) { return (int32_t)((uint32_t)low | (uint32_t)high << 16); }

void cpu_matmul_emit(struct emit *e);
bool cpu_packed_fits(const struct kernel_query *q);
int64_t cpu_packed_scratch(const struct kernel_query *q);
void cpu_packed_emit(struct emit *e);
void cpu_conv_emit(struct emit *e);
void cpu_conv_dx_emit(struct emit *e);
int64_t cpu_matmul_tn_scratch(const struct kernel_query *q);
void cpu_matmul_tn_emit(struct emit *e);
int64_t cpu_conv_dw_scratch(const struct kernel_query *q);
void cpu_conv_dw_emit(struct emit *e);
bool cpu_winograd_fits(const struct kernel_query *q);
int64_t cpu_winograd_scratch(const struct kernel_query *q);
int64_t cpu_winograd_prep(const struct kernel_query *q);
void cpu_winograd_emit_prep(struct emit *e);
void cpu_winograd_emit(struct emit *e);
bool cpu_flash_fits(const struct kernel_query *q);
bool cpu_flash_dx_fits(const struct kernel_query *q);
int64_t cpu_flash_scratch(const struct kernel_query *q);
void cpu_flash_emit(struct emit *e);
void cpu_flash_dx_emit(struct emit *e);
bool cpu_attention_fits(const struct kernel_query *q);
int64_t cpu_attention_scratch(const struct kernel_query *q);
void cpu_attention_emit(struct emit *e);
int64_t cpu_attention_dx_scratch(const struct kernel_query *q);
void cpu_attention_dx_emit(struct emit *e);
int64_t cpu_attention_spread_scratch(const struct kernel_query *q);
void cpu_attention_spread_emit(struct emit *e);
