/* Matrix products and convolutions of the gpu class: shaders/gemm_tiled.comp, gemm_tn_tiled.comp. */
#include "gpu/kern_gpu.h"
#include "shaders/push/gemm_tiled.h"
#include "shaders/push/gemm_tn_tiled.h"
#include "shaders/push/sum_slices.h"

enum { THREADS = 128, SHARED_BYTES = 16384, TILE_CHANNELS = 64, STEP_PLANES = 4, STEP_ROWS = 16 };

bool kern_gpu_gemm_fits(const struct kernel_query *q) {
    return q->caps->max_workgroup >= THREADS && q->caps->shared_bytes >= SHARED_BYTES;
}

static struct shape in_shape(const struct kernel_query *q, int i) { return graph_shape(q->g, q->node->in[i]); }
static struct shape out_shape(const struct kernel_query *q) { return graph_shape(q->g, q->node->out[0]); }
static int min_int(int a, int b) { return a < b ? a : b; }

void kern_gpu_sum_slices(struct emit *e, const struct operand *part, int slices, const struct operand *bias,
                         const struct operand *res, const struct operand *y) {
    int planes = shape_planes(y->shape);
    struct push_sum_slices p = {.part = ref_write(part), .bias = ref_write(bias), .res = ref_write(res), .y = ref_write(y),
                                .part_stride = part->stride, .res_stride = res->stride, .y_stride = y->stride,
                                .rows = (int)shape_rows(y->shape), .slices = slices, .slice_texels = planes * part->stride};
    struct dispatch d = {.shader = "sum_slices", .spec = {(bias->address ? 1u : 0) | (res->address ? 2u : 0)}, .n_spec = 1,
                         .push = &p, .push_bytes = sizeof p,
                         .storage_mask = f16_bit(bias, 1) | f16_bit(res, 2) | f16_bit(y, 3),
                         .groups = {ceil_div(p.rows, 64), (uint32_t)planes, 1}};
    emit_dispatch(e, &d);
}

/* --- y = x w' ------------------------------------------------------------------------------------- */
/* How one product is cut: rows per invocation, and slices of the contraction summed afterwards. */
struct gemm_cut {
    int rows, channels, tap_planes, all_planes;
    int tm, slices, slice_planes;
    bool gather, dx;
};

static struct gemm_cut gemm_cut(const struct kernel_query *q) {
    const struct node *node = q->node;
    struct shape x = in_shape(q, 0), y = out_shape(q);
    struct gemm_cut c = {.rows = (int)shape_rows(y), .channels = y.c, .tap_planes = shape_planes(x)};
    int taps = 1;
    if (node->op != OP_MATMUL) {
        int k = node->attr.conv.k, up = node->attr.conv.up;
        c.dx = node->op == OP_CONV2D_DX;
        taps = k * k * (up && c.dx ? 4 : 1);
        c.gather = k > 1 || node->attr.conv.stride > 1 || node->attr.conv.pad || up;
    }
    c.all_planes = taps * c.tap_planes;
    int channel_tiles = (int)ceil_div(c.channels, TILE_CHANNELS);
    c.tm = c.rows <= 16 ? 1 : c.rows <= 32 ? 2 : 4;
    if (ceil_div(c.rows, 128) * (uint32_t)channel_tiles >= 2 * GPU_ENOUGH_GROUPS) c.tm = 8;
    int tiles = (int)ceil_div(c.rows, 16 * c.tm) * channel_tiles;
    int want = (int)ceil_div(GPU_ENOUGH_GROUPS, tiles), most = c.all_planes / 64; /* a slice: 256 values or more */
    c.slices = most < 1 ? 1 : min_int(min_int(want, most), 16);
    c.slice_planes = (int)ceil_div(ceil_div(c.all_planes, c.slices), STEP_PLANES) * STEP_PLANES;
    c.slices = (int)ceil_div(c.all_planes, c.slice_planes);
    return c;
}

int64_t kern_gpu_gemm_scratch(const struct kernel_query *q) {
    struct gemm_cut c = gemm_cut(q);
    return c.slices > 1 ? c.slices * shape_texels(out_shape(q)) * 16 : 0;
}

