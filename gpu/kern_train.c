/* Embeddings, timestep sinusoids, the loss, gradient accumulation. */
#include "gpu/kernels_priv.h"
#include "gpu/push.h"
#include "shaders/push/embed.h"
#include "shaders/push/huber.h"
#include "shaders/push/mse.h"
#include "shaders/push/optimise.h"
#include "shaders/push/timestep.h"

void kern_embed(struct emit *e) {
    const struct operand *ids = &e->in[0], *table = &e->in[1], *positions = &e->in[2], *y = &e->out[0];
    bool has_positions = positions->address != 0;
    struct push_embed push = {.ids = ref_read(e, ids), .table = ref_read(e, table), .y = ref_write(y),
                              .rows = (int)shape_rows(ids->shape), .tokens = ids->shape.h * ids->shape.w,
                              .vocabulary = (int)shape_rows(table->shape), .table_stride = table->stride,
                              .y_stride = y->stride};
    if (has_positions) push.positions = ref_read(e, positions), push.positions_stride = positions->stride;
    const struct operand *reads[3] = {ids, table, has_positions ? positions : NULL};
    struct dispatch d = {.shader = "embed", .spec = {has_positions}, .n_spec = 1, .push = &push, .push_bytes = sizeof push,
                         .reads = {ids, table, reads[2]}, .n_reads = 3, .storage_mask = storage_mask(reads, 3, &y, 1),
                         .groups = {ceil_div(push.rows, 64), (uint32_t)shape_planes(y->shape), 1}};
    emit_dispatch(e, &d);
}

void kern_embed_dw(struct emit *e) {
    const struct operand *ids = &e->in[0], *g = &e->in[1], *y = &e->out[0], *reads[2] = {ids, g};
    struct push_embed push = {.ids = ref_read(e, ids), .table = ref_read(e, g), .y = ref_write(y),
                              .rows = (int)shape_rows(ids->shape), .vocabulary = (int)shape_rows(y->shape),
                              .table_stride = g->stride, .y_stride = y->stride};
    struct dispatch d = {.shader = "embed_dw", .push = &push, .push_bytes = sizeof push, .reads = {ids, g}, .n_reads = 2,
                         .storage_mask = storage_mask(reads, 2, &y, 1),
                         .groups = {ceil_div(push.vocabulary, 64), (uint32_t)shape_planes(y->shape), 1}};
    emit_dispatch(e, &d);
}

void kern_timestep(struct emit *e) {
    const struct operand *t = &e->in[0], *y = &e->out[0];
    struct push_timestep push = {ref_read(e, t), ref_write(y), (int)shape_rows(t->shape), y->shape.c, y->stride,
                                 e->q.node->attr.timestep.flip_sin_to_cos, e->q.node->attr.timestep.freq_shift};
    struct dispatch d = {.shader = "timestep", .push = &push, .push_bytes = sizeof push, .reads = {t}, .n_reads = 1,
                         .storage_mask = storage_mask(&t, 1, &y, 1),
                         .groups = {ceil_div(push.n, 64), (uint32_t)shape_planes(y->shape), 1}};
    emit_dispatch(e, &d);
}

static struct push_mse mse_push(const struct emit *e, const struct operand *a, const struct operand *b,
                                const struct operand *y) {
    struct shape s = a->shape;
    return (struct push_mse){.a = ref_read(e, a), .b = ref_read(e, b), .y = ref_write(y), .rows = s.h * s.w,
                             .planes = shape_planes(s), .a_stride = a->stride, .b_stride = b->stride, .y_stride = y->stride,
                             .n = s.n, .scale = 1.0f / ((float)s.h * (float)s.w * (float)s.c)};
}

void kern_mse(struct emit *e) {
    const struct operand *a = &e->in[0], *b = &e->in[1], *y = &e->out[0], *reads[2] = {a, b};
    struct push_mse push = mse_push(e, a, b, y);
    struct dispatch d = {.shader = "mse", .push = &push, .push_bytes = sizeof push, .reads = {a, b}, .n_reads = 2,
                         .storage_mask = storage_mask(reads, 2, &y, 1), .groups = {(uint32_t)push.n, 1, 1}};
    emit_dispatch(e, &d);
}

void kern_mse_dx(struct emit *e) {
    const struct operand *seed = &e->in[0], *a = &e->in[1], *b = &e->in[2], *y = &e->out[0], *reads[3] = {a, b, seed};
    struct push_mse push = mse_push(e, a, b, y);
    push.seed = ref_read(e, seed);
    push.scale *= 2;
    struct dispatch d = {.shader = "mse_dx", .push = &push, .push_bytes = sizeof push, .reads = {a, b, seed}, .n_reads = 3,
                         .storage_mask = storage_mask(reads, 3, &y, 1),
                         .groups = {ceil_div(shape_rows(y->shape), 64), (uint32_t)push.planes, 1}};
    emit_dispatch(e, &d);
}

