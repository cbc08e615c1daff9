/* Attention of the cpu class from products: scores of a block of problems or rows at a time, so that
 * scratch stays bounded however long the sequence. A problem is one head of one image. */
#include "gpu/kern_cpu.h"
#include "gpu/push.h"
#include "shaders/push/attention.h"

enum { SCORE_TEXELS = 1 << 21 }; /* of one block: 32 MiB */

struct plan {
    int n, heads, head_c, head_planes, /* channels and planes of a head */
        rows, keys, key_planes;
    float scale;
    bool causal;
    int inner, outer, block_rows; /* problems (heads, images) and rows per block */
    int64_t score_stride, score_step, stats_step;
};

static struct plan make_plan(const struct kernel_query *q) {
    struct shape qs = graph_shape(q->g, q->node->in[0]), ks = graph_shape(q->g, q->node->in[1]);
    struct plan p = {.n = qs.n, .heads = q->node->attr.attn.heads, .rows = qs.h * qs.w, .keys = ks.h * ks.w,
                     .scale = q->node->attr.attn.scale, .causal = q->node->attr.attn.causal};
    p.head_c = qs.c / p.heads;
    p.head_planes = (p.head_c + 3) / 4;
    p.key_planes = (p.keys + 3) / 4;
    int64_t whole = shape_plane((struct shape){1, 1, p.rows, p.keys}) * p.key_planes;
    p.block_rows = p.rows;
    p.inner = whole * p.heads <= SCORE_TEXELS ? p.heads : 1;
    p.outer = p.inner == p.heads && whole * p.heads * p.n <= SCORE_TEXELS ? p.n : 1;
    if (whole > SCORE_TEXELS) {
        p.block_rows = SCORE_TEXELS / p.key_planes / 32 * 32;
        if (p.block_rows < 32) p.block_rows = 32;
        if (p.block_rows > p.rows) p.block_rows = p.rows;
    }
    p.score_stride = shape_plane((struct shape){1, 1, p.block_rows, p.keys});
    p.score_step = p.score_stride * p.key_planes;
    p.stats_step = (p.rows + 3) / 4 * 4;
    return p;
}

/* --- scratch: stats, scores, then for the gradient their gradient and the parts of dK and dV -------- */
static int64_t stats_bytes(const struct plan *p) { return p->stats_step * p->n * p->heads * 16; }
static int64_t scores_bytes(const struct plan *p) { return p->score_step * p->inner * p->outer * 16; }

static struct operand shifted(const struct operand *o, int64_t texels) {
    struct operand s = *o;
    s.address += (uint64_t)texels * 16;
    s.texel += (int32_t)texels;
    return s;
}

/* One block: first problem, problems, first row, rows. */
struct block {
    int z0, image, head, row0, rows;
};

static struct push_attention block_push(const struct plan *p, const struct block *b) {
    return (struct push_attention){
        .z0 = b->z0, .heads = p->heads, .row0 = b->row0, .rows = b->rows, .row_count = p->rows, .keys = p->keys,
        .s_stride = (int32_t)p->score_stride, .s_step = (int32_t)p->score_step, .stats_step = (int32_t)p->stats_step,
        .scale = p->scale,
    };
}

/* The block's part of q-like (rows) or k-like (keys) operands. */
static struct operand rows_of(const struct plan *p, const struct block *b, const struct operand *o) {
    return shifted(o, (int64_t)b->head * p->head_planes * o->stride + (int64_t)b->image * p->rows + b->row0);
}
static struct operand keys_of(const struct plan *p, const struct block *b, const struct operand *o) {
    return shifted(o, (int64_t)b->head * p->head_planes * o->stride + (int64_t)b->image * p->keys);
}

