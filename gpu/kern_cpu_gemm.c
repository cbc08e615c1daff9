/* Products and implicit convolutions of the cpu class: picks a tile, fills the push block. */
#include <assert.h>
#include "gpu/kern_cpu.h"
#include "gpu/push.h"
#include "shaders/push/gemm.h"
#include "shaders/push/gemm_pack.h"

/* A lane owns an output plane in gemm.comp. Where that would leave many lanes idle (adapter ranks, image
 * outputs) gemm_tall.comp gives a lane rows instead; it reads weights only where they lie. */
bool cpu_gemm_packs(int n4, int lanes) { return n4 * 5 >= (int)ceil_div(n4, lanes) * lanes * 3; }
static bool is_tall(int n4, int lanes, int64_t rows) { return !cpu_gemm_packs(n4, lanes) && rows >= lanes; }

int64_t cpu_gemm_packed_texels(int k4, int n4, int lanes) { return (int64_t)ceil_div(n4, lanes) * lanes * k4 * 4; }

static int tile_rows(const struct cpu_gemm *g, int batch) {
    if (g->rows == 1) return 1;
    /* A tall tile reads the weight half as often, but is slow to compile and, over long sums, too much for the cache. */
    if (g->rows % 64 == 0 && g->rows * batch >= 1024 && g->c_in <= 640) return 64;
    return g->rows % 32 == 0 || g->rows > 24 ? 32 : 8;
}

static void fill_push(struct emit *e, const struct cpu_gemm *g, struct push_gemm *p) {
    *p = (struct push_gemm){
        .x = ref_read(e, g->x), .w = ref_read(e, g->w), .y = ref_write(g->y),
        .rows = (int32_t)g->rows, .k4 = (g->c_in + 3) / 4, .n4 = (g->c_out + 3) / 4, .n_tail = (g->c_out - 1) % 4 + 1,
        .x_stride = g->x->stride, .w_stride = g->w->stride, .y_stride = g->y->stride,
        .inner = g->inner ? g->inner : 1,
        .x_step = (int32_t)g->x_step, .w_step = (int32_t)g->w_step, .y_step = (int32_t)g->y_step,
        .x_outer = (int32_t)g->x_outer, .w_outer = (int32_t)g->w_outer, .y_outer = (int32_t)g->y_outer,
        .w_rows = g->w_rows,
    };
    if (g->bias && g->bias->address) {
        p->bias = ref_read(e, g->bias);
        p->bias_stride = g->bias->stride;
    }
    if (g->res && g->res->address) {
        p->res = ref_read(e, g->res);
        p->res_stride = g->res->stride;
    }
    if (g->conv == CPU_PRODUCT) return;
    assert(g->attr.conv.stride == 1 || g->attr.conv.stride == 2);
    p->kernel_stride = cpu_pair(g->attr.conv.k, g->attr.conv.stride);
    p->pad_up = cpu_pair(g->attr.conv.pad, g->attr.conv.up);
    p->src_hw = cpu_pair(g->src.h, g->src.w);
    p->dst_hw = cpu_pair(g->dst.h, g->dst.w);
}

/* The weight in the order in which the product reads it (shaders/gemm_pack.comp). */
static void emit_pack(struct emit *e, const struct cpu_gemm *g, struct push_gemm *p, int taps) {
    int lanes = (int)e->q.caps->subgroup;
    struct push_gemm_pack pack = {.w = p->w, .to = ref_write(g->packed), .k4 = p->k4, .n4 = p->n4,
                                  .w_stride = p->w_stride, .w_rows = p->w_rows};
    struct dispatch d = {.shader = "gemm_pack", .spec = {(uint32_t)g->trans}, .n_spec = 1, .push = &pack,
                         .push_bytes = sizeof pack, .reads = {NULL, g->w}, .n_reads = 2,
                         .groups = {ceil_div(p->n4, lanes), (uint32_t)p->k4, (uint32_t)taps}};
    emit_dispatch(e, &d);
    emit_barrier(e);
    p->w = ref_read(e, g->packed);
}

