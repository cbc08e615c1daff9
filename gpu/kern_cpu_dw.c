/* Weight gradients of the cpu class: a'b over rows, in slices that are added in order afterwards. */
#include "gpu/kern_cpu.h"
#include "gpu/push.h"
#include "shaders/push/gemm_tn.h"

/* The product as gemm_tn.comp makes it: `wide` has its planes in lanes, `narrow` is broadcast. */
struct plan {
    struct shape narrow, wide;
    bool swap;   /* narrow is the op's b: parts come out transposed */
    bool direct; /* one slice straight into y */
    int taps, tile, slices;
    int64_t rows, slice_rows, part_stride, part_texels;
};

/* Rows that one invocation may walk: lavapipe ends a loop silently after 65,535 rounds of four. */
enum { MAX_SLICE_ROWS = 1 << 17 };

static struct plan make_plan(const struct kernel_query *q, const struct cpu_tn *t) {
    int lanes = (int)q->caps->subgroup, inner = t->inner ? t->inner : 1, outer = t->outer ? t->outer : 1;
    struct plan p = {.narrow = t->a_shape, .wide = t->b_shape, .taps = inner * outer, .rows = shape_rows(t->a_shape)};
    p.swap = !t->conv && shape_planes(t->b_shape) < lanes && t->a_shape.c > t->b_shape.c;
    if (p.swap) p.narrow = t->b_shape, p.wide = t->a_shape;
    p.tile = p.narrow.c > 16 ? 32 : p.narrow.c > 4 ? 16 : 4;
    int64_t tiles = (int64_t)ceil_div(p.narrow.c, p.tile) * ceil_div(shape_planes(p.wide), lanes) * p.taps;
    /* Enough groups for a few cores, slices long enough to pay for adding them up. */
    int64_t wanted = tiles >= 16 ? 1 : (16 + tiles - 1) / tiles, most = p.rows / 128 > 0 ? p.rows / 128 : 1;
    if (wanted > most) wanted = most;
    p.slice_rows = (p.rows + wanted - 1) / wanted;
    if (p.slice_rows > MAX_SLICE_ROWS) p.slice_rows = MAX_SLICE_ROWS;
    p.slice_rows = (p.slice_rows + 3) / 4 * 4;
    p.slices = (int)ceil_div(p.rows, p.slice_rows);
    p.part_stride = (p.narrow.c + p.tile - 1) / p.tile * p.tile;
    p.part_texels = p.part_stride * shape_planes(p.wide);
    /* A tile may write past a's last channel, into padding, if y has any there. */
    p.direct = p.slices == 1 && p.taps == 1 && !t->conv && !p.swap && !t->acc && t->a_shape.c > 1;
    return p;
}

int64_t cpu_tn_parts_bytes(const struct kernel_query *q, const struct cpu_tn *t) {
    struct plan p = make_plan(q, t);
    return p.direct ? 0 : p.part_texels * p.taps * p.slices * 16;
}

static void emit_parts(struct emit *e, const struct cpu_tn *t, const struct plan *p, const struct operand *y) {
    const struct operand *narrow = p->swap ? t->b : t->a, *wide = p->swap ? t->a : t->b;
    struct push_gemm_tn push = {
        .a = ref_read(e, narrow), .b = ref_read(e, wide), .y = ref_write(y),
        .rows = (int32_t)p->rows, .slice_rows = (int32_t)p->slice_rows, .taps = p->taps, .inner = t->inner ? t->inner : 1,
        .a_step = (int32_t)(p->swap ? t->b_step : t->a_step), .b_step = (int32_t)(p->swap ? t->a_step : t->b_step),
        .a_outer = (int32_t)(p->swap ? t->b_outer : t->a_outer), .b_outer = (int32_t)(p->swap ? t->a_outer : t->b_outer),
        .a4 = shape_planes(p->narrow), .b4 = shape_planes(p->wide),
        .a_stride = narrow->stride, .b_stride = wide->stride, .y_stride = y->stride, .y_step = (int32_t)p->part_texels,
    };
    if (t->conv) {
        struct shape dst = t->dst;
        push.kernel_stride = cpu_pair(t->attr.conv.k, t->attr.conv.stride);
        push.pad_up = cpu_pair(t->attr.conv.pad, t->attr.conv.up);
        push.src_hw = cpu_pair(t->src.h, t->src.w);
        push.dst_hw = cpu_pair(dst.h, dst.w);
        push.four_n = 4 / (dst.h * dst.w), push.four_y = 4 / dst.w % dst.h, push.four_x = 4 % dst.w;
    }
    struct dispatch d = {
        .shader = "gemm_tn", .spec = {(uint32_t)p->tile, t->conv}, .n_spec = 2, .push = &push, .push_bytes = sizeof push,
        .reads = {narrow, wide}, .n_reads = 2,
        .groups = {ceil_div(push.b4, e->q.caps->subgroup), ceil_div(p->narrow.c, p->tile), (uint32_t)(p->taps * p->slices)},
    };
    emit_dispatch(e, &d);
}