/* scores = x*k' */
static void emit_scores(struct emit *e, const struct plan *p, const struct block *b, const struct operand *x,
                        const struct operand *k, const struct operand *scores) {
    struct operand xb = rows_of(p, b, x), kb = keys_of(p, b, k);
    cpu_gemm_emit(e, &(struct cpu_gemm){
        .x = &xb, .w = &kb, .y = scores, .rows = b->rows, .c_in = p->head_planes * 4, .c_out = p->keys,
        .inner = p->inner, .outer = p->outer, .x_step = (int64_t)p->head_planes * x->stride, .x_outer = p->rows,
        .w_step = (int64_t)p->head_planes * k->stride, .w_outer = p->keys,
        .y_step = p->score_step, .y_outer = p->score_step * p->inner,
    });
}
/* y = scores*k */
static void emit_mix(struct emit *e, const struct plan *p, const struct block *b, const struct operand *scores,
                     const struct operand *k, const struct operand *y) {
    struct operand kb = keys_of(p, b, k), yb = rows_of(p, b, y);
    cpu_gemm_emit(e, &(struct cpu_gemm){
        .x = scores, .w = &kb, .y = &yb, .rows = b->rows, .c_in = p->keys, .c_out = p->head_planes * 4, .trans = 1,
        .inner = p->inner, .outer = p->outer, .x_step = p->score_step, .x_outer = p->score_step * p->inner,
        .w_step = (int64_t)p->head_planes * k->stride, .w_outer = p->keys,
        .y_step = (int64_t)p->head_planes * y->stride, .y_outer = p->rows,
    });
}

/* y = scores'*x, summed over the row blocks of a problem. Operands NULL where only sizes count. */
static struct cpu_tn gather(const struct plan *p, int rows) {
    return (struct cpu_tn){
        .a_shape = {1, 1, rows, p->keys}, .b_shape = {1, 1, rows, p->head_planes * 4}, .inner = p->inner, .outer = p->outer,
        .a_step = p->score_step, .a_outer = p->score_step * p->inner, .b_outer = p->rows, .y_outer = p->keys,
    };
}
static void emit_gather(struct emit *e, const struct plan *p, const struct block *b, const struct operand *scores,
                        const struct operand *x, const struct operand *y, const struct operand *parts) {
    struct operand xb = rows_of(p, b, x), yb = keys_of(p, b, y);
    struct cpu_tn t = gather(p, b->rows);
    t.a = scores, t.b = &xb, t.y = &yb;
    t.acc = b->row0 ? &yb : NULL;
    t.b_step = (int64_t)p->head_planes * x->stride;
    t.y_step = (int64_t)p->head_planes * y->stride;
    cpu_tn_emit(e, &t, parts);
}

static void emit_sum(struct emit *e, const struct plan *p, const struct block *b, const struct operand *scores,
                     const struct operand *stats) {
    struct push_attention push = block_push(p, b);
    push.s = ref_read(e, scores);
    push.stats = ref_write(stats);
    struct dispatch d = {.shader = "attention_sum", .spec = {p->causal}, .n_spec = 1, .push = &push, .push_bytes = sizeof push,
                         .reads = {scores}, .n_reads = 1,
                         .groups = {ceil_div(b->rows, e->q.caps->subgroup), (uint32_t)(p->inner * p->outer), 1}};
    emit_dispatch(e, &d);
}

static void emit_weights(struct emit *e, const struct plan *p, const struct block *b, const struct operand *scores,
                         const struct operand *slopes, const struct operand *stats) {
    struct push_attention push = block_push(p, b);
    push.s = ref_read(e, scores);
    push.s_out = ref_write(scores);
    if (slopes) {
        push.ds = ref_read(e, slopes);
        push.ds_out = ref_write(slopes);
    }
    push.stats = ref_read(e, stats);
    struct dispatch d = {.shader = "attention_weights", .spec = {p->causal, slopes != NULL}, .n_spec = 2, .push = &push,
                         .push_bytes = sizeof push, .reads = {scores, slopes, stats}, .n_reads = 3,
                         .groups = {ceil_div(b->rows, e->q.caps->subgroup), (uint32_t)p->key_planes,
                                    (uint32_t)(p->inner * p->outer)}};
    emit_dispatch(e, &d);
}

