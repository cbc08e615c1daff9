/* Timings as a table or as JSON; tools/bench_peer.py measures the same with torch. */
#include <stdio.h>
#include <string.h>

#include "app/bench_plan.h"
#include "app/commands.h"
#include "app/common.h"
#include "base/log.h"
#include "base/os.h"
#include "base/text.h"
#include "engine/bench.h"
#include "io/json.h"

struct bench_options {
    const char *only, *load;
    double seconds;
    int runs, side;
    enum tensor_dtype weights;
    bool lean;
    bool json, no_unet, checkpointing, plan;
};
#define FIELD(name) offsetof(struct bench_options, name)

static const struct option rows[] = {
    {"only", OPTION_TEXT, FIELD(only), "TEXT", "only items whose name contains this"},
    {"seconds", OPTION_NUMBER, FIELD(seconds), "X", "how long to repeat each operator", 0.01, 600},
    {"runs", OPTION_INT, FIELD(runs), "N", "how often to repeat the UNet items", 1, 100},
    {"no-unet", OPTION_FLAG, FIELD(no_unet), NULL, "operators only; the UNet takes 4 GiB and minutes"},
    {"checkpointing", OPTION_FLAG, FIELD(checkpointing), NULL, "recompute activations in the training step"},
    {"side", OPTION_INT, FIELD(side), "N", "latents of the UNet items, N x N (64 for prediction, 32 for training)", 8, 256},
    {"lean", OPTION_FLAG, FIELD(lean), NULL, "UNet items without prepared weights: less memory"},
    {"plan", OPTION_FLAG, FIELD(plan), NULL,
     "run nothing; print the memory that SD1.5 and SDXL take on a device\nof this class (--class gpu: on graphics cards)"},
    {"json", OPTION_FLAG, FIELD(json), NULL, "print JSON"},
    {"load", OPTION_TEXT, FIELD(load), "MODEL", "only time how long this model takes to load, every part of it"},
};

struct item {
    const char *name;
    struct bench_op op;
};
static const struct item items[] = {
    {"gemm 4096x320x320", {BENCH_GEMM, {4096, 320, 320}}},       {"gemm 4096x320x2880", {BENCH_GEMM, {4096, 320, 2880}}},
    {"gemm 1024x1280x1280", {BENCH_GEMM, {1024, 1280, 1280}}},   {"gemm 2048x2048x2048", {BENCH_GEMM, {2048, 2048, 2048}}},
    {"conv3x3 320@64x64", {BENCH_CONV, {320, 64, 0}}},           {"conv3x3 640@32x32", {BENCH_CONV, {640, 32, 0}}},
    {"conv3x3 1280@8x8", {BENCH_CONV, {1280, 8, 0}}},            {"attention 8x4096x40", {BENCH_ATTENTION, {8, 4096, 40}}},
    {"attention 8x1024x80", {BENCH_ATTENTION, {8, 1024, 80}}},
    {"attention dx 8x4096x40", {BENCH_ATTENTION_DX, {8, 4096, 40}}},
    {"attention dx 8x1024x64", {BENCH_ATTENTION_DX, {8, 1024, 64}}},
    {"attention dx 8x1024x80", {BENCH_ATTENTION_DX, {8, 1024, 80}}},
};

struct bench {
    const struct bench_options *o;
    struct gpu_device *dev;
    const char *kernel; /* --kernel, of the single operators */
    json_t *items; /* NULL: a table on stdout */
    bool any;      /* item that --only wants */
};

static bool wanted(struct bench *b, const char *name) {
    bool yes = !b->o->only || strstr(name, b->o->only);
    b->any |= yes;
    return yes;
}

static json_t *result_json(const char *name, const struct bench_result *r) {
    return json_pack("{s:s,s:f,s:f,s:i,s:f,s:f}", "name", name, "ms", r->best * 1e3, "median_ms", r->median * 1e3, "runs",
                     r->runs, "gflop", r->flops * 1e-9, "gflops", r->flops / r->best * 1e-9);
}

