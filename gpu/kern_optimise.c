/* Optimisers over flat banks of parameters; Adafactor slot by slot. */
#include "gpu/kernels_priv.h"
#include "gpu/push.h"
#include "shaders/push/adafactor.h"
#include "shaders/push/optimise.h"
#include "shaders/push/pair_norm.h"

enum { PARTS = 64, MOST_PARTS = 256 };

void kern_flat_groups(struct dispatch *d, int texels) {
    uint32_t n = ceil_div(texels, 64), rows = ceil_div(n, 65535);
    d->groups[0] = ceil_div(n, rows), d->groups[1] = rows, d->groups[2] = 1;
}

/* param, grad, states, hyper, rates if any: bound in this order. */
static void flat_update(struct emit *e, const char *shader, int n_states, bool has_rates) {
    const struct operand *reads[6] = {0}, *results[3] = {0};
    int n = 3 + n_states + has_rates;
    for (int i = 0; i < n; i++) reads[i] = &e->in[i];
    for (int i = 0; i <= n_states; i++) results[i] = &e->out[i];
    struct push_optimise push = {.param = ref_read(e, reads[0]), .grad = ref_read(e, reads[1]), .m = ref_read(e, reads[2]),
                                 .hyper = ref_read(e, reads[2 + n_states]), .param_out = ref_write(results[0]),
                                 .m_out = ref_write(results[1]), .texels = (int)shape_texels(e->in[0].shape)};
    if (n_states > 1) push.v = ref_read(e, reads[3]), push.v_out = ref_write(results[2]);
    if (has_rates) push.more = ref_read(e, reads[n - 1]);
    struct dispatch d = {.shader = shader, .push = &push, .push_bytes = sizeof push, .n_reads = n,
                         .storage_mask = storage_mask(reads, n, results, 1 + n_states)};
    for (int i = 0; i < n; i++) d.reads[i] = reads[i];
    kern_flat_groups(&d, push.texels);
    emit_dispatch(e, &d);
}

void kern_adamw(struct emit *e) { flat_update(e, "adamw", 2, true); }
void kern_lion(struct emit *e) { flat_update(e, "lion", 1, true); }
void kern_schedule_free(struct emit *e) { flat_update(e, "schedule_free", 2, true); }
void kern_prodigy(struct emit *e) { flat_update(e, "prodigy", 2, false); }

int64_t kern_prodigy_sums_scratch(const struct kernel_query *q) { return PARTS * 16; }

void kern_prodigy_sums(struct emit *e) {
    const struct operand *reads[5], *part = &e->scratch, *earlier = e->in[5].address ? &e->in[5] : NULL;
    const struct operand *results[2] = {&e->out[0], part}, *sums[2] = {&e->out[0], &e->out[1]};
    for (int i = 0; i < 5; i++) reads[i] = &e->in[i];
    struct push_optimise push = {.param = ref_read(e, reads[0]), .grad = ref_read(e, reads[1]), .m = ref_read(e, reads[2]),
                                 .v = ref_read(e, reads[3]), .hyper = ref_read(e, reads[4]), .param_out = ref_write(results[0]),
                                 .m_out = ref_write(part), .texels = (int)shape_texels(e->in[0].shape), .n_parts = PARTS};
    push.per_group = (int)ceil_div(push.texels, PARTS);
    struct dispatch d = {.shader = "prodigy_sums", .spec = {0, 0}, .n_spec = 2, .push = &push, .push_bytes = sizeof push,
                         .n_reads = 5, .storage_mask = storage_mask(reads, 5, results, 2), .groups = {PARTS, 1, 1}};
    for (int i = 0; i < 5; i++) d.reads[i] = reads[i];
    emit_dispatch(e, &d);
    emit_barrier(e);
    push.param = ref_read(e, part), push.m_out = ref_write(sums[1]);
    if (earlier) push.more = ref_read(e, earlier);
    const struct operand *second[2] = {part, earlier};
    d = (struct dispatch){.shader = "prodigy_sums", .spec = {1, earlier != NULL}, .n_spec = 2, .push = &push,
                          .push_bytes = sizeof push, .reads = {part, earlier}, .n_reads = 2,
                          .storage_mask = storage_mask(second, 2, sums, 2), .groups = {1, 1, 1}};
    emit_dispatch(e, &d);
}

/* Partial sums first, then one texel of totals. */
int64_t kern_adafactor_scratch(const struct kernel_query *q) { return (MOST_PARTS + 1) * 16; }

struct adafactor {
    struct push_adafactor push;
    const struct operand *reads[6], *result, *scratch;
};