/* Calls `fn` for every block. */
static void each_block(struct emit *e, const struct plan *p, void *ctx,
                       void (*fn)(struct emit *e, const struct plan *p, const struct block *b, void *ctx)) {
    for (int z = 0; z < p->n * p->heads; z += p->inner * p->outer)
        for (int row = 0; row < p->rows; row += p->block_rows) {
            int rows = p->rows - row < p->block_rows ? p->rows - row : p->block_rows;
            struct block b = {z, z / p->heads, z % p->heads, row, rows};
            fn(e, p, &b, ctx);
            emit_barrier(e);
        }
}

/* --- forward --------------------------------------------------------------------------------------- */
bool cpu_attention_fits(const struct kernel_query *q) {
    return graph_shape(q->g, q->node->in[0]).c / q->node->attr.attn.heads % 4 == 0;
}
int64_t cpu_attention_scratch(const struct kernel_query *q) {
    struct plan p = make_plan(q);
    return stats_bytes(&p) + scores_bytes(&p);
}

struct forward {
    struct operand stats, scores;
};
static void forward_block(struct emit *e, const struct plan *p, const struct block *b, void *ctx) {
    struct forward *f = ctx;
    emit_scores(e, p, b, &e->in[0], &e->in[1], &f->scores);
    emit_barrier(e);
    emit_sum(e, p, b, &f->scores, &f->stats);
    emit_barrier(e);
    emit_weights(e, p, b, &f->scores, NULL, &f->stats);
    emit_barrier(e);
    emit_mix(e, p, b, &f->scores, &e->in[2], &e->out[0]);
}

static void emit_lse(struct emit *e, const struct plan *p, const struct operand *stats) {
    const struct operand *lse = &e->out[1];
    struct push_attention push = block_push(p, &(struct block){0});
    push.stats = ref_read(e, stats);
    push.lse = ref_write(lse);
    push.lse_stride = lse->stride;
    struct dispatch d = {.shader = "attention_lse", .push = &push, .push_bytes = sizeof push, .reads = {stats}, .n_reads = 1,
                         .groups = {ceil_div(p->rows, e->q.caps->subgroup), (uint32_t)(p->heads + 3) / 4, (uint32_t)p->n}};
    emit_dispatch(e, &d);
}

void cpu_attention_emit(struct emit *e) {
    struct plan p = make_plan(&e->q);
    struct forward f = {operand_part(&e->scratch, 0, 1),
                        operand_part(&e->scratch, stats_bytes(&p), (int32_t)p.score_stride)};
    each_block(e, &p, &f, forward_block);
    if (e->out[1].address) emit_lse(e, &p, &f.stats);
}

