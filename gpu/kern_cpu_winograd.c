/* 3x3 convolution of the cpu class by Winograd's method: tiles of the input and the frozen weight (once)
 * are transformed, multiplied as a batch of products, and transformed back. Serves the gradient to the
 * input too, which is a convolution with the taps reversed and the weight's rows contracted. */
#include "gpu/kern_cpu.h"
#include "gpu/push.h"
#include "shaders/push/winograd.h"

enum { SCRATCH_BYTES = 64 << 20 }; /* per block of tiles, roughly: what a large cache and few repeats allow */

struct plan {
    bool gradient;
    struct shape x, y, weight; /* read and written images; transformed weight */
    int up, m, points;         /* tile side, transformed values per tile */
    int tiles_y, tiles_x, tiles, block, stride;
    bool packed;         /* the weight lies as gemm_pack.comp lays it out, a point after the other */
    int64_t weight_step; /* texels between points */
};

/* F(4x4) needs four times the weight's memory and enough tiles to fill the products, F(2x2) less of both. */
static int tile_side(struct shape grid) {
    return shape_rows(grid) >= 1024 ? 4 : 2;
}

static struct plan make_plan(const struct kernel_query *q) {
    const struct node *n = q->node;
    struct plan p = {.gradient = n->op == OP_CONV2D_DX, .x = graph_shape(q->g, n->in[0]), .y = graph_shape(q->g, n->out[0]),
                     .up = n->attr.conv.up};
    struct shape w = graph_shape(q->g, n->in[1]), grid = p.gradient ? p.x : p.y;
    p.m = tile_side(grid);
    p.points = (p.m + 2) * (p.m + 2);
    p.weight = (struct shape){p.points, 1, w.w, w.c};
    p.tiles_y = (int)ceil_div(grid.h, p.m);
    p.tiles_x = (int)ceil_div(grid.w, p.m);
    p.tiles = grid.n * p.tiles_y * p.tiles_x;
    int64_t texels_per_tile = (int64_t)p.points * (shape_planes(p.x) + shape_planes(p.y));
    int64_t block = SCRATCH_BYTES / 16 / texels_per_tile / 32 * 32;
    p.block = (int)(block < 128 ? 128 : block);
    if (p.block > p.tiles) p.block = p.tiles;
    p.stride = (int)shape_plane((struct shape){1, 1, p.block, 8});
    int lanes = (int)q->caps->subgroup, n4 = shape_planes(p.y);
    p.packed = cpu_gemm_packs(n4, lanes);
    p.weight_step = p.packed ? cpu_gemm_packed_texels(shape_planes(p.x), n4, lanes) : p.weight.w;
    return p;
}

bool cpu_winograd_fits(const struct kernel_query *q) {
    const struct node *n = q->node;
    const struct value *w = &q->g->values[n->in[1]];
    if (n->attr.conv.k != 3 || n->attr.conv.stride != 1 || n->attr.conv.pad != 1) return false;
    if (w->cls != VALUE_SET || w->set->trainable || w->bank != SET_DATA) return false; /* transformed once */
    struct plan p = make_plan(q);
    struct shape image = p.gradient ? p.y : p.x, grid = p.gradient ? p.x : p.y;
    if (grid.h != image.h << p.up || grid.w != image.w << p.up) return false;
    /* The transforms cost c_in + c_out where the products save c_in*c_out; with few tiles the direct form is
     * as fast and spares the transformed weight. */
    int64_t product = (int64_t)p.x.c * p.y.c, sum = p.x.c + p.y.c;
    return p.tiles >= 64 && product >= sum * (p.m == 4 ? 32 : 56);
}

int64_t cpu_winograd_prep(const struct kernel_query *q) {
    struct plan p = make_plan(q);
    return (p.packed ? p.points * p.weight_step : shape_texels(p.weight)) * 16;
}

static int64_t input_texels(const struct plan *p) { return (int64_t)p->points * shape_planes(p->x) * p->stride; }
static int64_t output_texels(const struct plan *p) { return (int64_t)p->points * shape_planes(p->y) * p->stride; }
int64_t cpu_winograd_scratch(const struct kernel_query *q) {
    struct plan p = make_plan(q);
    return (input_texels(&p) + output_texels(&p)) * 16;
}

