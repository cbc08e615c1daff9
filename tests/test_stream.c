/* Weights that come to the device in turn: the same bytes as with all of them there, forward and backward, in every
 * class and storage, submitted whole and step by step; and no more memory than was said. */
#include "tests/support/cm.h"

#include <stdlib.h>
#include <string.h>

#include "gpu/program.h"
#include "graph/build.h"
#include "tests/support/test_device.h"

enum { C = 64, LAYERS = 5, SIDE = 6 };

struct net {
    struct arena *a;
    struct gpu_device *dev;
    struct graph *g;
    struct tensor_set *base, *adapter;
    int x, target, seed, loss;
    struct gpu_set *data, *gradient, *factors;
    struct gpu_program *prog;
};

static float noise(uint32_t key) {
    key = (key ^ 61) ^ key >> 16, key *= 9, key ^= key >> 4, key *= 0x27d4eb2du, key ^= key >> 15;
    return (float)(key >> 8) * 0x1p-23f - 1;
}

static void build(struct net *n, struct gpu_device *dev, enum tensor_dtype narrow) {
    struct error e = {0};
    n->a = arena_create(NULL), n->dev = dev;
    struct graph *g = n->g = graph_create(n->a, gpu_device_storage(dev));
    n->base = tensor_set_create(n->a, "base", gpu_device_storage(dev), false, 0);
    if (narrow) tensor_set_narrow(n->base, narrow, TENSOR_NARROW_LEAST);
    n->adapter = tensor_set_create(n->a, "adapter", TENSOR_F32, true, 0);
    n->x = graph_io(g, "x", (struct shape){1, SIDE, SIDE, C});
    int h = graph_linear(g, n->x,
                         graph_slot(g, n->adapter, SET_DATA, tensor_set_add(n->adapter, "a", (struct shape){1, 1, C, C})), -1,
                         -1);
    for (int i = 0; i < LAYERS; i++) {
        int conv = tensor_set_add(n->base, arena_printf(n->a, "conv%d", i), (struct shape){9, 1, C, C});
        int bias = tensor_set_add(n->base, arena_printf(n->a, "bias%d", i), (struct shape){1, 1, 1, C});
        int linear = tensor_set_add(n->base, arena_printf(n->a, "linear%d", i), (struct shape){1, 1, C, C});
        h = graph_conv2d(g, h, graph_slot(g, n->base, SET_DATA, conv), graph_slot(g, n->base, SET_DATA, bias), -1,
                         &(struct conv_params){.k = 3, .stride = 1, .pad = 1});
        h = graph_unary(g, UNARY_SILU, h);
        h = graph_linear(g, h, graph_slot(g, n->base, SET_DATA, linear), -1, -1);
    }
    n->target = graph_io(g, "target", (struct shape){1, SIDE, SIDE, C});
    int loss = graph_mse(g, h, n->target);
    n->seed = graph_io(g, "seed", (struct shape){1, 1, 1, 1});
    n->loss = graph_output(g, "loss", loss);
    if (!graph_ok(g, &e) || !graph_grad(g, loss, n->seed, &e)) fail_msg("%s", e.text);
    graph_prune(g);
}

static void fill(struct gpu_set *s, const struct tensor_set *set, float size) {
    struct error e = {0};
    for (int i = 0; i < set->n_slots; i++) {
        int64_t count = shape_elems(set->slots[i].shape);
        float *w = malloc((size_t)count * sizeof *w), *back = malloc((size_t)count * sizeof *back);
        for (int64_t k = 0; k < count; k++) w[k] = size * noise((uint32_t)(i * 70001 + k));
        if (!gpu_set_write(s, i, w, &e) || !gpu_set_read(s, i, back, &e) || !gpu_set_write(s, i, back, &e))
            fail_msg("%s", e.text);
        free(w), free(back);
    }
}

/* resident < 0: all weights on the device. */
static void open_net(struct net *n, struct gpu_device *dev, enum tensor_dtype narrow, int64_t resident, bool step) {
    struct error e = {0};
    build(n, dev, narrow);
    n->data = resident < 0 ? gpu_set_create(dev, n->base, SET_DATA, &e) : gpu_set_create_streamed(dev, n->base, resident, &e);
    n->gradient = gpu_set_create(dev, n->adapter, SET_GRAD, &e);
    n->factors = gpu_set_create(dev, n->adapter, SET_DATA, &e);
    if (!n->data || !n->gradient || !n->factors) fail_msg("%s", e.text);
    fill(n->data, n->base, 0.06f);
    fill(n->factors, n->adapter, 0.2f);
    struct gpu_binding b[] = {{n->base, SET_DATA, n->data}, {n->adapter, SET_GRAD, n->gradient},
                              {n->adapter, SET_DATA, n->factors}};
    struct gpu_program_params p = {.name = "a test", .bindings = b, .n_bindings = 3, .no_prepare = true, .step = step};
    n->prog = gpu_program_create(dev, n->g, &p, &e);
    if (!n->prog) fail_msg("%s", e.text);
}

