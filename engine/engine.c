#include "engine/memory.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/os.h"

static const char *keep(struct arena *a, const char *s) { return s ? arena_strdup(a, s) : NULL; }

enum tensor_dtype engine_weights_dtype(enum engine_weights w, enum tensor_dtype storage) {
    static const enum tensor_dtype dtypes[] = {0, TENSOR_F32, TENSOR_F16, TENSOR_INT8, TENSOR_NF4};
    return w == ENGINE_WEIGHTS_AUTO ? storage : dtypes[w];
}

/* An operator that a model does not have is fine, one that there is not would silently force nothing. */
static bool check_kernel(const char *text, struct error *err) {
    const char *equals = text ? strchr(text, '=') : NULL;
    size_t n = equals ? (size_t)(equals - text) : 0;
    for (int i = 0; n && i < OP_COUNT; i++)
        if (!strncmp(op_table[i].name, text, n) && !op_table[i].name[n]) return true;
    return !text || error_set(err, "--kernel takes OPERATOR=VARIANT, such as matmul=small, and \"%.60s\" names no operator.",
                              text);
}

struct engine *engine_open(const struct engine_params *p, struct error *err) {
    struct arena *a = arena_create(NULL);
    struct engine *e = arena_alloc(a, sizeof *e);
    e->arena = a;
    e->params = *p;
    e->params.model = keep(a, p->model), e->params.force_kernel = keep(a, p->force_kernel);
    e->params.gpu.device = keep(a, p->gpu.device), e->params.gpu.cache_dir = keep(a, p->gpu.cache_dir);
    if (!check_kernel(p->force_kernel, err) || !(e->dev = gpu_device_create(&e->params.gpu, err))) goto fail;
    enum tensor_dtype storage = gpu_device_storage(e->dev);
    struct model_params mp = {.storage = storage, .max_chunk_bytes = gpu_device_max_chunk(e->dev),
                              .weights = engine_weights_dtype(p->weights, storage), .files = p->files};
    e->params.files = (struct model_files){0}; /* the caller's texts; needed no longer than model_open */
    double start = os_now_seconds();
    if (p->model && !(e->model = model_open(e->params.model, &mp, err))) goto fail;
    e->open_seconds = os_now_seconds() - start;
    return e;
fail:
    engine_close(&e);
    return NULL;
}

void engine_close(struct engine **p) {
    struct engine *e = *p;
    if (!e) return;
    *p = NULL;
    for (int i = 0; i < ENGINE_PARTS; i++) gpu_set_destroy(&e->parts[i]);
    model_close(&e->model);
    gpu_device_destroy(&e->dev);
    struct arena *a = e->arena;
    arena_destroy(&a);
}

const struct nn_params *engine_part_params(const struct engine *e, enum engine_part part) {
    return part == ENGINE_UNET  ? e->model->unet_params
           : part == ENGINE_VAE ? e->model->vae_params
                                : e->model->texts[part - ENGINE_TEXT].params;
}

static bool fill(struct gpu_set *set, const struct nn_params *params, struct error *err) {
    int64_t most = 0;
    for (int i = 0; i < params->set->n_slots; i++)
        if (shape_elems(params->set->slots[i].shape) > most) most = shape_elems(params->set->slots[i].shape);
    float *row = malloc((size_t)most * sizeof *row);
    bool ok = row != NULL || error_set(err, "The host has no %.0f MiB left for loading weights.", (double)most * 4 / 1048576);
    for (int i = 0; ok && i < params->set->n_slots; i++) {
        void *texels = gpu_set_slot(set, i);
        if (texels && nn_params_pack_slot(params, i, texels)) continue;
        nn_params_read_slot(params, i, row);
        ok = gpu_set_write(set, i, row, err);
    }
    free(row);
    return ok;
}

static bool load(struct engine *e, enum engine_part part, bool streamed, int64_t resident_bytes, struct error *err) {
    if (e->parts[part]) return true;
    double start = os_now_seconds();
    const struct nn_params *params = engine_part_params(e, part);
    struct gpu_set *set = streamed ? gpu_set_create_streamed(e->dev, params->set, resident_bytes, err)
                                   : gpu_set_create_unfilled(e->dev, params->set, SET_DATA, err);
    if (!set) return false;
    if (!fill(set, params, err) || !model_intact(e->model, err)) {
        gpu_set_destroy(&set);
        return false;
    }
    e->parts[part] = set;
    e->upload_seconds += os_now_seconds() - start;
    log_debug("%s: %.1f MiB on the device in %.2f s", params->set->name, (double)gpu_set_bytes(set) / 1048576,
              os_now_seconds() - start);
    return true;
}

bool engine_load(struct engine *e, enum engine_part part, struct error *err) { return load(e, part, false, 0, err); }

bool engine_load_streamed(struct engine *e, enum engine_part part, int64_t resident_bytes, struct error *err) {
    return load(e, part, true, resident_bytes, err);
}

void engine_unload(struct engine *e, enum engine_part part) { gpu_set_destroy(&e->parts[part]); }

struct gpu_program_params engine_program_params(const struct engine *e, const char *name, const char *hint) {
    return (struct gpu_program_params){.name = name, .step = e->params.step, .stop_at_nan = e->params.nan,
                                       .check = e->params.check, .force_kernel = e->params.force_kernel, .memory_hint = hint};
}

bool engine_graph_ok(struct graph *g, const char *name, const char *hint, struct error *err) {
    struct error why;
    return graph_ok(g, &why) || error_set(err, "%s cannot be laid out: %s. %s", name, why.text, hint ? hint : "");
}

struct gpu_program *engine_program(struct engine *e, struct graph *g, const char *name, enum engine_part part,
                                   const struct gpu_binding *extra, int n_extra, const char *hint, struct error *err) {
    struct memory_choice choice;
    if (!engine_graph_ok(g, name, hint, err)) return NULL;
    graph_prune(g);
    if (!memory_choose(e, g, part, memory_left(e, part), name, hint, &choice, err) || !memory_load(e, part, &choice, err))
        return NULL;
    struct gpu_binding bindings[8] = {{engine_part_params(e, part)->set, SET_DATA, e->parts[part]}};
    for (int i = 0; i < n_extra; i++) bindings[1 + i] = extra[i];
    struct gpu_program_params p = engine_program_params(e, name, hint);
    p.bindings = bindings, p.n_bindings = n_extra + 1;
    p.no_prepare = choice.no_prepare, p.ring_bytes = choice.ring_bytes;
    return gpu_program_create(e->dev, g, &p, err);
}