static void emit_sum(struct emit *e, const struct cpu_tn *t, const struct plan *p, const struct operand *parts) {
    bool has_acc = t->acc && t->acc->address;
    struct push_tn_sum push = {
        .part = ref_read(e, parts), .y = ref_write(t->y), .slices = p->slices,
        .slice_step = (int32_t)(p->part_texels * p->taps), .tap_step = (int32_t)p->part_texels,
        .part_stride = parts->stride, .y_stride = t->y->stride, .inner = t->inner ? t->inner : 1,
        .y_step = (int32_t)t->y_step, .y_outer = (int32_t)t->y_outer,
        .rows = t->a_shape.c, .planes = shape_planes(t->b_shape),
    };
    if (has_acc) {
        push.acc = ref_read(e, t->acc);
        push.acc_stride = t->acc->stride;
    }
    struct dispatch d = {
        .shader = "gemm_tn_sum", .spec = {p->swap, has_acc}, .n_spec = 2, .push = &push, .push_bytes = sizeof push,
        .reads = {parts, t->acc}, .n_reads = 2,
        .groups = {ceil_div(push.rows, e->q.caps->subgroup * (p->swap ? 4 : 1)), (uint32_t)push.planes, (uint32_t)p->taps},
    };
    emit_dispatch(e, &d);
}

void cpu_tn_emit(struct emit *e, const struct cpu_tn *t, const struct operand *parts) {
    struct plan p = make_plan(&e->q, t);
    if (p.direct) {
        emit_parts(e, t, &p, t->y);
        return;
    }
    struct operand area = operand_part(parts, 0, (int32_t)p.part_stride);
    emit_parts(e, t, &p, &area);
    emit_barrier(e);
    emit_sum(e, t, &p, &area);
}

/* The op's two weight gradients; operands stay NULL when only sizes are asked for. */
static struct cpu_tn matmul_tn(const struct kernel_query *q) {
    const struct node *n = q->node;
    static const struct operand present;
    return (struct cpu_tn){.a_shape = graph_shape(q->g, n->in[0]), .b_shape = graph_shape(q->g, n->in[1]),
                           .acc = n->n_in > 2 && n->in[2] >= 0 ? &present : NULL};
}
static struct cpu_tn conv_dw(const struct kernel_query *q) {
    const struct node *n = q->node;
    struct shape g = graph_shape(q->g, n->in[0]), x = graph_shape(q->g, n->in[1]);
    return (struct cpu_tn){.a_shape = g, .b_shape = x, .inner = n->attr.conv.k * n->attr.conv.k, .y_step = g.c,
                           .conv = true, .attr = n->attr, .src = x, .dst = g};
}
int64_t cpu_matmul_tn_scratch(const struct kernel_query *q) {
    struct cpu_tn t = matmul_tn(q);
    return cpu_tn_parts_bytes(q, &t);
}
int64_t cpu_conv_dw_scratch(const struct kernel_query *q) {
    struct cpu_tn t = conv_dw(q);
    return cpu_tn_parts_bytes(q, &t);
}
void cpu_matmul_tn_emit(struct emit *e) {
    struct cpu_tn t = matmul_tn(&e->q);
    t.a = &e->in[0], t.b = &e->in[1], t.y = &e->out[0];
    if (t.acc) t.acc = &e->in[2];
    cpu_tn_emit(e, &t, &e->scratch);
}
void cpu_conv_dw_emit(struct emit *e) {
    struct cpu_tn t = conv_dw(&e->q);
    t.a = &e->in[0], t.b = &e->in[1], t.y = &e->out[0];
    cpu_tn_emit(e, &t, &e->scratch);
}
