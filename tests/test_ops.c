/* Every kernel row that accepts a case, against the op's double reference: values, texels it must not
 * touch, zero channel padding, updates in place. Rows of the gpu class run on lavapipe too, in f32 and f16.
 * ATELIER_TEST_OP=matmul and ATELIER_TEST_RIG=cpu narrow it; ATELIER_VALIDATE=1 adds validation;
 * ATELIER_TEST_DEVICE=gpu runs the gpu class on a real one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/half.h"
#include "gpu/program.h"
#include "tests/support/op_cases.h"
#include "tests/support/test_device.h"

struct rig {
    const char *name;
    enum kernel_class cls;
    bool f32;
    struct gpu_device *dev;
    enum tensor_dtype storage;
};
static struct rig rigs[] = {
    {.name = "cpu", .cls = KERNEL_CPU, .f32 = true},
    {.name = "gpu f32", .cls = KERNEL_GPU, .f32 = true},
    {.name = "gpu f16", .cls = KERNEL_GPU, .f32 = false},
};

/* --- one case on one row --------------------------------------------------------------------------- */
enum mode {
    MODE_PLAIN,   /* guarded outputs, inputs from IO */
    MODE_FROZEN,  /* the weight is a slot of a frozen set: kernels may prepare it once */
    MODE_IN_PLACE, /* the input that the result may replace dies here */
    MODE_FIRST,    /* nobody reads but the first result */
    MODE_HALF,     /* frozen weight in f16, int8, nf4 (graph/quant.h): the reference sees the decoded numbers */
    MODE_INT8,
    MODE_NF4,
    MODES
};
struct trial {
    struct rig *rig;
    const struct op_case *c;
    const struct kernel *row;
    enum mode mode;
    struct arena *a;
    struct graph *g;
    int node;
    int source[GRAPH_MAX_IN]; /* IO value or slot that feeds each input */
    int result[GRAPH_MAX_OUT];
    struct tensor_set *weights, *guarded[GRAPH_MAX_OUT];
    struct gpu_set *weights_data, *guarded_data[GRAPH_MAX_OUT];
    double **data;
    char why[1024];
};

static bool failed(struct trial *t, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(t->why, sizeof t->why, fmt, ap);
    va_end(ap);
    return false;
}

static bool has_weight(enum op op) { return op == OP_MATMUL || op == OP_CONV2D || op == OP_CONV2D_DX; }

/* Inputs that stay f32 whatever activations are stored as. */
static bool stays_f32(enum op op, int i) {
    switch (op) {
    case OP_GROUP_NORM_DX:
    case OP_GROUP_NORM_DP:
    case OP_LAYER_NORM_DX:
    case OP_LAYER_NORM_DP: return i == 2;
    case OP_ATTENTION_DX: return i == 4;
    case OP_EMBED:
    case OP_EMBED_DW:
    case OP_TIMESTEP:
    case OP_MSE_DX: return i == 0;
    case OP_HUBER: return i == 2;
    case OP_HUBER_DX: return i == 0 || i == 3;
    case OP_MATMUL_TN: return i == 2;
    case OP_SUM_SQUARES:
    case OP_ACCUMULATE:
    case OP_EMA:
    case OP_ADAMW:
    case OP_LION:
    case OP_SCHEDULE_FREE:
    case OP_PRODIGY_SUMS:
    case OP_PRODIGY:
    case OP_PAIR_NORM:
    case OP_ADAFACTOR: return true;
    case OP_DROPOUT: return i == 1;
    default: return false;
    }
}

/* Ops that always work in place: on banks that stay f32. */
static bool is_update(enum op op) { return op != OP_SUM_SQUARES && stays_f32(op, 0) && stays_f32(op, 1); }

enum { GUARD_ROWS = 64 };
static const float GUARD = 1536.0f; /* exact in f16 */

