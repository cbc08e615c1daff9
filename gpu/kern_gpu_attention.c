/* Attention of the gpu class and its gradient: shaders/attn_*.comp. Scores live in shared memory only. */
#include <assert.h>

#include "gpu/kern_gpu.h"
#include "shaders/push/attn_delta.h"
#include "shaders/push/attn_flash.h"
#include "shaders/push/attn_grad.h"
#include "shaders/push/attn_plain.h"

enum { THREADS = 128, SHARED_BYTES = 16384, TILE_COLUMNS = 32, MAX_HEAD_PLANES = 128 };
static const float LOG2_E = 1.44269504f;

struct heads {
    int heads, planes; /* planes of one head */
    int n, q_rows, k_rows;
};
static struct heads heads_of(const struct kernel_query *q) {
    struct shape a = graph_shape(q->g, q->node->in[0]), b = graph_shape(q->g, q->node->in[1]);
    int heads = q->node->attr.attn.heads;
    return (struct heads){heads, a.c / heads / 4, a.n, a.h * a.w, b.h * b.w};
}

bool kern_gpu_attention_fits(const struct kernel_query *q) {
    struct shape a = graph_shape(q->g, q->node->in[0]);
    struct heads h = heads_of(q);
    return q->caps->max_workgroup >= THREADS && q->caps->shared_bytes >= SHARED_BYTES &&
           a.c == h.planes * 4 * h.heads && h.planes <= MAX_HEAD_PLANES;
}

/* Rows per invocation of a tile of 16 times as many: as many as `most`, fewer where that leaves the
 * device idle. */
static int tile_rows(const struct heads *h, int rows, int most) {
    while (most > 1 && ceil_div(rows, 16 * most) * (uint32_t)(h->heads * h->n) < GPU_ENOUGH_GROUPS) most /= 2;
    return most;
}

/* Result planes per invocation, and how many workgroups share a head that is too wide for one. */
struct plane_cut {
    int rp, parts;
};
static struct plane_cut plane_cut(const struct heads *h, int most) {
    int all = (int)ceil_div(h->planes, 8), parts = (int)ceil_div(all, most);
    return (struct plane_cut){(int)ceil_div(all, parts), parts};
}

void kern_gpu_attention_emit(struct emit *e) {
    struct heads h = heads_of(&e->q);
    const struct operand *q = &e->in[0], *k = &e->in[1], *v = &e->in[2], *o = &e->out[0], *lse = &e->out[1];
    assert(!lse->address || lse->dtype == TENSOR_F32);
    int rq = tile_rows(&h, h.q_rows, h.planes <= 16 ? 4 : 2);
    struct plane_cut c = plane_cut(&h, 8);
    struct push_attn_flash p = {
        .q = ref_write(q), .k = ref_write(k), .v = ref_write(v), .o = ref_write(o), .lse = ref_write(lse),
        .q_stride = q->stride, .k_stride = k->stride, .v_stride = v->stride, .o_stride = o->stride, .lse_stride = lse->stride,
        .q_rows = h.q_rows, .k_rows = h.k_rows, .causal = e->q.node->attr.attn.causal,
        .scale = e->q.node->attr.attn.scale * LOG2_E};
    struct dispatch d = {.shader = "attn_flash", .spec = {(uint32_t)rq, (uint32_t)h.planes, (uint32_t)c.rp}, .n_spec = 3,
                         .push = &p, .push_bytes = sizeof p,
                         .storage_mask = f16_bit(q, 0) | f16_bit(k, 1) | f16_bit(v, 2) | f16_bit(o, 3),
                         .groups = {ceil_div(h.q_rows, 16 * rq) * (uint32_t)c.parts, (uint32_t)h.heads, (uint32_t)h.n}};
    emit_dispatch(e, &d);
}

