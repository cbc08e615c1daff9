/* Group norm (three passes), layer norm (one invocation a row), row sums. */
#include "gpu/kernels_priv.h"
#include "gpu/push.h"
#include "shaders/push/group_norm.h"
#include "shaders/push/layer_norm.h"
#include "shaders/push/row_sum.h"

/* Scratch: two texels per image and plane, then one per image and pair of groups. */
static int64_t part_bytes(struct shape x) { return ((int64_t)x.n * shape_planes(x) * 2 * 16 + 63) / 64 * 64; }

int64_t kern_group_norm_scratch(const struct kernel_query *q) {
    int x = q->node->op == OP_GROUP_NORM ? q->node->in[0] : q->node->in[1];
    struct shape s = q->g->values[x].shape;
    return part_bytes(s) + (int64_t)s.n * ((q->node->attr.gnorm.groups + 1) / 2) * 16;
}

static struct push_group_norm group_push(const struct emit *e, const struct operand *x) {
    const union op_attr *a = &e->q.node->attr;
    return (struct push_group_norm){.x = ref_read(e, x), .n = x->shape.n, .rows = x->shape.h * x->shape.w,
                                    .planes = shape_planes(x->shape), .groups = a->gnorm.groups, .channels = x->shape.c,
                                    .x_stride = x->stride, .eps = a->gnorm.eps};
}

struct pass {
    const char *shader;
    struct push_group_norm *push;
    const struct operand *reads[6];
    int n_reads;
    const struct operand *results[2];
    int n_results;
    int silu; /* -1: the shader has no such constant */
    uint32_t groups[3];
};

static void run_pass(struct emit *e, const struct pass *p) {
    struct dispatch d = {.shader = p->shader, .n_spec = p->silu >= 0, .spec = {p->silu > 0}, .push = p->push,
                         .push_bytes = sizeof *p->push, .n_reads = p->n_reads,
                         .storage_mask = storage_mask(p->reads, p->n_reads, p->results, p->n_results)};
    for (int i = 0; i < p->n_reads; i++) d.reads[i] = p->reads[i];
    for (int i = 0; i < 3; i++) d.groups[i] = p->groups[i];
    emit_dispatch(e, &d);
}

void kern_group_norm(struct emit *e) {
    const struct operand *x = &e->in[0], *gamma = &e->in[1], *beta = &e->in[2], *y = &e->out[0];
    struct push_group_norm push = group_push(e, x);
    uint32_t pairs = (uint32_t)(push.groups + 1) / 2, n = (uint32_t)push.n, planes = (uint32_t)push.planes;
    /* Stats go to their own result when the backward pass wants them, else to scratch. */
    struct operand stats = e->out[1];
    if (!stats.address) stats = operand_part(&e->scratch, part_bytes(x->shape), push.n);
    push.partial = ref_write(&e->scratch);
    run_pass(e, &(struct pass){"group_norm_part", &push, {x}, 1, {&e->scratch}, 1, -1, {planes, n, 1}});
    emit_barrier(e);
    push.partial = ref_read(e, &e->scratch);
    push.stats = ref_write(&stats), push.stats_stride = stats.stride;
    run_pass(e, &(struct pass){"group_norm_stats", &push, {&e->scratch}, 1, {&stats}, 1, -1, {ceil_div(pairs, 64), n, 1}});
    emit_barrier(e);
    push.stats = ref_read(e, &stats);
    push.gamma = ref_read(e, gamma), push.beta = ref_read(e, beta);
    push.y = ref_write(y), push.y_stride = y->stride;
    run_pass(e, &(struct pass){"group_norm_apply", &push, {x, NULL, &stats, gamma, beta}, 5, {y}, 1,
                               e->q.node->attr.gnorm.silu, {ceil_div(push.rows, 512), planes, n}});
}

/* g, x, stats, gamma, beta: sums per channel into scratch. */
static struct push_group_norm dx_part(struct emit *e) {
    const struct operand *g = &e->in[0], *x = &e->in[1], *stats = &e->in[2], *gamma = &e->in[3], *beta = &e->in[4];
    struct push_group_norm push = group_push(e, x);
    push.g = ref_read(e, g), push.g_stride = g->stride;
    push.stats = ref_read(e, stats), push.stats_stride = stats->stride;
    push.gamma = ref_read(e, gamma), push.beta = ref_read(e, beta);
    push.partial = ref_write(&e->scratch);
    run_pass(e, &(struct pass){"group_norm_dx_part", &push, {x, g, stats, gamma, beta}, 5, {&e->scratch}, 1,
                               e->q.node->attr.gnorm.silu, {(uint32_t)push.planes, (uint32_t)push.n, 1}});
    emit_barrier(e);
    return push;
}

