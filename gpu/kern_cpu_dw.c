/* Weight gradients of the cpu class: a'b over rows, in slices that are added in order afterwards. */
#include "gpu/kern_cpu.h"
#include "gpu/push.h"
#include "shaders/push/gemm_tn.h"

/* The product as gemm_tn.comp makes it: `wide` has its planes in lanes, `narrow` is broadcast. */
struct tn {
    struct shape narrow, wide;
    bool swap;   /* narrow is the op's b: parts come out transposed */
    bool direct; /* one slice straight into y */
    int taps, tile, slices;
    int64_t rows, slice_rows, part_stride, part_texels;
};

static struct tn tn_plan(const struct kernel_query *q, struct shape a, struct shape b, int taps, bool conv, bool acc) {
    int lanes = (int)q->caps->subgroup;
    struct tn t = {.narrow = a, .wide = b, .taps = taps, .rows = shape_rows(a)};
    t.swap = !conv && shape_planes(b) < lanes && a.c > b.c;
    if (t.swap) t.narrow = b, t.wide = a;
    t.tile = t.narrow.c > 16 ? 32 : t.narrow.c > 4 ? 16 : 4;
    int64_t tiles = (int64_t)ceil_div(t.narrow.c, t.tile) * ceil_div(shape_planes(t.wide), lanes) * taps;
    /* Enough groups for a few cores, slices long enough to pay for adding them up. */
    int64_t wanted = tiles >= 16 ? 1 : (16 + tiles - 1) / tiles, most = t.rows / 128 > 0 ? t.rows / 128 : 1;
    if (wanted > most) wanted = most;
    t.slice_rows = (t.rows + wanted - 1) / wanted;
    t.slice_rows = (t.slice_rows + 3) / 4 * 4;
    t.slices = (int)ceil_div(t.rows, t.slice_rows);
    t.part_stride = (t.narrow.c + t.tile - 1) / t.tile * t.tile;
    t.part_texels = t.part_stride * shape_planes(t.wide);
    t.direct = t.slices == 1 && !conv && !t.swap && !acc && a.c > 1;
    return t;
}

static int64_t tn_scratch(const struct tn *t) { return t->direct ? 0 : t->part_texels * t->taps * t->slices * 16; }

static struct tn matmul_tn_plan(const struct kernel_query *q) {
    const int *in = q->node->in;
    return tn_plan(q, graph_shape(q->g, in[0]), graph_shape(q->g, in[1]), 1, false, q->node->n_in > 2 && in[2] >= 0);
}
static struct tn conv_dw_plan(const struct kernel_query *q) {
    int k = q->node->attr.conv.k;
    return tn_plan(q, graph_shape(q->g, q->node->in[0]), graph_shape(q->g, q->node->in[1]), k * k, true, false);
}
int64_t cpu_matmul_tn_scratch(const struct kernel_query *q) {
    struct tn t = matmul_tn_plan(q);
    return tn_scratch(&t);
}
int64_t cpu_conv_dw_scratch(const struct kernel_query *q) {
    struct tn t = conv_dw_plan(q);
    return tn_scratch(&t);
}

static void emit_parts(struct emit *e, const struct tn *t, struct push_gemm_tn *p, bool conv) {
    const struct operand *narrow = &e->in[t->swap ? 1 : 0], *wide = &e->in[t->swap ? 0 : 1];
    struct operand parts = t->direct ? e->out[0] : operand_part(&e->scratch, 0, (int32_t)t->part_stride);
    p->a = ref_read(e, narrow);
    p->b = ref_read(e, wide);
    p->y = ref_write(&parts);
    p->rows = (int32_t)t->rows;
    p->slice_rows = (int32_t)t->slice_rows;
    p->taps = t->taps;
    p->a4 = shape_planes(t->narrow);
    p->b4 = shape_planes(t->wide);
    p->a_stride = narrow->stride;
    p->b_stride = wide->stride;
    p->y_stride = parts.stride;
    p->y_step = (int32_t)t->part_texels;
    struct dispatch d = {
        .shader = "gemm_tn", .spec = {(uint32_t)t->tile, conv}, .n_spec = 2, .push = p, .push_bytes = sizeof *p,
        .reads = {narrow, wide}, .n_reads = 2,
        .groups = {ceil_div(p->b4, e->q.caps->subgroup), ceil_div(t->narrow.c, t->tile), (uint32_t)(t->taps * t->slices)},
    };
    emit_dispatch(e, &d);
}

static void emit_sum(struct emit *e, const struct tn *t, const struct operand *acc) {
    const struct operand *y = &e->out[0];
    struct operand parts = operand_part(&e->scratch, 0, (int32_t)t->part_stride);
    bool has_acc = acc && acc->address;
    struct push_tn_sum p = {
        .part = ref_read(e, &parts), .y = ref_write(y), .slices = t->slices,
        .slice_step = (int32_t)(t->part_texels * t->taps), .tap_step = (int32_t)t->part_texels,
        .part_stride = parts.stride, .y_stride = y->stride,
        .rows = (int32_t)(shape_rows(y->shape) / t->taps), .planes = shape_planes(y->shape),
    };
    if (has_acc) {
        p.acc = ref_read(e, acc);
        p.acc_stride = acc->stride;
    }
    struct dispatch d = {
        .shader = "gemm_tn_sum", .spec = {t->swap, has_acc}, .n_spec = 2, .push = &p, .push_bytes = sizeof p,
        .reads = {&parts, acc}, .n_reads = 2,
        .groups = {ceil_div(p.rows, e->q.caps->subgroup * (t->swap ? 4 : 1)), (uint32_t)p.planes, (uint32_t)t->taps},
    };
    emit_dispatch(e, &d);
}

void cpu_matmul_tn_emit(struct emit *e) {
    struct tn t = matmul_tn_plan(&e->q);
    struct push_gemm_tn p = {0};
    emit_parts(e, &t, &p, false);
    if (t.direct) return;
    emit_barrier(e);
    emit_sum(e, &t, e->q.node->n_in > 2 ? &e->in[2] : NULL);
}

void cpu_conv_dw_emit(struct emit *e) {
    struct tn t = conv_dw_plan(&e->q);
    struct shape dst = e->in[0].shape, src = e->in[1].shape;
    union op_attr a = e->q.node->attr;
    struct push_gemm_tn p = {
        .kernel_stride = cpu_pair(a.conv.k, a.conv.stride), .pad_up = cpu_pair(a.conv.pad, a.conv.up),
        .src_hw = cpu_pair(src.h, src.w), .dst_hw = cpu_pair(dst.h, dst.w),
        .four_n = 4 / (dst.h * dst.w), .four_y = 4 / dst.w % dst.h, .four_x = 4 % dst.w,
    };
    emit_parts(e, &t, &p, true);
    emit_barrier(e);
    emit_sum(e, &t, NULL);
}
