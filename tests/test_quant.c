/* Weights in 8 and 4 bits: the quantiser against bitsandbytes and numpy (tests/reference/quant.py), and gradients that
 * flow through decoding kernels against finite differences of the double reference over the decoded numbers. That each
 * kernel row computes what its operator says is tests/test_ops.c's. */
#include "tests/support/cm.h"

#include <math.h>
#include <string.h>

#include "gpu/device.h"
#include "graph/build.h"
#include "tests/support/evaluate.h"
#include "tests/support/golden.h"
#include "tests/support/test_device.h"

/* --- the quantiser ------------------------------------------------------------------------------------- */
struct coded {
    struct arena *a;
    struct st_file *golden;
    const float *weight;
    float *back;
    uint8_t *raw;
    struct shape s;
};

static struct coded code(enum tensor_dtype d) {
    struct coded c = {.a = arena_create(NULL), .golden = golden_open("quant")};
    c.weight = golden_rows(c.golden, "weight", c.a, NULL);
    c.s = (struct shape){1, 1, 24, 192};
    c.raw = arena_alloc(c.a, (size_t)quant_bytes(d, c.s));
    c.back = arena_alloc_n(c.a, (size_t)shape_elems(c.s), sizeof *c.back);
    quant_pack(c.raw, d, c.s, c.weight);
    quant_unpack(c.back, d, c.s, c.raw);
    return c;
}

static void close_code(struct coded *c) {
    st_close(&c->golden);
    arena_destroy(&c->a);
}

static void test_nf4_is_bitsandbytes(void **state) {
    struct coded c = code(TENSOR_NF4);
    const struct st_tensor *levels = st_find(c.golden, "nf4.levels"), *codes = st_find(c.golden, "nf4.codes"),
                           *absmax = st_find(c.golden, "nf4.absmax"), *decoded = st_find(c.golden, "nf4.decoded");
    assert_memory_equal(levels->data, quant_nf4_levels, sizeof quant_nf4_levels);
    assert_memory_equal(decoded->data, c.back, (size_t)shape_elems(c.s) * sizeof *c.back);
    const uint8_t *want = codes->data, *scales = c.raw + quant_scales_offset(TENSOR_NF4, c.s);
    int64_t stride = quant_tile_stride(c.s);
    for (int row = 0; row < 24; row++) {
        for (int i = 0; i < 192; i++) {
            int64_t at = (i / 4 * stride + row / 4) * 8 + row % 4 * 2 + i % 4 / 2;
            assert_int_equal(i % 2 ? c.raw[at] >> 4 : c.raw[at] & 15, want[row * 192 + i]);
        }
        for (int block = 0; block < 3; block++)
            assert_memory_equal((const uint8_t *)absmax->data + (row * 3 + block) * 4,
                                scales + ((block * stride + row / 4) * 4 + row % 4) * 4, 4);
    }
    close_code(&c);
}

static void test_int8_is_numpy(void **state) {
    struct coded c = code(TENSOR_INT8);
    const struct st_tensor *decoded = st_find(c.golden, "int8.decoded");
    const uint8_t *want = decoded->data;
    for (int64_t i = 0; i < shape_elems(c.s); i++) { /* the scale's last bit is the division's */
        float f;
        memcpy(&f, want + i * 4, 4);
        assert_true(fabsf(f - c.back[i]) <= 2e-7f * fabsf(f));
    }
    close_code(&c);
}

/* What was decoded codes to itself: weights may be read back and written again. */
static void test_coding_again_changes_nothing(void **state) {
    for (enum tensor_dtype d = TENSOR_INT8; d <= TENSOR_NF4; d++) {
        struct coded c = code(d);
        float *again = arena_alloc_n(c.a, (size_t)shape_elems(c.s), sizeof *again);
        quant_pack(c.raw, d, c.s, c.back);
        quant_unpack(again, d, c.s, c.raw);
        for (int64_t i = 0; i < shape_elems(c.s); i++) assert_true(fabsf(again[i] - c.back[i]) <= 2e-7f * fabsf(again[i]));
        close_code(&c);
    }
}

/* --- gradients ------------------------------------------------------------------------------------------ */
struct net {
    struct arena *a;
    struct graph *g;
    struct tensor_set *base, *adapter;
    int x, target, seed, loss, gradient;
    enum tensor_dtype dtype;
    double moved; /* added to one number of the adapter */
    int64_t which;
};