/* --- forward in one pass: heads narrow enough for the loop's code to stay in the instruction cache ----- */
enum { FLASH_KEYS = 65000 }; /* lavapipe leaves loops after 65535 rounds, inner ones counted; here two for two keys or three */
bool cpu_flash_fits(const struct kernel_query *q) {
    struct shape keys = graph_shape(q->g, q->node->in[1]);
    int width = graph_shape(q->g, q->node->in[0]).c / q->node->attr.attn.heads;
    return width % 4 == 0 && width <= 96 && !q->node->attr.attn.causal && (int64_t)keys.h * keys.w <= FLASH_KEYS;
}
int64_t cpu_flash_scratch(const struct kernel_query *q) {
    struct plan p = make_plan(q);
    return stats_bytes(&p);
}
void cpu_flash_emit(struct emit *e) {
    struct plan p = make_plan(&e->q);
    const struct operand *q = &e->in[0], *k = &e->in[1], *v = &e->in[2], *o = &e->out[0];
    struct operand stats = operand_part(&e->scratch, 0, 1);
    struct push_flash push = {
        .q = ref_read(e, q), .k = ref_read(e, k), .v = ref_read(e, v), .o = ref_write(o), .stats = ref_write(&stats),
        .heads = p.heads, .rows = p.rows, .keys = p.keys, .q_stride = q->stride, .k_stride = k->stride,
        .v_stride = v->stride, .o_stride = o->stride, .stats_step = (int32_t)p.stats_step, .scale = p.scale,
    };
    /* Measured: the most reuse whose code still fits. */
    int frags = p.head_planes <= 12 ? 4 : 3, keys = p.head_planes <= 12 ? 3 : 2;
    struct dispatch d = {.shader = "attention_flash", .n_spec = 3,
                         .spec = {(uint32_t)p.head_planes, (uint32_t)frags, (uint32_t)keys},
                         .push = &push, .push_bytes = sizeof push, .reads = {q, k, v}, .n_reads = 3,
                         .groups = {ceil_div(p.rows, frags * (int64_t)e->q.caps->subgroup), (uint32_t)p.heads, (uint32_t)p.n}};
    emit_dispatch(e, &d);
    if (!e->out[1].address) return; /* graph_prune strikes sums that nobody reads */
    emit_barrier(e);
    emit_lse(e, &p, &stats);
}

/* --- gradient -------------------------------------------------------------------------------------- */
int64_t cpu_attention_dx_scratch(const struct kernel_query *q) {
    struct plan p = make_plan(q);
    struct cpu_tn t = gather(&p, p.block_rows);
    t.acc = &(struct operand){0};
    return stats_bytes(&p) + 2 * scores_bytes(&p) + cpu_tn_parts_bytes(q, &t);
}

struct backward {
    struct operand stats, scores, slopes, parts;
};
static void emit_delta(struct emit *e, const struct plan *p, const struct block *b, const struct backward *w) {
    const struct operand *lse = &e->in[4];
    struct push_attention push = block_push(p, b);
    push.s = ref_read(e, &w->scores);
    push.ds = ref_read(e, &w->slopes);
    push.lse = ref_read(e, lse);
    push.stats = ref_write(&w->stats);
    push.lse_stride = lse->stride;
    struct dispatch d = {.shader = "attention_delta", .spec = {p->causal}, .n_spec = 1, .push = &push,
                         .push_bytes = sizeof push, .reads = {&w->scores, &w->slopes, lse}, .n_reads = 3,
                         .groups = {ceil_div(b->rows, e->q.caps->subgroup), (uint32_t)(p->inner * p->outer), 1}};
    emit_dispatch(e, &d);
}
static void backward_block(struct emit *e, const struct plan *p, const struct block *b, void *ctx) {
    struct backward *w = ctx;
    const struct operand *q = &e->in[0], *k = &e->in[1], *v = &e->in[2], *g = &e->in[5];
    const struct operand *dq = &e->out[0], *dk = &e->out[1], *dv = &e->out[2];
    emit_scores(e, p, b, q, k, &w->scores);
    emit_scores(e, p, b, g, v, &w->slopes);
    emit_barrier(e);
    emit_delta(e, p, b, w);
    emit_barrier(e);
    emit_weights(e, p, b, &w->scores, &w->slopes, &w->stats);
    emit_barrier(e);
    if (dq->address) emit_mix(e, p, b, &w->slopes, k, dq);
    if (dk->address) emit_gather(e, p, b, &w->slopes, q, dk, &w->parts);
    if (dk->address && dv->address) emit_barrier(e); /* the parts are used again */
    if (dv->address) emit_gather(e, p, b, &w->scores, g, dv, &w->parts);
}

void cpu_attention_dx_emit(struct emit *e) {
    struct plan p = make_plan(&e->q);
    int64_t stats = stats_bytes(&p), scores = scores_bytes(&p);
    struct backward w = {operand_part(&e->scratch, 0, 1), operand_part(&e->scratch, stats, (int32_t)p.score_stride),
                         operand_part(&e->scratch, stats + scores, (int32_t)p.score_stride),
                         operand_part(&e->scratch, stats + 2 * scores, 1)};
    each_block(e, &p, &w, backward_block);
}

