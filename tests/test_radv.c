/* Every gpu-class pipeline through AMD's real compiler, for four generations of cards, without a card:
 * nothing may spill registers, or take more shared memory than every Vulkan device has. The list of pipelines comes from
 * recording the op cases and the layers of a 512 px Stable Diffusion 1.5 with the kernel rows themselves. ATELIER_RADV_TABLE=1
 * prints every figure. */
#include "tests/support/cm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gpu/program.h"
#include "tests/support/op_cases.h"
#include "tests/support/radv_probe.h"

enum { MAX_PIPELINES = 2048, LEAST_SHARED_BYTES = 16384 };
struct listing {
    int n;
    struct radv_pipeline pipelines[MAX_PIPELINES];
};
static struct listing *listing; /* shared with the children */

/* --- what the engine compiles --------------------------------------------------------------------- */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#define T(n, t, c) {n, 1, t, c}
#define W(out, in) {1, 1, out, in}
/* Shapes whose kernels differ from the op cases': large tiles, split sums, wide heads. Batch 2: guidance. */
static const struct op_case layers[] = {
    {OP_MATMUL, "64x64", {.matmul = {0}}, {T(2, 4096, 320), W(2560, 320), {1, 1, 1, 2560}}},
    {OP_MATMUL, "8x8", {.matmul = {0}}, {T(2, 64, 1280), W(1280, 1280), {1, 1, 1, 1280}, T(2, 64, 1280)}},
    {OP_MATMUL, "64x64 back", {.matmul = {1}}, {T(1, 4096, 2560), W(2560, 320)}},
    {OP_MATMUL_TN, "adapter", {{0}}, {T(1, 4096, 16), T(1, 4096, 320)}},
    {OP_MATMUL_TN, "full", {{0}}, {T(1, 4096, 320), T(1, 4096, 320)}},
    {OP_CONV2D, "64x64", {.conv = {3, 1, 1, 0}}, {{2, 64, 64, 320}, {9, 1, 320, 320}, {1, 1, 1, 320}, {2, 64, 64, 320}},
     {2, 64, 64, 320}},
    {OP_CONV2D, "16x16", {.conv = {3, 1, 1, 0}}, {{2, 16, 16, 1280}, {9, 1, 1280, 1280}, {1, 1, 1, 1280}}, {2, 16, 16, 1280}},
    {OP_CONV2D, "down", {.conv = {3, 2, 1, 0}}, {{2, 64, 64, 320}, {9, 1, 320, 320}, {1, 1, 1, 320}}, {2, 32, 32, 320}},
    {OP_CONV2D, "up", {.conv = {3, 1, 1, 1}}, {{2, 32, 32, 640}, {9, 1, 640, 640}, {1, 1, 1, 640}}, {2, 64, 64, 640}},
    {OP_CONV2D_DX, "64x64", {.conv = {3, 1, 1, 0}}, {{1, 64, 64, 320}, {9, 1, 320, 320}}, {1, 64, 64, 320}},
    {OP_CONV2D_DX, "up", {.conv = {3, 1, 1, 1}}, {{1, 64, 64, 640}, {9, 1, 640, 640}}, {1, 32, 32, 640}},
    {OP_CONV2D_DX, "down", {.conv = {3, 2, 1, 0}}, {{1, 32, 32, 320}, {9, 1, 320, 320}}, {1, 64, 64, 320}},
    {OP_ATTENTION, "64x64", {.attn = {8, 0.158f, 0}}, {T(2, 4096, 320), T(2, 4096, 320), T(2, 4096, 320)}},
    {OP_ATTENTION, "32x32 SD2", {.attn = {10, 0.125f, 0}}, {T(2, 1024, 640), T(2, 1024, 640), T(2, 1024, 640)}},
    {OP_ATTENTION, "32x32", {.attn = {8, 0.112f, 0}}, {T(2, 1024, 640), T(2, 1024, 640), T(2, 1024, 640)}},
    {OP_ATTENTION, "16x16", {.attn = {8, 0.079f, 0}}, {T(2, 256, 1280), T(2, 256, 1280), T(2, 256, 1280)}},
    {OP_ATTENTION, "picture decoder", {.attn = {1, 0.044f, 0}}, {T(1, 4096, 512), T(1, 4096, 512), T(1, 4096, 512)}},
    {OP_ATTENTION_DX, "64x64", {.attn = {8, 0.158f, 0}},
     {T(1, 4096, 320), T(1, 4096, 320), T(1, 4096, 320), T(1, 4096, 320), T(1, 4096, 8), T(1, 4096, 320)}},
    {OP_ATTENTION_DX, "32x32", {.attn = {8, 0.112f, 0}},
     {T(1, 1024, 640), T(1, 1024, 640), T(1, 1024, 640), T(1, 1024, 640), T(1, 1024, 8), T(1, 1024, 640)}},
    {OP_ATTENTION_DX, "16x16", {.attn = {8, 0.079f, 0}},
     {T(1, 256, 1280), T(1, 256, 1280), T(1, 256, 1280), T(1, 256, 1280), T(1, 256, 8), T(1, 256, 1280)}},
    {OP_ATTENTION_DX, "picture encoder", {.attn = {1, 0.044f, 0}},
     {T(1, 1024, 512), T(1, 1024, 512), T(1, 1024, 512), T(1, 1024, 512), T(1, 1024, 1), T(1, 1024, 512)}},
};