static void run(struct net *n, float *gradient, float *loss) {
    struct error e = {0};
    float rows[SIDE * SIDE * C], one = 4096; /* half floats lose small gradients */
    for (int i = 0; i < SIDE * SIDE * C; i++) rows[i] = noise((uint32_t)(900000 + i));
    gpu_program_write(n->prog, n->x, rows);
    gpu_program_write(n->prog, n->target, rows);
    gpu_program_write(n->prog, n->seed, &one);
    if (!gpu_program_run(n->prog, &e) || !gpu_program_run(n->prog, &e)) fail_msg("%s", e.text);
    if (!gpu_set_read(n->gradient, 0, gradient, &e)) fail_msg("%s", e.text);
    gpu_program_read(n->prog, n->loss, loss);
}

static void close_net(struct net *n) {
    gpu_program_destroy(&n->prog);
    gpu_set_destroy(&n->data);
    gpu_set_destroy(&n->gradient);
    gpu_set_destroy(&n->factors);
    arena_destroy(&n->a);
}

/* A second program in the first one's memory has no ring of its own. */
static void check_shared(struct net *n, int64_t ring) {
    struct error e = {0};
    struct gpu_binding b[] = {{n->base, SET_DATA, n->data}, {n->adapter, SET_GRAD, n->gradient},
                              {n->adapter, SET_DATA, n->factors}};
    struct gpu_program_params p = {.name = "a test", .bindings = b, .n_bindings = 3, .no_prepare = true, .ring_bytes = ring,
                                   .share = n->prog};
    float before[C * C], after[C * C];
    struct gpu_program *own = n->prog, *second = gpu_program_create(n->dev, n->g, &p, &e);
    if (!second) fail_msg("%s", e.text);
    assert_int_equal(gpu_program_memory(second).ring, 0);
    float loss;
    run(n, before, &loss);
    n->prog = second;
    run(n, after, &loss);
    n->prog = own;
    assert_memory_equal(before, after, sizeof after);
    gpu_program_destroy(&second);
}

static void check(struct gpu_device *dev, enum tensor_dtype narrow) {
    static float want[C * C], got[C * C];
    float want_loss, got_loss;
    struct net all, some;
    open_net(&all, dev, narrow, -1, false);
    int64_t whole = gpu_set_bytes(all.data), away = gpu_device_memory_away(dev); /* a staging buffer */
    run(&all, want, &want_loss);
    assert_int_equal(gpu_program_memory(all.prog).ring, 0);
    close_net(&all);
    assert_true(want_loss > 0 && want[0] != 0);
    for (int part = 0; part < 3; part++) { /* nothing stays, some stays, and stepping */
        memset(got, 0, sizeof got);
        open_net(&some, dev, narrow, part == 1 ? whole / 2 : 0, part == 2);
        int64_t ring = gpu_program_memory(some.prog).ring, resident = gpu_set_bytes(some.data);
        assert_true(ring > 0 && ring <= gpu_program_ring_least(some.g, some.base) + 1024);
        assert_true(resident <= (part == 1 ? whole / 2 : whole / 8) && ring + resident < whole);
        assert_true(gpu_device_memory_away(dev) >= away + whole - whole / 8 - resident);
        run(&some, got, &got_loss);
        assert_memory_equal(got, want, sizeof got);
        assert_memory_equal(&got_loss, &want_loss, sizeof got_loss);
        check_shared(&some, ring);
        close_net(&some);
        assert_int_equal(gpu_device_memory_away(dev), away);
    }
}

static void check_class(enum kernel_class cls, bool f32, bool staging) {
    struct error e = {0};
    if (!test_device_runs(cls)) return;
    struct gpu_params gp = {.device = test_device(), .force_class = cls, .f32 = f32, .force_staging = staging,
                            .validate = getenv("ATELIER_VALIDATE") != NULL};
    struct gpu_device *dev = gpu_device_create(&gp, &e);
    if (!dev) fail_msg("%s", e.text);
    int64_t before = gpu_device_memory_used(dev);
    check(dev, TENSOR_F32);
    check(dev, TENSOR_NF4);
    assert_int_equal(gpu_device_memory_used(dev), before);
    assert_int_equal(gpu_device_messages(dev), 0);
    gpu_device_destroy(&dev);
}

static void test_cpu_class(void **state) { check_class(KERNEL_CPU, true, false); }
static void test_gpu_class_f16(void **state) { check_class(KERNEL_GPU, false, false); }
static void test_gpu_class_staged(void **state) { check_class(KERNEL_GPU, false, true); }

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cpu_class),
        cmocka_unit_test(test_gpu_class_f16),
        cmocka_unit_test(test_gpu_class_staged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