static bool run_op(struct bench *b, const struct item *it, struct error *e) {
    struct bench_result r;
    if (!bench_run_op(b->dev, &it->op, b->kernel, b->o->seconds, &r, e)) return false;
    if (!b->items) {
        printf("%-28s %9.2f %9.2f %8.1f   %s\n", it->name, r.best * 1e3, r.median * 1e3, r.flops / r.best * 1e-9, r.variant);
        fflush(stdout);
        return true;
    }
    json_t *o = result_json(it->name, &r);
    json_object_set_new(o, "kernel", json_string(r.variant));
    json_array_append_new(b->items, o);
    return true;
}

static void print_unet(const char *name, const struct bench_unet_result *r) {
    char bytes[COMMON_BYTES_TEXT], act[COMMON_BYTES_TEXT], prep[COMMON_BYTES_TEXT], rss[COMMON_BYTES_TEXT],
        weights[COMMON_BYTES_TEXT];
    printf("%-28s %9.1f %9.1f %8.1f\n", name, r->time.best * 1e3, r->time.median * 1e3, r->time.flops / r->time.best * 1e-9);
    printf("  %.0f M weights, %.0f GFLOP; device peak %s (weights %s, prepared %s, activations %s), process peak %s\n",
           (double)r->n_weights * 1e-6, r->time.flops * 1e-9, common_bytes_text(r->peak_bytes, bytes),
           common_bytes_text(r->weight_bytes, weights), common_bytes_text(r->prepared_bytes, prep),
           common_bytes_text(r->activation_bytes, act), common_bytes_text((int64_t)os_memory_peak_rss(), rss));
    double all = 0;
    for (int i = 0; i < r->n_shares; i++) all += r->shares[i].seconds;
    for (int i = 0; i < r->n_shares; i++) {
        const struct bench_share *s = &r->shares[i];
        printf("  %5.1f%% %9.1f ms %6d nodes  %-14s %-16s", 100 * s->seconds / all, s->seconds * 1e3, s->nodes, s->op,
               s->variant);
        if (s->flops > 0) printf(" %7.1f GFLOP/s", s->flops / s->seconds * 1e-9);
        printf("\n");
    }
}

static json_t *unet_json(const char *name, const struct bench_unet_result *r) {
    json_t *o = result_json(name, &r->time), *shares = json_array();
    json_object_set_new(o, "device_peak_mib", json_real((double)r->peak_bytes / 1048576));
    json_object_set_new(o, "weights_mib", json_real((double)r->weight_bytes / 1048576));
    json_object_set_new(o, "prepared_mib", json_real((double)r->prepared_bytes / 1048576));
    json_object_set_new(o, "activations_mib", json_real((double)r->activation_bytes / 1048576));
    json_object_set_new(o, "peak_rss_mib", json_real((double)os_memory_peak_rss() / 1048576));
    for (int i = 0; i < r->n_shares; i++) {
        const struct bench_share *s = &r->shares[i];
        json_array_append_new(shares, json_pack("{s:s,s:s,s:f,s:i,s:f}", "op", s->op, "kernel", s->variant, "ms",
                                                s->seconds * 1e3, "nodes", s->nodes, "gflop", s->flops * 1e-9));
    }
    json_object_set_new(o, "shares", shares);
    return o;
}

static bool run_unet(struct bench *b, const char *name, bool training, struct error *e) {
    static struct bench_unet_result r;
    struct unet_config cfg = bench_unet_sd15();
    struct bench_unet_params p = {.side = b->o->side ? b->o->side : training ? 32 : 64, .runs = b->o->runs,
                                  .weights = b->o->weights, .no_prepare = b->o->lean, .remat = b->o->checkpointing};
    bool ok = training ? bench_unet_train(b->dev, &cfg, &p, &r, e) : bench_unet_forward(b->dev, &cfg, &p, &r, e);
    if (!ok) return false;
    if (b->items) json_array_append_new(b->items, unet_json(name, &r));
    else print_unet(name, &r);
    return true;
}