static bool has_weight(enum op op) { return op == OP_MATMUL || op == OP_CONV2D || op == OP_CONV2D_DX; }

/* Records one node as the engine would: inputs stored as activations are, the weight in int8 or nf4 if `narrow` says so. */
static bool record(struct gpu_device *dev, const struct op_case *c, enum tensor_dtype narrow) {
    if (narrow && (!has_weight(c->op) || !quant_fits(c->in[1]))) return true;
    struct error err = {""};
    struct arena *a = arena_create(NULL);
    struct tensor_set *weights = tensor_set_create(a, "weights", gpu_device_storage(dev), false, 0);
    struct gpu_set *data = NULL;
    if (narrow) tensor_set_narrow(weights, narrow, 1);
    struct graph *g = graph_create(a, gpu_device_storage(dev));
    int in[GRAPH_MAX_IN];
    for (int i = 0; i < GRAPH_MAX_IN; i++) in[i] = c->in[i].n ? graph_copy(g, graph_io(g, "input", c->in[i])) : -1;
    bool statistics = c->op == OP_ATTENTION_DX || c->op == OP_ADAMW || c->op == OP_ACCUMULATE || c->op == OP_SUM_SQUARES ||
                      c->op == OP_EMBED || c->op == OP_EMBED_DW || c->op == OP_TIMESTEP || c->op == OP_MSE_DX ||
                      c->op == OP_HUBER || c->op == OP_HUBER_DX || c->op == OP_GROUP_NORM_DX || c->op == OP_GROUP_NORM_DP ||
                      c->op == OP_LAYER_NORM_DX || c->op == OP_LAYER_NORM_DP;
    for (int i = 0; statistics && i < GRAPH_MAX_IN; i++) /* some of their inputs are f32 always: keep all so */
        if (in[i] >= 0) in[i] = g->nodes[graph_value(g, in[i])->producer].in[0];
    if (narrow) {
        in[1] = graph_slot(g, weights, SET_DATA, tensor_set_add(weights, "w", c->in[1]));
        data = gpu_set_create(dev, weights, SET_DATA, &err);
    }
    int node = op_case_append(g, c, in);
    if (node >= 0) g->values[g->nodes[node].out[0]].keep = true;
    struct gpu_binding binding = {weights, SET_DATA, data};
    struct gpu_program_params p = {.name = c->name, .bindings = &binding, .n_bindings = data != NULL};
    struct gpu_program *prog = graph_ok(g, &err) ? gpu_program_create(dev, g, &p, &err) : NULL;
    if (!prog) fprintf(stderr, "%s, %s: %s\n", op_table[c->op].name, c->name, err.text);
    bool ok = prog != NULL;
    gpu_program_destroy(&prog);
    gpu_set_destroy(&data);
    arena_destroy(&a);
    return ok;
}