void kern_gpu_gemm_emit(struct emit *e) {
    const struct node *node = e->q.node;
    struct gemm_cut c = gemm_cut(&e->q);
    const struct operand none = {0}, *x = &e->in[0], *w = &e->in[1];
    const struct operand *bias = c.dx ? &none : &e->in[2], *res = c.dx ? &none : &e->in[3], *y = &e->out[0];
    bool conv = node->op != OP_MATMUL, split = c.slices > 1;
    struct operand part = split ? operand_part(&e->scratch, 0, y->stride) : *y;
    struct push_gemm_tiled p = {
        .x = ref_write(x), .w = ref_write(w), .bias = ref_write(bias), .res = ref_write(res), .y = ref_write(&part),
        .x_stride = x->stride, .w_stride = w->stride, .res_stride = res->stride, .y_stride = part.stride,
        .rows = c.rows, .channels = c.channels, .tap_planes = c.tap_planes, .w_rows = w->shape.w,
        .all_planes = c.all_planes, .slice_planes = c.slice_planes, .src_h = x->shape.h, .src_w = x->shape.w,
        .dst_h = y->shape.h, .dst_w = y->shape.w, .pad = conv ? node->attr.conv.pad : 0};
    if (!conv) p.w_rows = (int)shape_rows(w->shape);
    bool coded = quant_is_coded(w->dtype);
    if (coded) {
        struct operand scale = operand_part(w, quant_scales_offset(w->dtype, w->shape), 0);
        p.scale = ref_write(&scale), p.w_stride = (int)quant_tile_stride(w->shape);
    }
    uint32_t epilogue = (bias->address ? 1u : 0) | (res->address ? 2u : 0);
    struct dispatch d = {
        .shader = "gemm_tiled", .n_spec = 9, .push = &p, .push_bytes = sizeof p,
        .spec = {(uint32_t)c.tm, conv ? c.dx : node->attr.matmul.trans != 0, c.gather, 1, 1, 0, c.dx, split ? 0 : epilogue,
                 coded ? (uint32_t)w->dtype : 0},
        .storage_mask = f16_bit(x, 0) | f16_bit(w, 1) | f16_bit(&part, 4),
        .groups = {ceil_div(c.rows, 16 * c.tm), ceil_div(c.channels, TILE_CHANNELS), (uint32_t)c.slices}};
    if (c.gather) {
        d.spec[3] = (uint32_t)node->attr.conv.k;
        d.spec[4] = (uint32_t)node->attr.conv.stride;
        d.spec[5] = node->attr.conv.up != 0;
    }
    if (!split) d.storage_mask |= f16_bit(bias, 2) | f16_bit(res, 3);
    emit_dispatch(e, &d);
    if (!split) return;
    emit_barrier(e);
    kern_gpu_sum_slices(e, &part, c.slices, bias, res, y);
}

/* --- y = a' b ------------------------------------------------------------------------------------- */
struct gemm_tn_cut {
    int rows, taps, ta, tb, slices, slice_rows;
    bool gather;
};

static struct gemm_tn_cut gemm_tn_cut(const struct kernel_query *q) {
    const struct node *node = q->node;
    struct shape a = in_shape(q, 0), b = in_shape(q, 1);
    struct gemm_tn_cut c = {.rows = (int)shape_rows(a), .taps = 1};
    if (node->op == OP_CONV2D_DW) {
        c.taps = node->attr.conv.k * node->attr.conv.k;
        c.gather = c.taps > 1 || node->attr.conv.stride > 1 || node->attr.conv.pad || node->attr.conv.up;
    }
    c.ta = shape_planes(a) <= 8 ? 1 : 2;
    c.tb = shape_planes(b) <= 16 ? 1 : 2;
    int tiles = (int)(ceil_div(shape_planes(a), 8 * c.ta) * ceil_div(shape_planes(b), 16 * c.tb)) * c.taps;
    int want = (int)ceil_div(2 * GPU_ENOUGH_GROUPS, tiles), most = c.rows / 128;
    c.slices = most < 1 ? 1 : min_int(min_int(want, most), 64);
    c.slice_rows = (int)ceil_div(ceil_div(c.rows, c.slices), STEP_ROWS) * STEP_ROWS;
    c.slices = (int)ceil_div(c.rows, c.slice_rows);
    return c;
}

int64_t kern_gpu_gemm_tn_scratch(const struct kernel_query *q) {
    struct gemm_tn_cut c = gemm_tn_cut(q);
    return c.slices > 1 ? c.slices * shape_texels(out_shape(q)) * 16 : 0;
}

void kern_gpu_gemm_tn_emit(struct emit *e) {
    const struct node *node = e->q.node;
    struct gemm_tn_cut c = gemm_tn_cut(&e->q);
    const struct operand none = {0}, *a = &e->in[0], *b = &e->in[1], *y = &e->out[0];
    const struct operand *acc = node->op == OP_MATMUL_TN ? &e->in[2] : &none;
    bool split = c.slices > 1;
    struct operand part = split ? operand_part(&e->scratch, 0, y->stride) : *y;
    struct push_gemm_tn_tiled p = {
        .a = ref_write(a), .b = ref_write(b), .acc = ref_write(acc), .y = ref_write(&part), .a_stride = a->stride,
        .b_stride = b->stride, .acc_stride = acc->stride, .y_stride = part.stride, .rows = c.rows, .a_channels = a->shape.c,
        .b_channels = b->shape.c, .slices = c.slices, .slice_rows = c.slice_rows, .src_h = b->shape.h,
        .src_w = b->shape.w, .dst_h = a->shape.h, .dst_w = a->shape.w, .pad = c.gather ? node->attr.conv.pad : 0};
    struct dispatch d = {
        .shader = "gemm_tn_tiled", .n_spec = 7, .push = &p, .push_bytes = sizeof p,
        .spec = {(uint32_t)c.ta, (uint32_t)c.tb, c.gather, 1, 1, 0, !split && acc->address ? 2u : 0},
        .storage_mask = f16_bit(a, 0) | f16_bit(b, 1) | f16_bit(&part, 3),
        .groups = {ceil_div(shape_planes(a->shape), 8 * c.ta), ceil_div(shape_planes(b->shape), 16 * c.tb),
                   (uint32_t)(c.taps * c.slices)}};
    if (c.gather) {
        d.spec[3] = (uint32_t)node->attr.conv.k;
        d.spec[4] = (uint32_t)node->attr.conv.stride;
        d.spec[5] = node->attr.conv.up != 0;
    }
    if (!split) d.storage_mask |= f16_bit(acc, 2);
    emit_dispatch(e, &d);
    if (!split) return;
    emit_barrier(e);
    kern_gpu_sum_slices(e, &part, c.slices, &none, acc, y);
}