static bool found(const struct bench *b, struct error *e) {
    return b->any || error_set(e, "No item that would run is called like \"%s\"; without --only you see their names.",
                               TEXT_SHOW(b->o->only));
}

static bool run_all(struct bench *b, struct error *e) {
    if (!b->items)
        printf("%s\n%-28s %9s %9s %8s   %s\n", gpu_device_name(b->dev), "", "best ms", "median", "GFLOP/s", "kernel");
    for (size_t i = 0; i < sizeof items / sizeof *items; i++)
        if (wanted(b, items[i].name) && !run_op(b, &items[i], e)) return false;
    if (b->o->no_unet) return found(b, e);
    struct arena *a = arena_create(NULL);
    const char *forward =
        arena_printf(a, "unet sd15 forward %dx%d", b->o->side ? b->o->side : 64, b->o->side ? b->o->side : 64);
    const char *step = arena_printf(a, "lora step %dx%d rank 8", b->o->side ? b->o->side : 32, b->o->side ? b->o->side : 32);
    bool ok = (!wanted(b, forward) || run_unet(b, forward, false, e)) && (!wanted(b, step) || run_unet(b, step, true, e));
    arena_destroy(&a);
    return ok && found(b, e);
}

/* From files in the page cache (if they were read before) to weights on the device; the device itself is there. */
static bool run_load(struct engine *e, struct error *err) {
    static const char *const names[ENGINE_PARTS] = {"UNet", "VAE", "text encoder", "second text encoder"};
    double total = e->open_seconds;
    printf("%-28s %9.2f s\n", "configs and headers", e->open_seconds);
    for (int part = 0; part < ENGINE_TEXT + e->model->n_texts; part++) {
        double start = os_now_seconds();
        if (!engine_load(e, (enum engine_part)part, err)) return false;
        double seconds = os_now_seconds() - start, mib = (double)gpu_set_bytes(e->parts[part]) / 1048576;
        printf("%-28s %9.2f s %9.0f MiB %9.0f MiB/s\n", names[part], seconds, mib, mib / seconds);
        total += seconds;
    }
    printf("%-28s %9.2f s\n", "ready", total);
    return true;
}

static void print_json(const struct bench *b) {
    json_t *o = json_pack("{s:s,s:O}", "device", gpu_device_name(b->dev), "items", b->items);
    char *text = json_dumps(o, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    if (text) puts(text);
    free(text);
    json_decref(o);
}

bool cmd_bench(int argc, char **argv, struct error *e) {
    struct arena *a = arena_create(NULL);
    struct common common = {0};
    struct bench_options o = {.seconds = 1, .runs = 3};
    struct option_command cmd = {.usage = "bench [--only TEXT] [--json] | --load MODEL",
                                 .about = "Times operators, and prediction and LoRA step of Stable Diffusion 1.5's UNet with "
                                          "random weights.",
                                 .tables = {{OPTION_ROWS(rows), &o}, common_table(&common), common_files_table(&common.files)},
                                 .n_tables = 3};
    struct option_result given;
    struct engine *engine = NULL;
    bool ok = option_parse(&cmd, argc, argv, a, &given, e);
    if (ok && given.help) option_print_help(&cmd);
    else if (ok) {
        common_apply(&common);
        ok = (engine = common_engine(&common, o.load, e)) != NULL;
        if (ok) o.weights = engine_weights_dtype(engine->params.weights, gpu_device_storage(engine->dev));
        struct bench b = {&o, engine ? engine->dev : NULL, common.kernel, o.json ? json_array() : NULL};
        if (o.load) ok = ok && run_load(engine, e);
        else if (o.plan) ok = ok && bench_plan(b.dev, e);
        else ok = ok && run_all(&b, e);
        if (ok && o.json && !o.load && !o.plan) print_json(&b);
        json_decref(b.items);
    }
    ok = common_close(&engine, ok, e);
    arena_destroy(&a);
    return ok;
}
