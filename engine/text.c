/* Prompts to embeddings. A program is built per call: it is small, and text leaves the device early. */
#include <string.h>

#include "engine/adapter.h"
#include "engine/watch.h"

struct clip_params engine_clip_params(const struct model *m, int skip) {
    bool xl = nn_family_is_xl(m->family);
    return (struct clip_params){.skip = skip + xl, .no_final_norm = xl};
}

int engine_text_end(const struct model_text *t, const int32_t *ids) {
    int window = (int)tokenizer_window(t->tokenizer);
    for (int i = 0; i < window; i++)
        if (ids[i] == tokenizer_eos(t->tokenizer)) return i;
    return window - 1;
}

/* One text encoder's program and what is read from it. */
struct run {
    struct engine *e;
    const struct model_text *text;
    const struct text_params *params;
    int n, tokens, which;
    bool pooled;
};

static void write_inputs(const struct run *r, struct gpu_program *prog, const struct clip_inputs *in, const int32_t *ids,
                         struct arena *a) {
    float *rows = arena_alloc_n(a, (size_t)r->n * (size_t)r->tokens, sizeof *rows),
          *ends = arena_alloc_n(a, (size_t)r->n, sizeof *ends);
    for (int i = 0; i < r->n * r->tokens; i++) rows[i] = (float)ids[i];
    gpu_program_write(prog, in->ids, rows);
    for (int i = 0; i < r->n; i++) ends[i] = (float)(i * r->tokens + engine_text_end(r->text, ids + i * r->tokens));
    if (in->eos >= 0) gpu_program_write(prog, in->eos, ends);
}

static void write_strength(const struct run *r, struct gpu_program *prog, const struct lora_binding *binding, struct arena *a) {
    const struct adapter *ad = r->params->adapter;
    float *strength = arena_alloc_n(a, (size_t)r->n * (size_t)ad->n, sizeof *strength);
    for (int i = 0; i < r->n * ad->n; i++) strength[i] = r->params->strength[i % ad->n];
    float *columns = arena_alloc_n(a, (size_t)r->n * (size_t)ad->stack->n_columns, sizeof *columns);
    adapter_fill(ad, r->n, strength, columns);
    gpu_program_write(prog, binding->strength, columns);
}

/* Inputs for masks and learnt words, where a prompt has them. */
static void declare_extras(const struct run *r, struct graph *g, struct clip_extras *x) {
    *x = (struct clip_extras){-1, -1, -1, -1, -1};
    struct shape s = {r->n, 1, r->tokens, 4};
    if (r->params->unseen) x->unseen = graph_io(g, "unseen", s), x->one = graph_io(g, "one", s);
    if (!r->params->n_splices) return;
    s.c = r->text->cfg.width;
    x->keep = graph_io(g, "keep", s), x->own = graph_io(g, "own", s);
    s.c = 1;
    x->places = graph_io(g, "places", s);
}

static void write_extras(const struct run *r, struct gpu_program *prog, const struct clip_extras *x, struct arena *a) {
    size_t rows = (size_t)r->n * (size_t)r->tokens, width = (size_t)r->text->cfg.width;
    if (x->unseen >= 0) {
        float *unseen = arena_alloc_n(a, rows, 4 * sizeof *unseen), *one = arena_alloc_n(a, rows, 4 * sizeof *one);
        for (size_t i = 0; i < rows; i++) unseen[4 * i] = r->params->unseen[i] ? CLIP_UNSEEN : 0, one[4 * i] = 1;
        gpu_program_write(prog, x->unseen, unseen);
        gpu_program_write(prog, x->one, one);
    }
    if (x->own < 0) return;
    float *keep = arena_alloc_n(a, rows * width, sizeof *keep), *own = arena_alloc_n(a, rows * width, sizeof *own);
    float *places = arena_alloc_n(a, rows, sizeof *places);
    for (size_t i = 0; i < rows; i++) places[i] = (float)(i % (size_t)r->tokens);
    for (size_t i = 0; i < rows * width; i++) keep[i] = 1;
    for (int k = 0; k < r->params->n_splices; k++) {
        const struct text_splice *s = &r->params->splices[k];
        memset(keep + (size_t)s->at * width, 0, width * sizeof *keep);
        memcpy(own + (size_t)s->at * width, s->vectors[r->which], width * sizeof *own);
    }
    gpu_program_write(prog, x->keep, keep);
    gpu_program_write(prog, x->own, own);
    gpu_program_write(prog, x->places, places);
}