/* --- gradient ------------------------------------------------------------------------------------- */
/* dk and dv: the queries are cut into slices where keys are few, and the slices' results summed. */
struct dkv_cut {
    int rq, slices, slice_rows;
    struct plane_cut planes;
    int64_t pair_bytes, part_bytes; /* scratch: per head and query; each of dk and dv */
};
static struct dkv_cut dkv_cut(const struct kernel_query *q) {
    struct heads h = heads_of(q);
    /* At most four planes: RADV keeps two accumulators of five in memory instead of registers. */
    struct dkv_cut c = {.rq = 2, .planes = plane_cut(&h, 4)};
    int tiles = (int)ceil_div(h.k_rows, 16 * c.rq) * c.planes.parts * h.heads * h.n,
        want = (int)ceil_div(GPU_ENOUGH_GROUPS, tiles);
    int most = (int)ceil_div(h.q_rows, 128);
    c.slices = want < most ? want : most;
    c.slice_rows = (int)ceil_div(ceil_div(h.q_rows, c.slices), TILE_COLUMNS) * TILE_COLUMNS;
    c.slices = (int)ceil_div(h.q_rows, c.slice_rows);
    c.pair_bytes = ((int64_t)h.heads * h.n * h.q_rows * 8 + 63) / 64 * 64;
    c.part_bytes = c.slices > 1 ? c.slices * shape_texels(graph_shape(q->g, q->node->in[1])) * 16 : 0;
    c.part_bytes = (c.part_bytes + 63) / 64 * 64;
    return c;
}

int64_t kern_gpu_attention_dx_scratch(const struct kernel_query *q) {
    struct dkv_cut c = dkv_cut(q);
    return c.pair_bytes + 2 * c.part_bytes;
}

static void emit_delta(struct emit *e, const struct heads *h, const struct operand *pairs) {
    const struct operand *o = &e->in[3], *lse = &e->in[4], *g = &e->in[5];
    struct push_attn_delta p = {.o = ref_write(o), .g = ref_write(g), .lse = ref_write(lse), .pairs = ref_write(pairs),
                                .o_stride = o->stride, .g_stride = g->stride, .lse_stride = lse->stride,
                                .rows = h->n * h->q_rows};
    struct dispatch d = {.shader = "attn_delta", .spec = {(uint32_t)h->planes}, .n_spec = 1, .push = &p,
                         .push_bytes = sizeof p, .storage_mask = f16_bit(o, 0) | f16_bit(g, 1) | f16_bit(lse, 2),
                         .groups = {ceil_div(p.rows, 64), (uint32_t)h->heads, 1}};
    emit_dispatch(e, &d);
    emit_barrier(e);
}

static struct push_attn_grad grad_push(const struct emit *e, const struct heads *h, const struct operand *pairs) {
    const struct operand *q = &e->in[0], *k = &e->in[1], *v = &e->in[2], *g = &e->in[5];
    return (struct push_attn_grad){
        .q = ref_write(q), .k = ref_write(k), .v = ref_write(v), .g = ref_write(g), .pairs = ref_write(pairs),
        .q_stride = q->stride, .k_stride = k->stride, .v_stride = v->stride, .g_stride = g->stride, .q_rows = h->q_rows,
        .k_rows = h->k_rows, .n = h->n, .causal = e->q.node->attr.attn.causal, .scale = e->q.node->attr.attn.scale};
}
static uint32_t grad_mask(const struct emit *e) {
    return f16_bit(&e->in[0], 0) | f16_bit(&e->in[1], 1) | f16_bit(&e->in[2], 2) | f16_bit(&e->in[5], 3);
}

static void emit_dq(struct emit *e, const struct heads *h, const struct operand *pairs) {
    const struct operand *dq = &e->out[0];
    struct push_attn_grad p = grad_push(e, h, pairs);
    p.y0 = ref_write(dq), p.y0_stride = dq->stride;
    int rq = tile_rows(h, h->q_rows, h->planes <= 16 ? 4 : 2);
    struct plane_cut c = plane_cut(h, 5);
    struct dispatch d = {.shader = "attn_dq", .spec = {(uint32_t)rq, (uint32_t)h->planes, (uint32_t)c.rp}, .n_spec = 3,
                         .push = &p, .push_bytes = sizeof p, .storage_mask = grad_mask(e) | f16_bit(dq, 4),
                         .groups = {ceil_div(h->q_rows, 16 * rq) * (uint32_t)c.parts, (uint32_t)h->heads, (uint32_t)h->n}};
    emit_dispatch(e, &d);
}