void cpu_gemm_emit(struct emit *e, const struct cpu_gemm *g) {
    struct push_gemm p;
    fill_push(e, g, &p);
    int lanes = (int)e->q.caps->subgroup, batch = p.inner * (g->outer ? g->outer : 1);
    bool res = g->res && g->res->address;
    struct dispatch d = {.push = &p, .push_bytes = sizeof p, .reads = {g->x, g->w, g->bias, g->res}, .n_reads = 4};
    assert(!g->w_packed || cpu_gemm_packs(p.n4, lanes));
    if (is_tall(p.n4, lanes, g->rows)) {
        int planes = p.n4 < 2 ? 1 : 4, frags = g->rows >= 16 * lanes ? 4 : 1;
        uint32_t spec[] = {(uint32_t)frags, (uint32_t)g->trans, g->conv, res, g->c_out % 4 != 0, (uint32_t)planes};
        d.shader = "gemm_tall";
        for (int i = 0; i < 6; i++) d.spec[d.n_spec++] = spec[i];
        d.groups[0] = ceil_div(p.n4, planes);
        d.groups[1] = ceil_div(g->rows, frags * lanes);
    } else {
        int rows = tile_rows(g, batch), taps = g->conv ? g->attr.conv.k * g->attr.conv.k : 1;
        bool packed = g->packed || g->w_packed;
        assert(!g->packed || batch == 1);
        if (g->packed) emit_pack(e, g, &p, taps), d.reads[1] = g->packed;
        if (packed) p.w_rows = p.k4 * 4 * lanes;
        uint32_t spec[] = {(uint32_t)rows, (uint32_t)g->trans, g->conv, res, g->c_out % 4 != 0, packed};
        d.shader = "gemm";
        for (int i = 0; i < 6; i++) d.spec[d.n_spec++] = spec[i];
        /* The larger operand is read from memory once, the smaller again and again from the cache; a long weight,
         * packed so that it streams, for each tile of rows, which stay. */
        p.rows_first = !g->packed && (int64_t)g->c_out * taps > g->rows;
        d.groups[p.rows_first ? 1 : 0] = ceil_div(p.n4, lanes);
        d.groups[p.rows_first ? 0 : 1] = ceil_div(g->rows, rows);
    }
    d.groups[2] = (uint32_t)batch;
    emit_dispatch(e, &d);
}

static void emit_matmul(struct emit *e, const struct operand *packed) {
    const struct operand *x = &e->in[0], *y = &e->out[0];
    cpu_gemm_emit(e, &(struct cpu_gemm){
        .x = x, .w = &e->in[1], .bias = &e->in[2], .res = &e->in[3], .y = y, .packed = packed,
        .rows = shape_rows(x->shape), .c_in = x->shape.c, .c_out = y->shape.c, .trans = e->q.node->attr.matmul.trans,
    });
}

void cpu_matmul_emit(struct emit *e) { emit_matmul(e, NULL); }

/* Where it lies, a round's texels of the weight are on another page than the last round's; packed, the processor fetches
 * them ahead. That costs as much as some 50 rows of the product. */
bool cpu_packed_fits(const struct kernel_query *q) {
    enum { ROWS = 1024 };
    struct shape y = graph_shape(q->g, q->node->out[0]);
    int64_t rows = shape_rows(y);
    return rows >= ROWS && y.c <= 2 * rows && cpu_gemm_packs(shape_planes(y), (int)q->caps->subgroup);
}

int64_t cpu_packed_scratch(const struct kernel_query *q) {
    struct shape x = graph_shape(q->g, q->node->in[0]), y = graph_shape(q->g, q->node->out[0]);
    return cpu_gemm_packed_texels(shape_planes(x), shape_planes(y), (int)q->caps->subgroup) * 16;
}

void cpu_packed_emit(struct emit *e) { emit_matmul(e, &e->scratch); }

void cpu_conv_emit(struct emit *e) {
    const struct operand *x = &e->in[0], *y = &e->out[0];
    cpu_gemm_emit(e, &(struct cpu_gemm){
        .x = x, .w = &e->in[1], .bias = &e->in[2], .res = &e->in[3], .y = y,
        .rows = shape_rows(y->shape), .c_in = x->shape.c, .c_out = y->shape.c,
        .conv = CPU_CONV, .src = x->shape, .dst = y->shape, .attr = e->q.node->attr, .w_rows = y->shape.c,
    });
}

void cpu_conv_dx_emit(struct emit *e) {
    const struct operand *g = &e->in[0], *dx = &e->out[0];
    cpu_gemm_emit(e, &(struct cpu_gemm){
        .x = g, .w = &e->in[1], .y = dx,
        .rows = shape_rows(dx->shape), .c_in = g->shape.c, .c_out = dx->shape.c, .trans = 1,
        .conv = CPU_CONV_GRADIENT, .src = g->shape, .dst = dx->shape, .attr = e->q.node->attr, .w_rows = g->shape.c,
    });
}