/* --- gradient in one pass for the queries and one for keys and values --------------------------------- */
/* Measured: four arrays of FRAGS heads are kept, and the code is twice the forward pass's; wider heads run faster in blocks. */
enum { FLASH_DX_FRAGS = 2, FLASH_DX_WIDTH = 64 };
enum { FLASH_DX_ROWS = 43000 }; /* as FLASH_KEYS; here three rounds for two rows or three */
static uint32_t flash_dx_others(const struct plan *p) { return p->head_planes <= 10 ? 3 : 2; } /* keys or rows at a time */

bool cpu_flash_dx_fits(const struct kernel_query *q) {
    struct shape rows = graph_shape(q->g, q->node->in[0]);
    int width = rows.c / q->node->attr.attn.heads;
    return cpu_flash_fits(q) && width <= FLASH_DX_WIDTH && (int64_t)rows.h * rows.w <= FLASH_DX_ROWS;
}

static void emit_flash_dq(struct emit *e, const struct plan *p, const struct operand *stats) {
    const struct operand *q = &e->in[0], *k = &e->in[1], *v = &e->in[2], *o = &e->in[3], *lse = &e->in[4], *g = &e->in[5],
                         *dq = &e->out[0];
    struct push_flash_dq push = {
        .q = ref_read(e, q), .k = ref_read(e, k), .v = ref_read(e, v), .g = ref_read(e, g), .o = ref_read(e, o),
        .lse = ref_read(e, lse), .dq = ref_write(dq), .stats = ref_write(stats), .heads = p->heads, .rows = p->rows,
        .keys = p->keys, .q_stride = q->stride, .k_stride = k->stride, .v_stride = v->stride, .g_stride = g->stride,
        .o_stride = o->stride, .lse_stride = lse->stride, .dq_stride = dq->stride, .stats_step = (int32_t)p->stats_step,
        .scale = p->scale,
    };
    struct dispatch d = {.shader = "attention_flash_dq", .n_spec = 3,
                         .spec = {(uint32_t)p->head_planes, FLASH_DX_FRAGS, flash_dx_others(p)},
                         .push = &push, .push_bytes = sizeof push, .reads = {q, k, v, g, o, lse}, .n_reads = 6,
                         .groups = {ceil_div(p->rows, FLASH_DX_FRAGS * (int64_t)e->q.caps->subgroup), (uint32_t)p->heads,
                                    (uint32_t)p->n}};
    emit_dispatch(e, &d);
}
static void emit_flash_dkv(struct emit *e, const struct plan *p, const struct operand *stats) {
    const struct operand *q = &e->in[0], *k = &e->in[1], *v = &e->in[2], *g = &e->in[5], *dk = &e->out[1], *dv = &e->out[2];
    struct push_flash_dkv push = {
        .q = ref_read(e, q), .k = ref_read(e, k), .v = ref_read(e, v), .g = ref_read(e, g), .stats = ref_read(e, stats),
        .dk = ref_write(dk), .dv = ref_write(dv), .heads = p->heads, .rows = p->rows, .keys = p->keys, .q_stride = q->stride,
        .k_stride = k->stride, .v_stride = v->stride, .g_stride = g->stride, .dk_stride = dk->stride, .dv_stride = dv->stride,
        .stats_step = (int32_t)p->stats_step, .scale = p->scale,
    };
    struct dispatch d = {.shader = "attention_flash_dkv", .n_spec = 3,
                         .spec = {(uint32_t)p->head_planes, FLASH_DX_FRAGS, flash_dx_others(p)},
                         .push = &push, .push_bytes = sizeof push, .reads = {q, k, v, g, stats}, .n_reads = 5,
                         .groups = {ceil_div(p->keys, FLASH_DX_FRAGS * (int64_t)e->q.caps->subgroup), (uint32_t)p->heads,
                                    (uint32_t)p->n}};
    emit_dispatch(e, &d);
}
void cpu_flash_dx_emit(struct emit *e) {
    struct plan p = make_plan(&e->q);
    struct operand stats = operand_part(&e->scratch, 0, 1);
    emit_flash_dq(e, &p, &stats);
    if (!e->out[1].address && !e->out[2].address) return;
    emit_barrier(e);
    emit_flash_dkv(e, &p, &stats);
}