static bool list_pipelines(bool f32) {
    struct error err;
    struct gpu_params params = {.device = "cpu", .force_class = KERNEL_GPU, .f32 = f32};
    struct gpu_device *dev = gpu_device_create(&params, &err);
    if (!dev) return fprintf(stderr, "%s\n", err.text), false;
    bool ok = true;
    for (size_t i = 0; i < sizeof layers / sizeof *layers; i++)
        ok = record(dev, &layers[i], TENSOR_F32) && record(dev, &layers[i], TENSOR_INT8) &&
             record(dev, &layers[i], TENSOR_NF4) && ok;
    for (int i = 0; i < op_case_count && !f32; i++) ok = record(dev, &op_cases[i], TENSOR_F32) && ok;
    static struct gpu_pipeline_use use[MAX_PIPELINES];
    int n = gpu_device_pipelines(dev, use, MAX_PIPELINES);
    for (int i = 0; i < n && listing->n < MAX_PIPELINES; i++) {
        struct radv_pipeline *to = &listing->pipelines[listing->n++];
        snprintf(to->shader, sizeof to->shader, "%s", use[i].shader);
        memcpy(to->spec, use[i].spec, (size_t)use[i].n_spec * 4);
        to->n_spec = use[i].n_spec;
    }
    gpu_device_destroy(&dev);
    return ok && listing->n < MAX_PIPELINES;
}

/* --- one family ----------------------------------------------------------------------------------- */
static void print_figures(const struct radv_pipeline *p, const struct radv_figures *f) {
    printf("%4d VGPRs %3d SGPRs %5d LDS %6d code %2d waves", (int)f->vgprs, (int)f->sgprs, (int)f->lds_bytes,
           (int)f->code_bytes, (int)f->waves);
    if (f->spilled_vgprs || f->spilled_sgprs || f->scratch_bytes)
        printf(" SPILLED %d VGPRs %d SGPRs %d scratch bytes", (int)f->spilled_vgprs, (int)f->spilled_sgprs,
               (int)f->scratch_bytes);
    printf("  %s", p->shader);
    for (int i = 1; i < p->n_spec; i++) printf("%c%u", i == 1 ? ' ' : ',', p->spec[i]);
    printf("\n");
}

static bool check_family(const char *family) {
    radv_choose(family);
    char name[256];
    if (!radv_open(name)) return false;
    bool all = getenv("ATELIER_RADV_TABLE") != NULL;
    int bad = 0, most = 0;
    for (int i = 0; i < listing->n; i++) {
        struct radv_pipeline *p = &listing->pipelines[i];
        p->spec[0] = radv_subgroup();
        struct radv_figures f;
        bool ok = radv_compile(p, &f) && f.vgprs > 0 && !f.spilled_vgprs && !f.spilled_sgprs && !f.scratch_bytes &&
                  f.lds_bytes <= LEAST_SHARED_BYTES;
        if ((int)f.vgprs > most) most = (int)f.vgprs;
        if (!ok || all) print_figures(p, &f);
        bad += !ok;
    }
    radv_close();
    printf("%s: %d pipelines, at most %d VGPRs, %d fail\n", name, listing->n, most, bad);
    return !bad;
}

/* The driver reads its environment once per process, hence a process each. */
static bool in_child(bool (*work)(const char *family), const char *family) {
    fflush(NULL);
    pid_t child = fork();
    if (child < 0) return false;
    if (!child) {
        bool ok = work(family);
        fflush(NULL);
        _exit(ok ? 0 : 1);
    }
    int status;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool list_in_child(const char *unused) {
    (void)unused; /* the made-up cards have no memory to plan in: the rows are recorded on the CPU device */
    return list_pipelines(false) && list_pipelines(true);
}

static int make_list(void **state) {
    (void)state;
    listing = mmap(NULL, sizeof *listing, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return listing != MAP_FAILED && in_child(list_in_child, NULL) && listing->n > 0 ? 0 : 1;
}

static void test_family(void **state) { assert_true(in_child(check_family, *state)); }

int main(void) {
    if (!radv_manifest()) {
        printf("skipped: Mesa's driver for AMD cards is not installed (Debian: mesa-vulkan-drivers)\n");
        return 0;
    }
    static char *families[] = {"vega10", "navi10", "navi21", "gfx1100"};
    struct CMUnitTest tests[4];
    for (int i = 0; i < 4; i++) tests[i] = (struct CMUnitTest){families[i], test_family, NULL, NULL, families[i]};
    return cmocka_run_group_tests(tests, make_list, NULL);
}