/* Moves result i into a set of its own, between two guards. */
static void guard_result(struct trial *t, int i) {
    struct value *v = graph_value(t->g, t->g->nodes[t->node].out[i]);
    struct shape guard = {1, 1, GUARD_ROWS, 4};
    struct tensor_set *set = tensor_set_create(t->a, "guarded", v->dtype, false, 0);
    tensor_set_add(set, "before", guard);
    v->slot = tensor_set_add(set, "result", v->shape);
    tensor_set_add(set, "after", guard);
    v->cls = VALUE_SET, v->set = set, v->bank = SET_DATA, v->keep = true;
    t->guarded[i] = set;
}

static enum tensor_dtype narrow_dtype(enum mode m) {
    return m == MODE_HALF ? TENSOR_F16 : m == MODE_INT8 ? TENSOR_INT8 : m == MODE_NF4 ? TENSOR_NF4 : TENSOR_F32;
}

static bool build(struct trial *t) {
    const struct op_case *c = t->c;
    struct graph *g = t->g = graph_create(t->a, t->rig->storage);
    int in[GRAPH_MAX_IN], replaced = t->mode == MODE_IN_PLACE ? op_table[c->op].inplace : -1;
    for (int i = 0; i < GRAPH_MAX_IN; i++) {
        in[i] = t->source[i] = -1;
        if (!c->in[i].n) continue;
        if (i == 1 && (t->mode == MODE_FROZEN || narrow_dtype(t->mode))) {
            t->weights = tensor_set_create(t->a, "weights", t->rig->storage, false, 0);
            if (narrow_dtype(t->mode)) tensor_set_narrow(t->weights, narrow_dtype(t->mode), 1);
            in[i] = t->source[i] = graph_slot(g, t->weights, SET_DATA, tensor_set_add(t->weights, "w", c->in[i]));
            continue;
        }
        in[i] = t->source[i] = graph_io(g, "input", c->in[i]);
        bool narrow = t->rig->storage == TENSOR_F16 && !stays_f32(c->op, i);
        if (narrow || i == replaced) in[i] = graph_copy(g, in[i]);
    }
    t->node = op_case_append(g, c, in);
    if (t->node < 0) return failed(t, "%s", g->error.text);
    for (int i = 0; i < GRAPH_MAX_OUT; i++) {
        int v = t->result[i] = t->mode == MODE_FIRST && i ? -1 : g->nodes[t->node].out[i];
        if (v < 0 || g->values[v].view_of >= 0) continue;
        if (t->mode == MODE_IN_PLACE)
            t->result[i] = graph_output(g, "result", v);
        else
            guard_result(t, i);
    }
    return true;
}

static float *to_float(struct trial *t, const double *d, int64_t n) {
    float *f = arena_alloc(t->a, (size_t)n * sizeof *f);
    for (int64_t i = 0; i < n; i++) f[i] = (float)d[i];
    return f;
}

static void to_storage(struct trial *t, int value) {
    const struct value *v = graph_value(t->g, value);
    bool f16 = v->dtype == TENSOR_F16;
    if (quant_is_coded(v->dtype)) {
        int64_t n = shape_elems(v->shape);
        float *f = to_float(t, t->data[value], n);
        void *coded = arena_alloc(t->a, (size_t)quant_bytes(v->dtype, v->shape));
        quant_pack(coded, v->dtype, v->shape, f);
        quant_unpack(f, v->dtype, v->shape, coded);
        for (int64_t i = 0; i < n; i++) t->data[value][i] = (double)f[i];
        return;
    }
    for (int64_t i = 0; i < shape_elems(graph_shape(t->g, value)); i++) {
        float f = (float)t->data[value][i];
        t->data[value][i] = (double)(f16 ? half_to_float(half_from_float(f)) : f);
    }
}

