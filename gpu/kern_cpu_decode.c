/* Products and convolutions of the cpu class with narrow weights: shaders/gemm_decode.comp. */
#include <assert.h>

#include "gpu/kern_cpu.h"
#include "gpu/push.h"
#include "shaders/push/gemm_decode.h"

static void fill_conv(struct push_gemm_decode *p, const struct node *node, struct shape src, struct shape dst, int w_rows) {
    assert(node->attr.conv.stride == 1 || node->attr.conv.stride == 2);
    p->w_rows = w_rows;
    p->kernel_stride = cpu_pair(node->attr.conv.k, node->attr.conv.stride);
    p->pad_up = cpu_pair(node->attr.conv.pad, node->attr.conv.up);
    p->src_hw = cpu_pair(src.h, src.w);
    p->dst_hw = cpu_pair(dst.h, dst.w);
}

void cpu_decode_emit(struct emit *e) {
    const struct node *node = e->q.node;
    const struct operand *x = &e->in[0], *w = &e->in[1], *bias = &e->in[2], *res = &e->in[3], *y = &e->out[0];
    enum cpu_conv conv = node->op == OP_MATMUL ? CPU_PRODUCT : node->op == OP_CONV2D ? CPU_CONV : CPU_CONV_GRADIENT;
    bool trans = conv == CPU_PRODUCT ? node->attr.matmul.trans : conv == CPU_CONV_GRADIENT;
    bool coded = quant_is_coded(w->dtype), has_res = res->address != 0;
    struct push_gemm_decode p = {
        .x = ref_read(e, x), .y = ref_write(y), .w = w->texel,
        .w_stride = (int32_t)(coded ? quant_tile_stride(w->shape) : shape_stride(w->shape)),
        .scale = coded ? w->texel + (int32_t)(quant_scales_offset(w->dtype, w->shape) / 16) : 0,
        .rows = (int32_t)shape_rows(y->shape), .k4 = shape_planes(x->shape), .n4 = shape_planes(y->shape),
        .x_stride = x->stride, .y_stride = y->stride};
    if (bias->address) p.bias = ref_read(e, bias), p.bias_stride = bias->stride;
    if (has_res) p.res = ref_read(e, res), p.res_stride = res->stride;
    if (conv != CPU_PRODUCT) fill_conv(&p, node, x->shape, y->shape, w->shape.w);
    int lanes = (int)e->q.caps->subgroup, rows = p.rows == 1 ? 1 : p.rows > 24 ? 32 : 8;
    int64_t w_rows = shape_rows(w->shape);
    p.rows_first = w_rows > p.rows; /* the larger operand is read once, the other from the cache */
    uint32_t planes = ceil_div(p.n4, lanes), tiles = ceil_div(p.rows, rows);
    struct dispatch d = {.shader = "gemm_decode", .n_spec = 5, .push = &p, .push_bytes = sizeof p,
                         .spec = {(uint32_t)rows, trans, conv, has_res, (uint32_t)w->dtype},
                         .reads = {x, w, bias, res}, .n_reads = 4,
                         .groups = {p.rows_first ? tiles : planes, p.rows_first ? planes : tiles, 1}};
    emit_dispatch(e, &d);
}
