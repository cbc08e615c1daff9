#include "app/common.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/log.h"
#include "base/os.h"
#include "base/path.h"
#include "base/sha256.h"
#include "base/text.h"

#define FIELD(name) offsetof(struct common, name)

static const struct option rows[] = {
    {"device", OPTION_TEXT, FIELD(device), "NAME",
     "cpu, gpu, an index of `atelier devices` or part of a name\n(the best: discrete, integrated, then CPU)"},
    {"memory", OPTION_TEXT, FIELD(memory), "SIZE", "use at most this much device memory: MiB, or like 4GB, 3.5GiB, 900MB"},
    {"weights", OPTION_CHOICE, FIELD(weights), "TYPE",
     "how the UNet's weights lie on the device: f32, f16, int8 or nf4\n"
     "(as the device computes: f16 on GPUs, f32 on CPUs); int8 and nf4\n"
     "also serve as the frozen base of training", .choices = "f32|f16|int8|nf4"},
    {"vae-tiling", OPTION_CHOICE, FIELD(vae_tiling), "WHEN",
     "let the VAE work in tiles of 512 pixels, blended as diffusers does:\n"
     "on, off, auto where a picture does not fit in one piece (auto)", .choices = "auto|on|off"},
    {"threads", OPTION_INT, FIELD(threads), "N", "threads of the CPU device and of the host (one per core)", 1, 256},
    {"config", OPTION_TEXT, FIELD(config), "FILE", "JSON object of option names and values, as defaults"},
    {"quiet", OPTION_FLAG, FIELD(quiet), NULL, "say nothing but warnings, errors and the result"},
    {"debug", OPTION_FLAG, FIELD(debug), NULL, "say more: kernels, memory, timings"},
    {"validate", OPTION_FLAG, FIELD(validate), NULL,
     "run under the Vulkan validation layer; any message is an error\n(also by the environment variable ATELIER_VALIDATE)"},
    {"step", OPTION_FLAG, FIELD(step), NULL, "submit one operator at a time"},
    {"nan", OPTION_FLAG, FIELD(nan), NULL, "stop at the first operator whose result is not finite"},
    {"check", OPTION_FLAG, FIELD(check), NULL, "compare every operator with its double precision reference (very slow)"},
    {"kernel", OPTION_TEXT, FIELD(kernel), "OP=VARIANT", "use this kernel for that operator"},
    {"class", OPTION_CHOICE, FIELD(class_name), "CLASS",
     "kernels of this class: cpu or gpu (the device's own)", 0, 0, "cpu|gpu"},
    {"f32", OPTION_FLAG, FIELD(f32), NULL, "keep weights and activations in f32 on a GPU"},
};

struct option_table common_table(struct common *c) { return (struct option_table){OPTION_ROWS(rows), c}; }

#undef FIELD
#define FIELD(name) offsetof(struct model_files, name)
static const struct option file_rows[] = {
    {"vae", OPTION_TEXT, FIELD(vae), "FILE",
     "a VAE from elsewhere instead of the model's: a file, or a folder as diffusers has it;\n"
     "a TAESD decoder draws faster, a little coarser"},
    {"tokenizer", OPTION_TEXT, FIELD(tokenizer), "DIR",
     "vocab.json and merges.txt instead of the model's\n(a single file: CLIP's, which is built in)"},
    {"variant", OPTION_TEXT, FIELD(variant), "NAME", "of a folder's weights, such as fp16 (plain ones first)"},
    {"prediction", OPTION_CHOICE, FIELD(prediction), "KIND",
     "what the UNet predicts: epsilon, v_prediction, sample\n(as the model says)", 0, 0, "epsilon|v_prediction|sample"},
};

struct option_table common_files_table(struct model_files *f) { return (struct option_table){OPTION_ROWS(file_rows), f}; }

void common_apply(const struct common *c) {
    if (c->debug) log_set_level(LOG_DEBUG);
    else if (c->quiet) log_set_level(LOG_WARN);
    if (!c->threads) return;
    char text[16];
    snprintf(text, sizeof text, "%d", c->threads);
    os_setenv_default("LP_NUM_THREADS", text);
    os_setenv_default("ATELIER_THREADS", text);
}

static enum engine_weights weights_choice(const char *name) {
    static const char *const names[] = {"", "f32", "f16", "int8", "nf4"};
    for (int i = ENGINE_WEIGHTS_F32; name && i <= ENGINE_WEIGHTS_NF4; i++)
        if (!strcmp(name, names[i])) return (enum engine_weights)i;
    return ENGINE_WEIGHTS_AUTO;
}