/* in: prediction, target, hyper, [mask] from the given input on. */
static struct push_huber huber_push(const struct emit *e, const struct operand *in, const struct operand *y) {
    struct shape s = in[0].shape;
    return (struct push_huber){.a = ref_read(e, &in[0]), .b = ref_read(e, &in[1]), .hyper = ref_read(e, &in[2]),
                               .mask = in[3].address ? ref_read(e, &in[3]) : (struct ref){0, 0}, .y = ref_write(y),
                               .rows = s.h * s.w, .planes = shape_planes(s), .a_stride = in[0].stride, .b_stride = in[1].stride,
                               .mask_stride = in[3].stride, .y_stride = y->stride, .n = s.n,
                               .scale = 1.0f / ((float)s.h * (float)s.w * (float)s.c)};
}

void kern_huber(struct emit *e) {
    const struct operand *in = e->in, *y = &e->out[0], *mask = in[3].address ? &in[3] : NULL;
    const struct operand *reads[4] = {&in[0], &in[1], &in[2], mask};
    struct push_huber push = huber_push(e, in, y);
    struct dispatch d = {.shader = "huber", .spec = {mask != NULL}, .n_spec = 1, .push = &push, .push_bytes = sizeof push,
                         .reads = {&in[0], &in[1], &in[2], mask}, .n_reads = 4, .storage_mask = storage_mask(reads, 4, &y, 1),
                         .groups = {(uint32_t)push.n, 1, 1}};
    emit_dispatch(e, &d);
}

void kern_huber_dx(struct emit *e) {
    const struct operand *seed = &e->in[0], *in = e->in + 1, *y = &e->out[0], *mask = in[3].address ? &in[3] : NULL;
    const struct operand *reads[5] = {&in[0], &in[1], &in[2], mask, seed};
    struct push_huber push = huber_push(e, in, y);
    push.seed = ref_read(e, seed);
    struct dispatch d = {.shader = "huber_dx", .spec = {mask != NULL}, .n_spec = 1, .push = &push, .push_bytes = sizeof push,
                         .reads = {&in[0], &in[1], &in[2], mask, seed}, .n_reads = 5,
                         .storage_mask = storage_mask(reads, 5, &y, 1),
                         .groups = {ceil_div(shape_rows(y->shape), 64), (uint32_t)push.planes, 1}};
    emit_dispatch(e, &d);
}

enum { SUM_PARTS = 64 };

int64_t kern_sum_squares_scratch(const struct kernel_query *q) { return SUM_PARTS * 16; }

void kern_sum_squares(struct emit *e) {
    const struct operand *x = &e->in[0], *total = e->in[1].address ? &e->in[1] : NULL, *y = &e->out[0], *part = &e->scratch;
    struct push_optimise push = {.grad = ref_read(e, x), .param_out = ref_write(part), .texels = (int)shape_texels(x->shape)};
    push.per_group = (int)ceil_div(push.texels, SUM_PARTS);
    push.n_parts = SUM_PARTS;
    struct dispatch d = {.shader = "sum_squares", .spec = {0, 0}, .n_spec = 2, .push = &push, .push_bytes = sizeof push,
                         .reads = {x}, .n_reads = 1, .storage_mask = storage_mask(&x, 1, &part, 1),
                         .groups = {SUM_PARTS, 1, 1}};
    emit_dispatch(e, &d);
    emit_barrier(e);
    push.grad = ref_read(e, part), push.param_out = ref_write(y);
    if (total) push.more = ref_read(e, total);
    const struct operand *reads[2] = {part, total};
    d = (struct dispatch){.shader = "sum_squares", .spec = {1, total != NULL}, .n_spec = 2, .push = &push,
                          .push_bytes = sizeof push, .reads = {part, total}, .n_reads = 2,
                          .storage_mask = storage_mask(reads, 2, &y, 1), .groups = {1, 1, 1}};
    emit_dispatch(e, &d);
}

static void accumulate(struct emit *e, bool average) {
    const struct operand *y = &e->out[0], *reads[3] = {&e->in[0], &e->in[1], &e->in[2]};
    struct push_optimise push = {.param = ref_read(e, reads[0]), .grad = ref_read(e, reads[1]), .hyper = ref_read(e, reads[2]),
                                 .param_out = ref_write(y), .texels = (int)shape_texels(y->shape)};
    struct dispatch d = {.shader = "accumulate", .spec = {average}, .n_spec = 1, .push = &push, .push_bytes = sizeof push,
                         .reads = {reads[0], reads[1], reads[2]}, .n_reads = 3,
                         .storage_mask = storage_mask(reads, 3, &y, 1)};
    kern_flat_groups(&d, push.texels);
    emit_dispatch(e, &d);
}

void kern_accumulate(struct emit *e) { accumulate(e, false); }
void kern_ema(struct emit *e) { accumulate(e, true); }