/* --- heads that are no whole number of planes wide: the same on spread copies ------------------------ */
static struct shape spread_shape(const struct kernel_query *q, int value) {
    struct shape s = graph_shape(q->g, value);
    int heads = q->node->attr.attn.heads;
    s.c = (s.c / heads + 3) / 4 * 4 * heads;
    return s;
}
/* q, k, v and the gradient; its delta comes from the scores, so the output is not read, and sums are one number a head. */
static bool is_spread(int in) { return in < 3 || in == 5; }

static int64_t spread_bytes(const struct kernel_query *q) {
    int64_t texels = 0;
    for (int i = 0; i < q->node->n_in; i++)
        if (is_spread(i)) texels += (shape_texels(spread_shape(q, q->node->in[i])) + 3) / 4 * 4;
    int n_out = q->node->op == OP_ATTENTION ? 1 : 3;
    for (int i = 0; i < n_out; i++)
        if (q->node->out[i] >= 0) texels += (shape_texels(spread_shape(q, q->node->out[i])) + 3) / 4 * 4;
    return texels * 16;
}
int64_t cpu_attention_spread_scratch(const struct kernel_query *q) {
    return spread_bytes(q) + (q->node->op == OP_ATTENTION ? cpu_attention_scratch(q) : cpu_attention_dx_scratch(q));
}

static void emit_repack(struct emit *e, const struct operand *from, const struct operand *to) {
    int heads = e->q.node->attr.attn.heads;
    struct push_repack push = {
        .from = ref_read(e, from), .to = ref_write(to), .from_stride = from->stride, .to_stride = to->stride,
        .rows = (int32_t)shape_rows(to->shape), .from_width = from->shape.c / heads, .to_width = to->shape.c / heads,
        .channels = to->shape.c,
    };
    struct dispatch d = {.shader = "attention_repack", .push = &push, .push_bytes = sizeof push, .reads = {from}, .n_reads = 1,
                         .groups = {ceil_div(push.rows, e->q.caps->subgroup), (uint32_t)shape_planes(to->shape), 1}};
    emit_dispatch(e, &d);
}

void cpu_attention_spread_emit(struct emit *e) {
    struct emit inner = *e;
    int64_t offset = 0;
    for (int i = 0; i < e->q.node->n_in + 3; i++) {
        bool input = i < e->q.node->n_in;
        int out = i - e->q.node->n_in, value = input ? e->q.node->in[i] : out < e->q.node->n_out ? e->q.node->out[out] : -1;
        if (value < 0 || (input ? !is_spread(i) : e->q.node->op == OP_ATTENTION && out)) continue;
        struct operand *o = input ? &inner.in[i] : &inner.out[out];
        *o = operand_part(&e->scratch, offset, 0);
        o->shape = spread_shape(&e->q, value);
        o->stride = (int32_t)shape_stride(o->shape);
        offset += (shape_texels(o->shape) + 3) / 4 * 64;
        if (input) emit_repack(e, &e->in[i], o);
    }
    inner.scratch = operand_part(&e->scratch, offset, 1);
    emit_barrier(e);
    if (e->q.node->op == OP_ATTENTION) cpu_attention_emit(&inner);
    else cpu_attention_dx_emit(&inner);
    emit_barrier(e);
    for (int i = 0; i < 3; i++)
        if (inner.out[i].address && inner.out[i].address != e->out[i].address) emit_repack(e, &inner.out[i], &e->out[i]);
}