/* Reference results into data[node->out[i]]. */
static void reference(struct trial *t) {
    const struct node *node = &t->g->nodes[t->node];
    t->data = arena_alloc(t->a, (size_t)t->g->n_values * sizeof *t->data);
    op_case_fill(t->g, t->node, 11, t->data, t->a);
    const double *in[GRAPH_MAX_IN] = {0};
    double *out[GRAPH_MAX_OUT] = {0};
    for (int i = 0; i < node->n_in; i++)
        if (node->in[i] >= 0) to_storage(t, node->in[i]), in[i] = t->data[node->in[i]];
    for (int i = 0; i < node->n_out; i++)
        if (node->out[i] >= 0)
            out[i] = t->data[node->out[i]] =
                arena_alloc(t->a, (size_t)shape_elems(graph_shape(t->g, node->out[i])) * sizeof(double));
    op_table[node->op].ref(t->g, node, in, out);
}

/* Sets: weights filled, guarded ones full of the guard value (but for the reserved zero texels). */
static bool fill_sets(struct trial *t, struct gpu_binding *bindings, int *n, struct error *err) {
    if (t->weights) {
        t->weights_data = gpu_set_create(t->rig->dev, t->weights, SET_DATA, err);
        float *w = to_float(t, t->data[t->source[1]], shape_elems(t->c->in[1]));
        if (!t->weights_data || !gpu_set_write(t->weights_data, 0, w, err)) return false;
        bindings[(*n)++] = (struct gpu_binding){t->weights, SET_DATA, t->weights_data};
    }
    for (int i = 0; i < GRAPH_MAX_OUT; i++) {
        if (!t->guarded[i]) continue;
        struct gpu_set *s = t->guarded_data[i] = gpu_set_create(t->rig->dev, t->guarded[i], SET_DATA, err);
        if (!s) return false;
        size_t bytes = (size_t)gpu_set_chunk_bytes(s, 0), texel = tensor_texel_bytes(t->guarded[i]->dtype);
        uint8_t *raw = arena_alloc(t->a, bytes);
        for (size_t at = SET_ZERO_TEXELS * texel; at < bytes; at += texel / 4) {
            uint16_t half = half_from_float(GUARD);
            if (texel == 8) memcpy(raw + at, &half, 2);
            else memcpy(raw + at, &GUARD, 4);
        }
        if (!gpu_set_write_raw(s, 0, raw, err)) return false;
        bindings[(*n)++] = (struct gpu_binding){t->guarded[i], SET_DATA, s};
    }
    return true;
}

static float texel_channel(const uint8_t *raw, enum tensor_dtype dtype, int64_t texel, int channel) {
    float f;
    uint16_t h;
    if (dtype == TENSOR_F32) return memcpy(&f, raw + texel * 16 + channel * 4, 4), f;
    return memcpy(&h, raw + texel * 8 + channel * 2, 2), half_to_float(h);
}

/* The guards are whole, and the last plane's unused channels are zero. Fills `got`. */
static bool read_guarded(struct trial *t, int i, double *got, struct error *err) {
    const struct tensor_set *set = t->guarded[i];
    const struct tensor_slot *slot = &set->slots[1];
    struct shape s = slot->shape;
    uint8_t *raw = arena_alloc(t->a, (size_t)gpu_set_chunk_bytes(t->guarded_data[i], 0));
    if (!gpu_set_read_raw(t->guarded_data[i], 0, raw, err)) return failed(t, "%s", err->text);
    for (int64_t at = SET_ZERO_TEXELS; at < set->chunk_texels[0]; at++) {
        if (at >= slot->offset && at < slot->offset + shape_texels(s)) continue;
        for (int c = 0; c < 4; c++)
            if (texel_channel(raw, set->dtype, at, c) != GUARD)
                return failed(t, "result %d: wrote texel %lld outside [0, %lld)", i, (long long)(at - slot->offset),
                              (long long)shape_texels(s));
    }
    for (int64_t row = 0; row < shape_rows(s); row++)
        for (int c = 0; c < shape_planes(s) * 4; c++) {
            float f = texel_channel(raw, set->dtype, slot->offset + c / 4 * shape_stride(s) + row, c % 4);
            if (c < s.c)
                got[row * s.c + c] = (double)f;
            else if (f != 0)
                return failed(t, "result %d: channel padding %d of row %lld is %g", i, c, (long long)row, (double)f);
        }
    return true;
}