static float noise(uint64_t key) {
    key = (key + 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u;
    key = (key ^ key >> 27) * 0x94d049bb133111ebu;
    return (float)(int64_t)((key ^ key >> 31) >> 40) * 0x1p-23f - 1;
}

/* Decoded numbers: coding them again on the device gives the same. */
static void read_base(const void *ctx, int slot, float *dst) {
    const struct net *n = ctx;
    const struct tensor_slot *t = &n->base->slots[slot];
    int64_t count = shape_elems(t->shape);
    for (int64_t i = 0; i < count; i++) dst[i] = 0.15f * noise((uint64_t)(slot * 100003 + i));
    if (t->dtype == TENSOR_F16)
        for (int64_t i = 0; i < count; i++) dst[i] = rintf(dst[i] * 1024) / 1024;
    if (!quant_is_coded(t->dtype)) return;
    void *raw = arena_alloc(n->a, (size_t)quant_bytes(t->dtype, t->shape));
    quant_pack(raw, t->dtype, t->shape, dst);
    quant_unpack(dst, t->dtype, t->shape, raw);
}

static void read_adapter(const void *ctx, int slot, float *dst) {
    const struct net *n = ctx;
    int64_t count = shape_elems(n->adapter->slots[slot].shape);
    for (int64_t i = 0; i < count; i++) dst[i] = 0.3f * noise((uint64_t)(7777777 + i));
    dst[n->which] += (float)n->moved;
}

static int frozen(struct net *n, const char *name, struct shape s) {
    return graph_slot(n->g, n->base, SET_DATA, tensor_set_add(n->base, name, s));
}

/* An adapter's matrix first, so that every gradient to an input is taken on the way to it. */
static void build(struct net *n, enum tensor_dtype storage) {
    struct graph *g = n->g = graph_create(n->a, storage);
    n->base = tensor_set_create(n->a, "base", storage, false, 0);
    n->adapter = tensor_set_create(n->a, "adapter", TENSOR_F32, true, 0);
    tensor_set_narrow(n->base, n->dtype, 32);
    n->x = graph_io(g, "x", (struct shape){1, 4, 6, 32});
    int h = graph_linear(g, n->x,
                         graph_slot(g, n->adapter, SET_DATA, tensor_set_add(n->adapter, "a", (struct shape){1, 1, 36, 32})), -1,
                         -1);
    h = graph_conv2d(g, h, frozen(n, "conv", (struct shape){9, 1, 72, 36}), frozen(n, "bias", (struct shape){1, 1, 1, 72}), -1,
                     &(struct conv_params){.k = 3, .stride = 1, .pad = 1});
    h = graph_unary(g, UNARY_SILU, h);
    h = graph_conv2d(g, h, frozen(n, "down", (struct shape){9, 1, 68, 72}), -1, -1,
                     &(struct conv_params){.k = 3, .stride = 2, .pad = 1});
    h = graph_linear(g, h, frozen(n, "linear", (struct shape){1, 1, 68, 68}), -1, h);
    h = graph_conv2d(g, h, frozen(n, "up", (struct shape){9, 1, 32, 68}), -1, -1,
                     &(struct conv_params){.k = 3, .stride = 1, .pad = 1, .up = true});
    n->target = graph_io(g, "target", (struct shape){1, 4, 6, 32});
    n->loss = graph_mse(g, h, n->target);
    n->seed = graph_io(g, "seed", (struct shape){1, 1, 1, 1});
}

static double *rows(struct net *n, int value, uint64_t key, double scale) {
    int64_t count = shape_elems(graph_shape(n->g, value));
    double *d = arena_alloc_n(n->a, (size_t)count, sizeof *d);
    for (int64_t i = 0; i < count; i++) d[i] = scale * (double)noise(key + (uint64_t)i);
    return d;
}

static double **run(struct net *n, struct gpu_device *dev) {
    double **data = arena_alloc_n(n->a, (size_t)n->g->n_values, sizeof *data);
    data[n->x] = rows(n, n->x, 1000, 1), data[n->target] = rows(n, n->target, 9000, 1);
    data[n->seed] = arena_alloc(n->a, sizeof(double)), *data[n->seed] = 1;
    struct eval_set sets[] = {{n->base, read_base, n}, {n->adapter, read_adapter, n}};
    eval_run(dev, n->g, data, sets, 2, n->a);
    return data;
}

static double loss_at(const struct net *like, int64_t which, double moved) {
    struct net n = {.a = arena_create(NULL), .dtype = like->dtype, .which = which, .moved = moved};
    build(&n, TENSOR_F32);
    int out = graph_output(n.g, "loss", n.loss);
    double loss = *run(&n, NULL)[out];
    arena_destroy(&n.a);
    return loss;
}

static int gradient_of(const struct net *n) {
    for (int v = 0; v < n->g->n_values; v++) {
        const struct value *value = graph_value(n->g, v);
        if (value->cls == VALUE_SET && value->set == n->adapter && value->bank == SET_GRAD && value->producer >= 0) return v;
    }
    fail_msg("no gradient");
    return -1;
}

static void check(enum kernel_class cls, bool f32, enum tensor_dtype dtype) {
    struct error e = {0};
    struct gpu_params gp = {.device = test_device(), .force_class = cls, .f32 = f32};
    if (!test_device_runs(cls)) return;
    struct gpu_device *dev = gpu_device_create(&gp, &e);
    if (!dev) fail_msg("%s", e.text);
    struct net n = {.a = arena_create(NULL), .dtype = dtype};
    build(&n, gpu_device_storage(dev));
    graph_output(n.g, "loss", n.loss);
    if (!graph_grad(n.g, n.loss, n.seed, &e)) fail_msg("%s", e.text);
    double **data = run(&n, dev), *got = data[gradient_of(&n)], range = 0;
    int64_t count = shape_elems(n.adapter->slots[0].shape);
    for (int64_t i = 0; i < count; i++) range = fmax(range, fabs(got[i]));
    const double step = 1e-3, tolerance = f32 ? 2e-3 : 2e-2;
    for (int64_t i = 0; i < count; i += 389) {
        double want = (loss_at(&n, i, step) - loss_at(&n, i, -step)) / (2 * step);
        if (!(fabs(got[i] - want) <= tolerance * range))
            fail_msg("%s, class %d: gradient %lld is %g, by differences %g, of %g", tensor_dtype_names[dtype], cls,
                     (long long)i, got[i], want, range);
    }
    assert_true(range > 1e-4);
    assert_int_equal(gpu_device_messages(dev), 0);
    arena_destroy(&n.a);
    gpu_device_destroy(&dev);
}

static void test_gradients(void **state) {
    check(KERNEL_CPU, true, TENSOR_F16);
    for (enum tensor_dtype d = TENSOR_INT8; d <= TENSOR_NF4; d++) {
        check(KERNEL_CPU, true, d);
        check(KERNEL_GPU, true, d);
        check(KERNEL_GPU, false, d);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nf4_is_bitsandbytes),
        cmocka_unit_test(test_int8_is_numpy),
        cmocka_unit_test(test_coding_again_changes_nothing),
        cmocka_unit_test(test_gradients),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
