/* Elementwise ops and plane copies: shaders/pointwise.comp, geglu.comp, upsample.comp. */
#include <assert.h>

#include "gpu/kernels_priv.h"
#include "gpu/push.h"
#include "shaders/push/dropout.h"
#include "shaders/push/geglu.h"
#include "shaders/push/pointwise.h"
#include "shaders/push/upsample.h"

/* The switch of shaders/pointwise.comp. */
enum pointwise_kind {
    POINTWISE_UNARY = 0,       /* + enum unary_kind but relu */
    POINTWISE_UNARY_SLOPE = 3, /* likewise */
    POINTWISE_ADD = 6,
    POINTWISE_MUL = 7,
    POINTWISE_SCALE = 8,
    POINTWISE_ZERO = 9,
    POINTWISE_COPY = 10,
    POINTWISE_RELU = 11,
    POINTWISE_RELU_SLOPE = 12,
};

struct pointwise {
    int kind;
    const struct operand *a, *b, *y;
    enum bcast bcast;
    float factor;
    int planes; /* of this part; 0: all of y */
    int channel; /* of b's texel, for BCAST_ROW */
};

static void pointwise(struct emit *e, const struct pointwise *p) {
    struct push_pointwise push = {.y = ref_write(p->y), .y_stride = p->y->stride, .factor = p->factor,
                                  .rows = (int)shape_rows(p->y->shape), .image_rows = p->y->shape.h * p->y->shape.w,
                                  .channel = p->channel};
    uint32_t planes = (uint32_t)(p->planes ? p->planes : shape_planes(p->y->shape));
    if (p->a) push.a = ref_read(e, p->a), push.a_stride = p->a->stride;
    if (p->b) push.b = ref_read(e, p->b), push.b_stride = p->b->stride;
    /* Same placement everywhere: one flat run of texels, padding included. */
    bool flat = (!p->a || p->a->stride == p->y->stride) && (!p->b || (p->bcast == BCAST_NONE && p->b->stride == p->y->stride));
    if (flat && (int64_t)planes * p->y->stride <= 64 * 65535) push.rows = (int)(planes * (uint32_t)p->y->stride), planes = 1;
    const struct operand *reads[2] = {p->a, p->b};
    struct dispatch d = {.shader = "pointwise", .spec = {(uint32_t)p->kind, p->bcast}, .n_spec = 2, .push = &push,
                         .push_bytes = sizeof push, .reads = {p->a, p->b}, .n_reads = 2,
                         .storage_mask = storage_mask(reads, 2, &p->y, 1), .groups = {ceil_div(push.rows, 64), planes, 1}};
    emit_dispatch(e, &d);
}

void kern_unary(struct emit *e) {
    int kind = e->q.node->attr.unary.kind;
    pointwise(e, &(struct pointwise){kind == UNARY_RELU ? (int)POINTWISE_RELU : (int)POINTWISE_UNARY + kind, &e->in[0], NULL,
                                     &e->out[0], 0, 0, 0});
}

/* g, x: the slope is taken at x (the shader's a). */
void kern_unary_dx(struct emit *e) {
    int kind = e->q.node->attr.unary.kind;
    pointwise(e, &(struct pointwise){kind == UNARY_RELU ? (int)POINTWISE_RELU_SLOPE : (int)POINTWISE_UNARY_SLOPE + kind,
                                     &e->in[1], &e->in[0], &e->out[0], 0, 0, 0});
}

void kern_add(struct emit *e) {
    enum bcast b = (enum bcast)e->q.node->attr.binary.bcast;
    pointwise(e, &(struct pointwise){POINTWISE_ADD, &e->in[0], &e->in[1], &e->out[0], b, 0, 0});
}


void kern_scale(struct emit *e) {
    pointwise(e, &(struct pointwise){POINTWISE_SCALE, &e->in[0], NULL, &e->out[0], 0, e->q.node->attr.scale.factor, 0});
}

void kern_copy(struct emit *e) {
    pointwise(e, &(struct pointwise){POINTWISE_COPY, &e->in[0], NULL, &e->out[0], 0, 0, 0});
}

void kern_dropout(struct emit *e) {
    const struct operand *x = &e->in[0], *key = &e->in[1], *y = &e->out[0], *reads[2] = {x, key};
    float rate = e->q.node->attr.dropout.rate;
    struct push_dropout push = {.x = ref_read(e, x), .key = ref_read(e, key), .y = ref_write(y),
                                .rows = (int)shape_rows(x->shape), .image_rows = x->shape.h * x->shape.w,
                                .channels = x->shape.c, .x_stride = x->stride,
                                .y_stride = y->stride, .stream = (int32_t)e->q.node->attr.dropout.stream,
                                .threshold = (int32_t)(uint32_t)((double)rate * 4294967296.0),
                                .scale = e->q.node->attr.dropout.rescale ? 1 / (1 - rate) : 1};
    struct dispatch d = {.shader = "dropout", .spec = {(uint32_t)e->q.node->attr.dropout.each}, .n_spec = 1, .push = &push,
                         .push_bytes = sizeof push, .reads = {x, key}, .n_reads = 2,
                         .storage_mask = storage_mask(reads, 2, &y, 1),
                         .groups = {ceil_div(push.rows, 64), (uint32_t)shape_planes(y->shape), 1}};
    emit_dispatch(e, &d);
}