void kern_group_norm_dx(struct emit *e) {
    const struct operand *g = &e->in[0], *x = &e->in[1], *stats = &e->in[2], *gamma = &e->in[3], *beta = &e->in[4];
    struct push_group_norm push = dx_part(e);
    struct operand means = operand_part(&e->scratch, part_bytes(x->shape), push.n);
    push.partial = ref_read(e, &e->scratch);
    push.y = ref_write(&means), push.y_stride = push.n;
    run_pass(e, &(struct pass){"group_norm_dx_group", &push, {&e->scratch, gamma}, 2, {&means}, 1, -1,
                               {ceil_div((push.groups + 1) / 2, 64), (uint32_t)push.n, 1}});
    emit_barrier(e);
    push.partial = ref_read(e, &means);
    push.y = ref_write(&e->out[0]), push.y_stride = e->out[0].stride;
    run_pass(e, &(struct pass){"group_norm_dx", &push, {x, g, stats, gamma, beta, &means}, 6, {&e->out[0]}, 1,
                               e->q.node->attr.gnorm.silu,
                               {ceil_div(push.rows, 512), (uint32_t)push.planes, (uint32_t)push.n}});
}

void kern_group_norm_dp(struct emit *e) {
    struct push_group_norm push = dx_part(e);
    push.partial = ref_read(e, &e->scratch);
    push.y = ref_write(&e->out[0]), push.y2 = ref_write(&e->out[1]);
    run_pass(e, &(struct pass){"group_norm_dp", &push, {&e->scratch}, 1, {&e->out[0], &e->out[1]}, 2, -1,
                               {ceil_div(push.planes, 64), 1, 1}});
}

static struct push_layer_norm layer_push(const struct emit *e, const struct operand *x) {
    return (struct push_layer_norm){.x = ref_read(e, x), .rows = (int)shape_rows(x->shape), .planes = shape_planes(x->shape),
                                    .channels = x->shape.c, .x_stride = x->stride, .eps = e->q.node->attr.lnorm.eps};
}

void kern_layer_norm(struct emit *e) {
    const struct operand *x = &e->in[0], *gamma = &e->in[1], *beta = &e->in[2], *results[2] = {&e->out[0], &e->out[1]};
    struct push_layer_norm push = layer_push(e, x);
    push.gamma = ref_read(e, gamma), push.beta = ref_read(e, beta);
    push.y = ref_write(&e->out[0]), push.y_stride = e->out[0].stride;
    push.stats = ref_write(&e->out[1]);
    const struct operand *reads[3] = {x, gamma, beta};
    struct dispatch d = {.shader = "layer_norm", .spec = {e->out[1].address != 0}, .n_spec = 1, .push = &push,
                         .push_bytes = sizeof push, .reads = {x, gamma, beta}, .n_reads = 3,
                         .storage_mask = storage_mask(reads, 3, results, 2), .groups = {ceil_div(push.rows, 64), 1, 1}};
    emit_dispatch(e, &d);
}

static void layer_back(struct emit *e, const char *shader, uint32_t groups, bool params) {
    const struct operand *g = &e->in[0], *x = &e->in[1], *stats = &e->in[2], *gamma = &e->in[3];
    const struct operand *results[2] = {&e->out[0], &e->out[1]}, *reads[4] = {x, g, stats, gamma};
    struct push_layer_norm push = layer_push(e, x);
    push.g = ref_read(e, g), push.g_stride = g->stride;
    push.stats = ref_read(e, stats), push.gamma = ref_read(e, gamma);
    push.y = ref_write(&e->out[0]), push.y_stride = e->out[0].stride;
    if (params) push.y2 = ref_write(&e->out[1]);
    struct dispatch d = {.shader = shader, .push = &push, .push_bytes = sizeof push, .reads = {x, g, stats, gamma},
                         .n_reads = 4, .storage_mask = storage_mask(reads, 4, results, params ? 2 : 1),
                         .groups = {groups, 1, 1}};
    emit_dispatch(e, &d);
}

void kern_layer_norm_dx(struct emit *e) { layer_back(e, "layer_norm_dx", ceil_div(shape_rows(e->in[1].shape), 64), false); }
void kern_layer_norm_dp(struct emit *e) { layer_back(e, "layer_norm_dp", (uint32_t)shape_planes(e->in[1].shape), true); }

void kern_row_sum(struct emit *e) {
    const struct operand *x = &e->in[0], *y = &e->out[0];
    int images = e->q.node->attr.sum.per_image ? x->shape.n : 1;
    struct push_row_sum push = {ref_read(e, x), ref_write(y), (int)(shape_rows(x->shape) / images), x->stride, y->stride};
    struct dispatch d = {.shader = "row_sum", .push = &push, .push_bytes = sizeof push, .reads = {x}, .n_reads = 1,
                         .storage_mask = storage_mask(&x, 1, &y, 1),
                         .groups = {(uint32_t)shape_planes(x->shape), (uint32_t)images, 1}};
    emit_dispatch(e, &d);
}