static bool compare(struct trial *t, int i, const double *got) {
    const struct value *v = graph_value(t->g, t->g->nodes[t->node].out[i]);
    const double *want = t->data[t->g->nodes[t->node].out[i]];
    double range = 0, worst = 0;
    int64_t at = 0;
    for (int64_t k = 0; k < shape_elems(v->shape); k++) {
        double e = fabs(got[k] - want[k]);
        range = fmax(range, fabs(want[k]));
        if (!(e <= worst)) worst = e, at = k;
        if (isnan(e)) break;
    }
    if (worst <= (v->dtype == TENSOR_F16 ? 4e-3 : 1e-4) * range + 1e-6) return true;
    return failed(t, "result %d: error %.3g of range %.3g at row %lld channel %lld: %.7g, not %.7g", i, worst, range,
                  (long long)(at / v->shape.c), (long long)(at % v->shape.c), got[at], want[at]);
}

static bool run(struct trial *t, struct gpu_program **prog) {
    struct error err = {""};
    struct gpu_binding bindings[1 + GRAPH_MAX_OUT];
    int n = 0;
    if (!fill_sets(t, bindings, &n, &err)) return failed(t, "%s", err.text);
    char force[200];
    snprintf(force, sizeof force, "%s=%s", op_table[t->row->op].name, t->row->variant);
    struct gpu_program_params p = {.name = t->c->name, .bindings = bindings, .n_bindings = n, .force_kernel = force,
                                   .no_reuse = t->mode != MODE_IN_PLACE};
    *prog = gpu_program_create(t->rig->dev, t->g, &p, &err);
    if (!*prog) return failed(t, "%s", err.text);
    const struct node *node = &t->g->nodes[t->node];
    for (int i = 0; i < node->n_in; i++)
        if (t->source[i] >= 0 && graph_value(t->g, t->source[i])->cls == VALUE_IO)
            gpu_program_write(*prog, t->source[i], to_float(t, t->data[node->in[i]], shape_elems(t->c->in[i])));
    if (!gpu_program_run(*prog, &err)) return failed(t, "%s", err.text);
    for (int i = 0; i < node->n_out; i++) {
        if (node->out[i] < 0 || (t->mode == MODE_FIRST && i)) continue;
        int64_t elems = shape_elems(graph_shape(t->g, node->out[i]));
        double *got = arena_alloc(t->a, (size_t)elems * sizeof *got);
        if (t->guarded[i]) {
            if (!read_guarded(t, i, got, &err)) return false;
        } else {
            float *f = arena_alloc(t->a, (size_t)elems * sizeof *f);
            gpu_program_read(*prog, t->result[i], f);
            for (int64_t k = 0; k < elems; k++) got[k] = (double)f[k];
        }
        if (!compare(t, i, got)) return false;
    }
    return true;
}

/* Runs a case on a row; true also when the row does not accept it (then *ran stays). */
static bool try_row(struct rig *rig, const struct op_case *c, const struct kernel *row, enum mode mode, int *ran) {
    struct trial t = {.rig = rig, .c = c, .row = row, .mode = mode, .a = arena_create(NULL)};
    struct gpu_program *prog = NULL;
    bool ok = build(&t);
    if (ok) {
        struct kernel_query q = {t.g, &t.g->nodes[t.node], gpu_device_caps(rig->dev)};
        if (kernel_accepts(row, &q)) {
            reference(&t);
            ok = run(&t, &prog);
            ++*ran;
        }
    }
    static const char *const modes[MODES] = {"", ", frozen weight", ", in place", ", first result alone",
                                             ", weight in f16", ", weight in int8", ", weight in nf4"};
    if (!ok) print_error("%s__%s, %s%s: %s\n", op_table[c->op].name, row->variant, c->name, modes[mode], t.why);
    gpu_program_destroy(&prog);
    gpu_set_destroy(&t.weights_data);
    for (int i = 0; i < GRAPH_MAX_OUT; i++) gpu_set_destroy(&t.guarded_data[i]);
    arena_destroy(&t.a);
    return ok;
}