void cpu_winograd_emit_prep(struct emit *e) {
    struct plan p = make_plan(&e->q);
    const struct operand *w = &e->in[1];
    struct operand u = operand_part(&e->prep, 0, (int32_t)shape_stride(p.weight));
    struct push_winograd push = {.from = ref_read(e, w), .to = ref_write(&u), .from_stride = w->stride,
                                 .to_stride = u.stride, .rows = p.weight.w, .step = (int32_t)p.weight_step,
                                 .planes = shape_planes(p.x)};
    struct dispatch d = {.shader = "winograd_weight", .spec = {(uint32_t)p.m, p.gradient, p.packed}, .n_spec = 3, .push = &push,
                         .push_bytes = sizeof push, .reads = {w}, .n_reads = 1,
                         .groups = {ceil_div((push.rows + 3) / 4 * 4, e->q.caps->subgroup),
                                    (uint32_t)shape_planes(p.weight), 1}};
    emit_dispatch(e, &d);
}

static void emit_input(struct emit *e, const struct plan *p, struct push_winograd push, const struct operand *to) {
    const struct operand *x = &e->in[0];
    push.from = ref_read(e, x), push.from_stride = x->stride;
    push.to = ref_write(to), push.to_stride = to->stride;
    push.step = shape_planes(p->x) * p->stride;
    push.h = p->x.h, push.w = p->x.w;
    struct dispatch d = {.shader = "winograd_in", .spec = {(uint32_t)p->m, p->gradient ? 0 : (uint32_t)p->up}, .n_spec = 2,
                         .push = &push, .push_bytes = sizeof push, .reads = {x}, .n_reads = 1,
                         .groups = {ceil_div(push.tiles, e->q.caps->subgroup), (uint32_t)shape_planes(p->x), 1}};
    emit_dispatch(e, &d);
}

static void emit_output(struct emit *e, const struct plan *p, struct push_winograd push, const struct operand *from) {
    const struct operand *y = &e->out[0], *bias = p->gradient ? NULL : &e->in[2], *res = p->gradient ? NULL : &e->in[3];
    push.from = ref_read(e, from), push.from_stride = from->stride;
    push.to = ref_write(y), push.to_stride = y->stride;
    if (bias && bias->address) push.bias = ref_read(e, bias), push.bias_stride = bias->stride;
    bool has_res = res && res->address;
    if (has_res) push.res = ref_read(e, res), push.res_stride = res->stride;
    push.step = shape_planes(p->y) * p->stride;
    push.planes = shape_planes(p->y), push.n_tail = (p->y.c - 1) % 4 + 1;
    push.h = p->y.h, push.w = p->y.w;
    uint32_t up = p->gradient ? (uint32_t)p->up : 0;
    bool edge = (p->y.h << up) % p->m || (p->y.w << up) % p->m;
    struct dispatch d = {.shader = "winograd_out", .spec = {(uint32_t)p->m, up, has_res, edge, p->y.c % 4 != 0}, .n_spec = 5,
                         .push = &push, .push_bytes = sizeof push, .reads = {from, bias, res}, .n_reads = 3,
                         .groups = {ceil_div(push.tiles, e->q.caps->subgroup), (uint32_t)push.planes, 1}};
    emit_dispatch(e, &d);
}

void cpu_winograd_emit(struct emit *e) {
    struct plan p = make_plan(&e->q);
    struct operand u = operand_part(&e->prep, 0, (int32_t)shape_stride(p.weight));
    struct operand in = operand_part(&e->scratch, 0, p.stride);
    struct operand out = operand_part(&e->scratch, input_texels(&p) * 16, p.stride);
    for (int tile = 0; tile < p.tiles; tile += p.block) {
        int tiles = p.tiles - tile < p.block ? p.tiles - tile : p.block;
        struct push_winograd push = {.tile0 = tile, .tiles = tiles, .tiles_y = p.tiles_y, .tiles_x = p.tiles_x};
        if (tile) emit_barrier(e);
        emit_input(e, &p, push, &in);
        emit_barrier(e);
        cpu_gemm_emit(e, &(struct cpu_gemm){
            .x = &in, .w = &u, .y = &out, .rows = tiles, .c_in = p.x.c, .c_out = p.y.c, .trans = p.gradient,
            .inner = p.points, .x_step = shape_planes(p.x) * (int64_t)p.stride,
            .w_step = p.weight_step, .w_packed = p.packed, .y_step = shape_planes(p.y) * (int64_t)p.stride,
        });
        emit_barrier(e);
        emit_output(e, &p, push, &out);
    }
}