static void emit_dkv(struct emit *e, const struct heads *h, const struct operand *pairs) {
    struct dkv_cut c = dkv_cut(&e->q);
    const struct operand none = {0}, *out[2] = {&e->out[1], &e->out[2]};
    bool split = c.slices > 1;
    struct operand y[2];
    for (int i = 0; i < 2; i++)
        y[i] = split && out[i]->address ? operand_part(&e->scratch, c.pair_bytes + i * c.part_bytes, out[i]->stride) : *out[i];
    struct push_attn_grad p = grad_push(e, h, pairs);
    p.y0 = ref_write(&y[0]), p.y1 = ref_write(&y[1]), p.y0_stride = y[0].stride, p.y1_stride = y[1].stride;
    p.slice_rows = c.slice_rows;
    uint32_t want = (y[0].address ? 1u : 0) | (y[1].address ? 2u : 0);
    struct dispatch d = {.shader = "attn_dkv", .n_spec = 4, .push = &p,
                         .spec = {(uint32_t)c.rq, (uint32_t)h->planes, (uint32_t)c.planes.rp, want},
                         .push_bytes = sizeof p, .storage_mask = grad_mask(e) | f16_bit(&y[0], 4) | f16_bit(&y[1], 5),
                         .groups = {ceil_div(h->k_rows, 16 * c.rq) * (uint32_t)c.planes.parts, (uint32_t)h->heads,
                                    (uint32_t)(h->n * c.slices)}};
    emit_dispatch(e, &d);
    if (!split) return;
    emit_barrier(e);
    for (int i = 0; i < 2; i++)
        if (out[i]->address) kern_gpu_sum_slices(e, &y[i], c.slices, &none, &none, out[i]);
}

void kern_gpu_attention_dx_emit(struct emit *e) {
    struct heads h = heads_of(&e->q);
    struct operand pairs = operand_part(&e->scratch, 0, 1);
    emit_delta(e, &h, &pairs);
    if (e->out[0].address) emit_dq(e, &h, &pairs);
    if (e->out[1].address || e->out[2].address) emit_dkv(e, &h, &pairs);
}

/* --- heads that are no whole planes: no model has them, but the op allows it ------------------------- */
bool kern_gpu_attention_plain_fits(const struct kernel_query *q) { return !kern_gpu_attention_fits(q); }

enum plain_what { PLAIN_O, PLAIN_LSE, PLAIN_DQ, PLAIN_DK, PLAIN_DV };

static void emit_plain(struct emit *e, enum plain_what what, const struct operand *y) {
    if (!y->address) return;
    const struct operand *q = &e->in[0], *k = &e->in[1], *v = &e->in[2], *o = &e->in[3], *lse = &e->in[4], *g = &e->in[5];
    struct heads h = heads_of(&e->q);
    struct push_attn_plain p = {
        .q = ref_write(q), .k = ref_write(k), .v = ref_write(v), .o = ref_write(o), .lse = ref_write(lse), .g = ref_write(g),
        .y = ref_write(y), .q_stride = q->stride, .k_stride = k->stride, .v_stride = v->stride, .o_stride = o->stride,
        .lse_stride = lse->stride, .g_stride = g->stride, .y_stride = y->stride, .q_rows = h.q_rows, .k_rows = h.k_rows,
        .rows = (int)shape_rows(y->shape), .channels = q->shape.c, .y_channels = y->shape.c, .heads = h.heads,
        .causal = e->q.node->attr.attn.causal, .scale = e->q.node->attr.attn.scale};
    struct dispatch d = {.shader = "attn_plain", .spec = {(uint32_t)what}, .n_spec = 1, .push = &p, .push_bytes = sizeof p,
                         .storage_mask = f16_bit(q, 0) | f16_bit(k, 1) | f16_bit(v, 2) | f16_bit(o, 3) | f16_bit(lse, 4) |
                                         f16_bit(g, 5) | f16_bit(y, 6),
                         .groups = {ceil_div(p.rows, 64), (uint32_t)shape_planes(y->shape), 1}};
    emit_dispatch(e, &d);
}

void kern_gpu_attention_plain_emit(struct emit *e) {
    emit_plain(e, PLAIN_O, &e->out[0]);
    emit_plain(e, PLAIN_LSE, &e->out[1]);
}

void kern_gpu_attention_plain_dx_emit(struct emit *e) {
    for (int i = 0; i < 3; i++) emit_plain(e, (enum plain_what)(PLAIN_DQ + i), &e->out[i]);
}