/* The same tensor from plane `first` on. */
static struct operand planes_from(const struct operand *o, int first) {
    int64_t texel = (int64_t)tensor_texel_bytes(o->dtype);
    struct operand part = *o;
    part.address += (uint64_t)(first * (int64_t)o->stride * texel);
    part.texel += (int32_t)(first * (int64_t)o->stride);
    return part;
}

void kern_mul(struct emit *e) {
    const union op_attr *attr = &e->q.node->attr;
    enum bcast bcast = (enum bcast)attr->binary.bcast;
    int channel = bcast == BCAST_ROW ? attr->binary.channel : 0;
    struct operand b = planes_from(&e->in[1], channel / 4);
    pointwise(e, &(struct pointwise){POINTWISE_MUL, &e->in[0], &b, &e->out[0], bcast, 0, 0, channel % 4});
}

void kern_concat(struct emit *e) {
    assert(e->in[0].shape.c % 4 == 0);
    int a = shape_planes(e->in[0].shape), b = shape_planes(e->in[1].shape);
    struct operand tail = planes_from(&e->out[0], a);
    pointwise(e, &(struct pointwise){POINTWISE_COPY, &e->in[0], NULL, &e->out[0], 0, 0, a});
    pointwise(e, &(struct pointwise){POINTWISE_COPY, &e->in[1], NULL, &tail, 0, 0, b});
}

void kern_slice(struct emit *e) {
    struct operand part = planes_from(&e->in[0], e->q.node->attr.slice.first / 4);
    pointwise(e, &(struct pointwise){POINTWISE_COPY, &part, NULL, &e->out[0], 0, 0, 0});
}

void kern_slice_dx(struct emit *e) {
    int first = e->q.node->attr.slice.first / 4, own = shape_planes(e->in[0].shape), all = shape_planes(e->out[0].shape);
    struct operand middle = planes_from(&e->out[0], first), tail = planes_from(&e->out[0], first + own);
    if (first) pointwise(e, &(struct pointwise){POINTWISE_ZERO, NULL, NULL, &e->out[0], 0, 0, first});
    pointwise(e, &(struct pointwise){POINTWISE_COPY, &e->in[0], NULL, &middle, 0, 0, own});
    if (all > first + own) pointwise(e, &(struct pointwise){POINTWISE_ZERO, NULL, NULL, &tail, 0, 0, all - first - own});
}

static void geglu(struct emit *e, const struct operand *x, const struct operand *g, int planes) {
    const struct operand *y = &e->out[0], *reads[2] = {x, g};
    struct push_geglu push = {.x = ref_read(e, x), .y = ref_write(y), .rows = (int)shape_rows(x->shape), .planes = planes,
                              .x_stride = x->stride, .y_stride = y->stride};
    if (g) push.g = ref_read(e, g), push.g_stride = g->stride;
    struct dispatch d = {.shader = "geglu", .spec = {g != NULL}, .n_spec = 1, .push = &push, .push_bytes = sizeof push,
                         .reads = {x, g}, .n_reads = 2, .storage_mask = storage_mask(reads, 2, &y, 1),
                         .groups = {ceil_div(push.rows, 64), (uint32_t)planes, 1}};
    emit_dispatch(e, &d);
}

void kern_geglu(struct emit *e) { geglu(e, &e->in[0], NULL, shape_planes(e->out[0].shape)); }
void kern_geglu_dx(struct emit *e) { geglu(e, &e->in[1], &e->in[0], shape_planes(e->in[0].shape)); }

/* small: the side before upsampling. */
static void upsample(struct emit *e, struct shape small, struct shape large, bool backward) {
    const struct operand *x = &e->in[0], *y = &e->out[0];
    struct push_upsample push = {.x = ref_read(e, x), .y = ref_write(y), .n = small.n, .in_h = small.h, .in_w = small.w,
                                 .out_h = large.h, .out_w = large.w, .x_stride = x->stride, .y_stride = y->stride};
    struct dispatch d = {.shader = "upsample", .spec = {backward}, .n_spec = 1, .push = &push, .push_bytes = sizeof push,
                         .reads = {x}, .n_reads = 1, .storage_mask = storage_mask(&x, 1, &y, 1),
                         .groups = {ceil_div(shape_rows(y->shape), 64), (uint32_t)shape_planes(y->shape), 1}};
    emit_dispatch(e, &d);
}

void kern_upsample(struct emit *e) { upsample(e, e->in[0].shape, e->out[0].shape, false); }
void kern_upsample_dx(struct emit *e) { upsample(e, e->out[0].shape, e->in[0].shape, true); }