/* --- one op ---------------------------------------------------------------------------------------- */
struct op_test {
    struct rig *rig;
    enum op op;
};

static bool in_place_case(const struct op_case *c) {
    int k = op_table[c->op].inplace;
    if (k < 0 || !c->in[k].n || is_update(c->op)) return false;
    return true;
}

static void test_op(void **state) {
    const struct op_test *t = *state;
    int rows = 0, bad = 0;
    for (int r = 0; r < kernel_count; r++) {
        const struct kernel *row = &kernel_table[r];
        if (row->op != t->op || row->cls != t->rig->cls) continue;
        rows++;
        int ran = 0;
        for (int k = 0; k < op_case_count; k++) {
            const struct op_case *c = &op_cases[k];
            if (c->op != t->op || (c->big && t->rig->cls == KERNEL_GPU && test_device_is_cpu())) continue;
            bad += !try_row(t->rig, c, row, MODE_PLAIN, &ran);
            if (has_weight(t->op)) bad += !try_row(t->rig, c, row, MODE_FROZEN, &ran);
            for (int m = MODE_HALF; m < MODES && row->decodes; m++) bad += !try_row(t->rig, c, row, (enum mode)m, &ran);
            if (in_place_case(c) && !c->big) bad += !try_row(t->rig, c, row, MODE_IN_PLACE, &ran);
            if (c->op == OP_ATTENTION) bad += !try_row(t->rig, c, row, MODE_FIRST, &ran);
        }
        if (!ran) print_error("%s__%s accepts no case\n", op_table[t->op].name, row->variant), bad++;
    }
    if (!rows) fail_msg("no kernel for %s", op_table[t->op].name);
    if (bad) fail_msg("%d failures", bad);
    assert_int_equal(gpu_device_messages(t->rig->dev), 0);
}

/* The class's last row for an op takes every case: nothing is without a kernel, on the smallest device either. */
static void test_every_case_has_a_row(void **state) {
    struct rig *rig = *state;
    for (int k = 0; k < op_case_count; k++) {
        struct trial t = {.rig = rig, .c = &op_cases[k], .a = arena_create(NULL)};
        assert_true(build(&t));
        struct kernel_caps caps = *gpu_device_caps(rig->dev);
        if (rig->cls == KERNEL_GPU) caps.shared_bytes = 16384, caps.max_workgroup = 128; /* what Vulkan guarantees */
        struct kernel_query q = {t.g, &t.g->nodes[t.node], &caps};
        bool any = false;
        for (int r = 0; r < kernel_count; r++) {
            const struct kernel *row = &kernel_table[r];
            any |= row->op == t.c->op && row->cls == rig->cls && kernel_accepts(row, &q);
        }
        if (!any) fail_msg("no kernel for %s (%s)", op_table[t.c->op].name, t.c->name);
        arena_destroy(&t.a);
    }
}

/* A row of queries that are not numbers, with the sign that processors give them, has no result and no gradients that are:
 * otherwise a loss would look sound while weights go bad. */