bool common_bytes_parse(const char *text, int64_t *bytes, struct error *e) {
    static const struct { const char *name; double size; } units[] = {
        {"", 1048576}, {"m", 1048576}, {"mib", 1048576}, {"mb", 1e6}, {"g", 1073741824}, {"gib", 1073741824}, {"gb", 1e9}};
    char *end;
    double v = strtod(text, &end);
    while (*end == ' ') end++;
    for (size_t i = 0; end != text && i < sizeof units / sizeof *units; i++)
        if (!strcasecmp(end, units[i].name) && v * units[i].size >= 1 && v * units[i].size < 0x1p50) {
            *bytes = (int64_t)(v * units[i].size);
            return true;
        }
    return error_set(e, "--memory takes a size like 3000 (MiB), 4GB or 3.5GiB, not \"%s\".", TEXT_SHOW(text));
}

struct engine *common_engine(const struct common *c, const char *model, struct error *e) {
    return common_engine_for(c, model, false, e);
}

struct engine *common_engine_for(const struct common *c, const char *model, bool plan_only, struct error *e) {
    int64_t limit = 0;
    if (c->memory && !common_bytes_parse(c->memory, &limit, e)) return NULL;
    struct arena *a = arena_create(NULL);
    const char *cache = os_cache_dir(a);
    struct error ignored;
    if (!os_dir_make(cache, &ignored)) cache = NULL; /* a cache is a comfort */
    struct engine_params p = {
        .gpu = {.device = c->device, .validate = c->validate || getenv("ATELIER_VALIDATE"), .f32 = c->f32, .cache_dir = cache,
                .memory_limit = limit, .plan_only = plan_only,
                .force_class = !c->class_name ? 0 : !strcmp(c->class_name, "cpu") ? KERNEL_CPU : KERNEL_GPU},
        .model = model, .files = c->files, .weights = weights_choice(c->weights),
        .vae_tiling = !c->vae_tiling || !strcmp(c->vae_tiling, "auto") ? ENGINE_TILING_AUTO
                      : !strcmp(c->vae_tiling, "on") ? ENGINE_TILING_ON : ENGINE_TILING_OFF,
        .step = c->step, .nan = c->nan, .check = c->check, .force_kernel = c->kernel};
    struct engine *engine = engine_open(&p, e);
    arena_destroy(&a);
    if (engine) log_debug("device: %s", gpu_device_name(engine->dev));
    return engine;
}

bool common_close(struct engine **engine, bool ok, struct error *e) {
    int messages = *engine ? gpu_device_messages((*engine)->dev) : 0;
    engine_close(engine);
    if (ok && messages) return error_set(e, "The Vulkan validation layer had %d message(s); they stand above.", messages);
    return ok;
}

char *common_bytes_text(int64_t bytes, char dst[COMMON_BYTES_TEXT]) {
    double v = (double)bytes;
    if (v >= 1024.0 * 1048576) snprintf(dst, COMMON_BYTES_TEXT, "%.1f GiB", v / (1024.0 * 1048576));
    else if (v >= 1048576) snprintf(dst, COMMON_BYTES_TEXT, "%.0f MiB", v / 1048576);
    else snprintf(dst, COMMON_BYTES_TEXT, "%.0f KiB", v / 1024);
    return dst;
}

char *common_seconds_text(double seconds, char dst[COMMON_BYTES_TEXT]) {
    long s = (long)(seconds + 0.5);
    if (seconds < 60) snprintf(dst, COMMON_BYTES_TEXT, seconds < 10 ? "%.1f s" : "%.0f s", seconds);
    else if (s < 3600) snprintf(dst, COMMON_BYTES_TEXT, "%ld min %02ld s", s / 60, s % 60);
    else snprintf(dst, COMMON_BYTES_TEXT, "%ld h %02ld min", s / 3600, s / 60 % 60);
    return dst;
}

const char *common_file_hash(struct arena *a, const char *path, struct error *e) {
    struct os_map map;
    struct sha256 s;
    char hex[SHA256_HEX_BYTES];
    if (!os_file_map(&map, path, e)) return NULL;
    sha256_begin(&s);
    sha256_update(&s, map.data, map.bytes);
    sha256_end(&s, hex);
    os_file_unmap(&map);
    return arena_strndup(a, hex, 12);
}

bool common_check_out(const char *option, const char *path, const char *ext, struct error *e) {
    struct arena *a = arena_create(NULL);
    const char *dir = path_dir(a, path);
    bool ok = true;
    if (!path_has_ext(path, ext))
        ok = error_set(e, "--%s %s must end in .%s, which is what gets written.", option, TEXT_SHOW(path), ext);
    else if (os_path_is_dir(path)) ok = error_set(e, "--%s %s is a folder; a file name is needed.", option, TEXT_SHOW(path));
    else if (!os_path_is_dir(dir)) ok = error_set(e, "There is no folder %s for --%s; make it first.", TEXT_SHOW(dir), option);
    else { /* before the work, not after it */
        struct os_writer *w = os_writer_open(path, e);
        ok = w != NULL;
        os_writer_abort(&w);
    }
    arena_destroy(&a);
    return ok;
}