static void adafactor_pass(struct emit *e, struct adafactor *f, uint32_t pass, uint32_t groups) {
    const struct operand *results[2] = {f->result, f->scratch};
    if (f->result) f->push.out_ref = ref_write(f->result);
    if (f->scratch) f->push.scratch_out = ref_write(f->scratch);
    f->push.scratch = ref_read(e, f->reads[5]);
    struct dispatch d = {.shader = "adafactor", .spec = {pass}, .n_spec = 1, .push = &f->push, .push_bytes = sizeof f->push,
                         .n_reads = 6, .storage_mask = storage_mask(f->reads, 6, results, 2), .groups = {groups, 1, 1}};
    for (int i = 0; i < 6; i++) d.reads[i] = f->reads[i];
    emit_dispatch(e, &d);
}

void kern_adafactor(struct emit *e) {
    struct shape s = e->in[0].shape;
    const union op_attr *attr = &e->q.node->attr;
    struct operand stats = operand_part(&e->scratch, MOST_PARTS * 16, 1);
    struct adafactor f = {.push = {.rows = (int)shape_rows(s), .planes = shape_planes(s), .stride = e->in[0].stride,
                                   .period = attr->adafactor.period, .counted = attr->adafactor.rows,
                                   .channels = attr->adafactor.channels, .rate = attr->adafactor.rate}};
    for (int i = 0; i < 5; i++) f.reads[i] = &e->in[i];
    f.reads[5] = &e->scratch;
    f.push.param = ref_read(e, &e->in[0]), f.push.grad = ref_read(e, &e->in[1]), f.push.rows_in = ref_read(e, &e->in[2]);
    f.push.columns_in = ref_read(e, &e->in[3]), f.push.hyper = ref_read(e, &e->in[4]);
    int64_t texels = (int64_t)f.push.rows * f.push.planes;
    uint32_t parts = ceil_div(texels, 4096) < MOST_PARTS ? ceil_div(texels, 4096) : MOST_PARTS;
    f.push.n_parts = (int)parts, f.push.per_group = (int)ceil_div(texels, parts);
    f.result = &e->out[1];
    adafactor_pass(e, &f, 0, ceil_div(f.push.rows, 4));
    f.result = &e->out[2];
    adafactor_pass(e, &f, 1, (uint32_t)f.push.planes);
    emit_barrier(e);
    f.scratch = &e->scratch;
    adafactor_pass(e, &f, 2, parts);
    emit_barrier(e);
    f.scratch = &stats;
    adafactor_pass(e, &f, 3, 1);
    emit_barrier(e);
    f.reads[5] = &stats, f.result = &e->out[0];
    adafactor_pass(e, &f, 4, ceil_div(texels, 64));
}

/* A texel per rank, then the factor. */
int64_t kern_pair_norm_scratch(const struct kernel_query *q) {
    return ((int64_t)q->g->values[q->node->in[0]].shape.w + 1 + 3) / 4 * 64 + 64;
}

void kern_pair_norm(struct emit *e) {
    struct shape d = e->in[0].shape, u = e->in[1].shape;
    struct operand factor = operand_part(&e->scratch, ((int64_t)d.w + 3) / 4 * 64, 1);
    const struct operand *scratch[4] = {&e->scratch, &e->scratch, &factor, &factor};
    const struct operand *results[4] = {&e->scratch, &factor, &e->out[0], &e->out[1]};
    struct push_pair_norm push = {.down = ref_read(e, &e->in[0]), .up = ref_read(e, &e->in[1]), .taps = d.n, .ranks = d.w,
                                  .down_planes = shape_planes(d), .down_stride = e->in[0].stride,
                                  .out_rows = (int)shape_rows(u), .up_stride = e->in[1].stride, .n_parts = d.w,
                                  .scale = e->q.node->attr.pair_norm.scale,
                                  .most = e->q.node->attr.pair_norm.most};
    for (uint32_t pass = 0; pass < 4; pass++) {
        const struct operand *reads[3] = {&e->in[0], &e->in[1], scratch[pass]};
        push.scratch = ref_read(e, scratch[pass]), push.out_ref = ref_write(results[pass]);
        push.texels = pass >= 2 ? (int)shape_texels(pass == 2 ? d : u) : 0;
        struct dispatch p = {.shader = "pair_norm", .spec = {pass}, .n_spec = 1, .push = &push, .push_bytes = sizeof push,
                             .reads = {reads[0], reads[1], reads[2]}, .n_reads = 3,
                             .storage_mask = storage_mask(reads, 3, &results[pass], 1),
                             .groups = {pass == 0 ? (uint32_t)d.w : pass == 1 ? 1 : ceil_div(push.texels, 64), 1, 1}};
        emit_dispatch(e, &p);
        if (pass < 2) emit_barrier(e);
    }
}