static bool nan_stays(struct rig *rig, const struct kernel *row) {
    enum { ROWS = 24, WIDTH = 32, HEADS = 2, BAD = 5 };
    struct error err = {""};
    struct arena *a = arena_create(NULL);
    struct graph *g = graph_create(a, rig->storage);
    bool dx = row->op == OP_ATTENTION_DX;
    int in[6], n = dx ? 6 : 3;
    for (int i = 0; i < n; i++) in[i] = graph_io(g, "input", (struct shape){1, 1, ROWS, i == 4 ? HEADS : WIDTH});
    int node = graph_append(g, row->op, in, n, (union op_attr){.attn = {HEADS, 0.25f, 0}});
    int out = graph_output(g, "result", g->nodes[node].out[0]), dk = dx ? graph_output(g, "dk", g->nodes[node].out[1]) : -1;
    struct kernel_query q = {g, &g->nodes[node], gpu_device_caps(rig->dev)};
    if (!kernel_accepts(row, &q)) {
        arena_destroy(&a);
        return false;
    }
    struct gpu_program_params p = {.name = "A test"};
    p.force_kernel = arena_printf(a, "%s=%s", op_table[row->op].name, row->variant);
    graph_prune(g);
    struct gpu_program *prog = gpu_program_create(rig->dev, g, &p, &err);
    if (!prog) fail_msg("%s", err.text);
    float x[ROWS * WIDTH], nan = copysignf(NAN, -1);
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < ROWS * WIDTH; k++) x[k] = i == 4 ? 3 : sinf((float)(k * (i + 2)));
        for (int k = 0; k < WIDTH && !i; k++) x[BAD * WIDTH + k] = nan;
        gpu_program_write(prog, in[i], x);
    }
    assert_true(gpu_program_run(prog, &err));
    gpu_program_read(prog, out, x);
    for (int k = 0; k < ROWS * WIDTH; k++)
        if (isnan(x[k]) != (k / WIDTH == BAD)) fail_msg("%s: row %d is %g", p.force_kernel, k / WIDTH, (double)x[k]);
    if (dx) gpu_program_read(prog, dk, x);
    for (int k = 0; k < ROWS * WIDTH && dx; k++)
        if (!isnan(x[k])) fail_msg("%s: the keys' gradient is %g", p.force_kernel, (double)x[k]);
    gpu_program_destroy(&prog);
    arena_destroy(&a);
    return true;
}
static void test_nan_stays(void **state) {
    struct rig *rig = *state;
    int ran = 0;
    for (int r = 0; r < kernel_count; r++)
        if ((kernel_table[r].op == OP_ATTENTION || kernel_table[r].op == OP_ATTENTION_DX) && kernel_table[r].cls == rig->cls)
            ran += nan_stays(rig, &kernel_table[r]);
    assert_in_range(ran, rig->cls == KERNEL_CPU ? 6 : 2, 8);
}

static bool open_rig(struct rig *rig, struct error *err) {
    struct gpu_params p = {.device = test_device(), .force_class = rig->cls, .f32 = rig->f32,
                           .validate = getenv("ATELIER_VALIDATE") != NULL};
    rig->dev = gpu_device_create(&p, err);
    if (!rig->dev) return false;
    rig->storage = gpu_device_storage(rig->dev);
    return true;
}

int main(void) {
    const char *only_op = getenv("ATELIER_TEST_OP"), *only_rig = getenv("ATELIER_TEST_RIG");
    int bad = 0;
    for (size_t r = 0; r < sizeof rigs / sizeof *rigs; r++) {
        struct rig *rig = &rigs[r];
        if (only_rig && strncmp(rig->name, only_rig, strlen(only_rig))) continue;
        if (!test_device_runs(rig->cls)) continue;
        struct error err;
        if (!open_rig(rig, &err)) {
            fprintf(stderr, "%s: %s\n", rig->name, err.text);
            return 1;
        }
        struct op_test states[OP_COUNT];
        struct CMUnitTest tests[OP_COUNT + 2];
        int n = 0;
        for (int op = 0; op < OP_COUNT; op++) {
            states[op] = (struct op_test){rig, (enum op)op};
            if (only_op && strcmp(only_op, op_table[op].name)) continue;
            tests[n++] = (struct CMUnitTest){op_table[op].name, test_op, NULL, NULL, &states[op]};
        }
        if (!only_op) tests[n++] = (struct CMUnitTest){"every case has a row", test_every_case_has_a_row, NULL, NULL, rig};
        if (!only_op) tests[n++] = (struct CMUnitTest){"nan stays in attention", test_nan_stays, NULL, NULL, rig};
        bad += _cmocka_run_group_tests(rig->name, tests, (size_t)n, NULL, NULL);
        gpu_device_destroy(&rig->dev);
    }
    return bad != 0;
}