/* hidden [n][tokens][width] and, if asked for, pooled [n][projection_dim]; memory from a. */
static bool encode(const struct run *r, const int32_t *ids, struct arena *a, float **hidden, float **pooled,
                   struct error *err) {
    struct engine *e = r->e;
    struct graph *g = graph_create(a, gpu_device_storage(e->dev));
    const struct adapter *adapter = r->params->adapter;
    if (adapter && !adapter->touches[LORA_TEXT + r->which]) adapter = NULL;
    struct lora_binding binding = {.strength = -1};
    if (adapter) lora_stack_bind(adapter->stack, adapter->models[LORA_TEXT + r->which], g, "adapter", r->n, &binding);
    const struct nn_hook *hook = adapter ? &binding.hook : NULL;
    struct watch *watch = r->params->watches[r->which];
    if (watch) hook = watch_begin(watch, hook);
    struct nn_ctx c = nn_begin(g, r->text->params, hook, r->text->part);
    struct clip_extras extras;
    declare_extras(r, g, &extras);
    struct clip_inputs in = {graph_io(g, "ids", (struct shape){r->n, 1, r->tokens, 1}), -1, &extras};
    if (r->pooled) in.eos = graph_io(g, "ends", (struct shape){r->n, 1, 1, 1});
    struct clip_params cp = engine_clip_params(e->model, r->params->skip);
    struct clip_outputs out = {-1, -1};
    clip_build(&c, &r->text->cfg, &in, &cp, &out);
    nn_end(&c);
    int output = graph_output(g, "embedding", out.hidden), end = r->pooled ? graph_output(g, "pooled", out.pooled) : -1;
    struct gpu_binding extra = {adapter ? adapter->stack->set : NULL, SET_DATA, adapter ? adapter->data : NULL};
    enum engine_part part = (enum engine_part)(ENGINE_TEXT + r->which);
    struct gpu_program *prog = engine_program(e, g, "Encoding the prompt", part, &extra, adapter != NULL, NULL, err);
    if (!prog) return false;
    write_inputs(r, prog, &in, ids, a);
    write_extras(r, prog, &extras, a);
    if (binding.strength >= 0) write_strength(r, prog, &binding, a);
    bool ok = gpu_program_run(prog, err);
    if (ok) {
        *hidden = arena_alloc_n(a, (size_t)r->n * (size_t)r->tokens, (size_t)r->text->cfg.width * sizeof(float));
        gpu_program_read(prog, output, *hidden);
        if (watch) watch_read(watch, prog);
        if (r->pooled) gpu_program_read(prog, end, *pooled);
    }
    gpu_program_destroy(&prog);
    return ok;
}

bool engine_encode_text(struct engine *e, const int32_t *const ids[MODEL_MAX_TEXTS], int n, const struct text_params *p,
                        float *out, float *pooled, struct error *err) {
    const struct model *m = e->model;
    int tokens = model_window(m), first = 0;
    size_t all = (size_t)model_context_dim(m);
    bool ok = true;
    for (int i = 0; ok && i < m->n_texts; i++) {
        struct arena *a = arena_create(e->arena);
        size_t width = (size_t)m->texts[i].cfg.width;
        struct run r = {e, &m->texts[i], p, n, tokens, i, pooled && model_pooled_dim(m) && i + 1 == m->n_texts};
        float *hidden;
        ok = encode(&r, ids[i], a, &hidden, &pooled, err);
        for (size_t k = 0; ok && k < (size_t)(n * tokens); k++)
            memcpy(out + k * all + first, hidden + k * width, width * sizeof *out);
        first += (int)width;
        arena_destroy(&a);
    }
    return ok;
}
