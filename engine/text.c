/* Prompts to embeddings. A program is built per call: it is small, and text leaves the device early. */
#include <string.h>

#include "engine/adapter.h"
#include "engine/memory.h"
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

/* The encoder's tape and where its inputs and results are. */
struct layout {
    struct graph *g;
    const struct adapter *adapter;
    struct lora_binding binding;
    struct watch *watch;
    struct clip_extras extras;
    struct clip_inputs in;
    int output, end;
};

static void lay_out(const struct run *r, struct arena *a, struct layout *l) {
    struct engine *e = r->e;
    struct graph *g = l->g = graph_create(a, gpu_device_storage(e->dev));
    l->adapter = r->params->adapter, l->binding.strength = -1;
    if (l->adapter && !l->adapter->touches[LORA_TEXT + r->which]) l->adapter = NULL;
    if (l->adapter)
        lora_stack_bind(l->adapter->stack, l->adapter->models[LORA_TEXT + r->which], g, "adapter", r->n, &l->binding);
    const struct nn_hook *hook = l->adapter ? &l->binding.hook : NULL;
    l->watch = r->params->watches[r->which];
    if (l->watch) hook = watch_begin(l->watch, hook);
    struct nn_ctx c = nn_begin(g, r->text->params, hook, r->text->part);
    declare_extras(r, g, &l->extras);
    l->in = (struct clip_inputs){graph_io(g, "ids", (struct shape){r->n, 1, r->tokens, 1}), -1, &l->extras};
    if (r->pooled) l->in.eos = graph_io(g, "ends", (struct shape){r->n, 1, 1, 1});
    struct clip_params cp = engine_clip_params(e->model, r->params->skip);
    struct clip_outputs out = {-1, -1};
    clip_build(&c, &r->text->cfg, &l->in, &cp, &out);
    nn_end(&c);
    l->output = graph_output(g, "embedding", out.hidden), l->end = r->pooled ? graph_output(g, "pooled", out.pooled) : -1;
}

static const char text_name[] = "Encoding the prompt";

/* hidden [n][tokens][width] and, if asked for, pooled [n][projection_dim]; memory from a. */
static bool encode(const struct run *r, const int32_t *ids, struct arena *a, float **hidden, float **pooled,
                   struct error *err) {
    struct layout l = {0};
    lay_out(r, a, &l);
    const struct adapter *ad = l.adapter;
    struct gpu_binding extra = {ad ? ad->stack->set : NULL, SET_DATA, ad ? ad->data : NULL};
    enum engine_part part = (enum engine_part)(ENGINE_TEXT + r->which);
    struct gpu_program *prog = engine_program(r->e, l.g, text_name, part, &extra, ad != NULL, NULL, err);
    if (!prog) return false;
    write_inputs(r, prog, &l.in, ids, a);
    write_extras(r, prog, &l.extras, a);
    if (l.binding.strength >= 0) write_strength(r, prog, &l.binding, a);
    bool ok = gpu_program_run(prog, err);
    if (ok) {
        *hidden = arena_alloc_n(a, (size_t)r->n * (size_t)r->tokens, (size_t)r->text->cfg.width * sizeof(float));
        gpu_program_read(prog, l.output, *hidden);
        if (l.watch) watch_read(l.watch, prog);
        if (r->pooled) gpu_program_read(prog, l.end, *pooled);
    }
    gpu_program_destroy(&prog);
    return ok;
}

static struct run run_of(struct engine *e, const struct text_params *p, int n, int which, bool pooled) {
    const struct model *m = e->model;
    return (struct run){e, &m->texts[which], p, n, model_window(m), which,
                        pooled && model_pooled_dim(m) && which + 1 == m->n_texts};
}

bool engine_text_plan(struct engine *e, int n, const struct text_params *p, struct error *err) {
    bool ok = true;
    for (int i = 0; ok && i < e->model->n_texts; i++) {
        struct arena *a = arena_create(NULL);
        struct run r = run_of(e, p, n, i, true);
        struct layout l = {0};
        struct memory_choice choice;
        enum engine_part part = (enum engine_part)(ENGINE_TEXT + i);
        lay_out(&r, a, &l);
        ok = engine_graph_ok(l.g, text_name, NULL, err);
        if (ok) graph_prune(l.g);
        ok = ok && memory_choose(e, l.g, part, memory_left(e, part), text_name, NULL, &choice, err);
        arena_destroy(&a);
    }
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
        struct run r = run_of(e, p, n, i, pooled != NULL);
        float *hidden;
        ok = encode(&r, ids[i], a, &hidden, &pooled, err);
        for (size_t k = 0; ok && k < (size_t)(n * tokens); k++)
            memcpy(out + k * all + first, hidden + k * width, width * sizeof *out);
        first += (int)width;
        arena_destroy(&a);
    }
    return ok;
}
