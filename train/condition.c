/* What the UNet is told beside latents and time: text, SDXL's pooled text and sizes, an inpainting model's mask. */
#include <assert.h>
#include <string.h>

#include "train/trainer_priv.h"

enum { N_SIZES = 6 };

static int sizes_width(const struct model *m) { return N_SIZES * m->unet.added_time_id_dim; }

void train_condition_allocate(struct trainer *t) {
    const struct model *m = t->e->model;
    size_t b = (size_t)t->params.batch, tokens = (size_t)t->tokens;
    struct train_condition *c = &t->condition;
    c->context = arena_alloc_n(t->arena, b * tokens, (size_t)t->width * sizeof(float));
    c->added = arena_alloc_n(t->arena, b, ((size_t)m->unet.added_dim + 1) * sizeof(float));
    c->sizes = arena_alloc_n(t->arena, b, ((size_t)sizes_width(m) + 1) * sizeof(float));
    c->zeros = arena_alloc_n(t->arena, (size_t)model_pooled_dim(m) + 1, sizeof(float));
    c->ends = arena_alloc_n(t->arena, b, sizeof(float));
    for (int i = 0; i < m->n_texts; i++) c->ids[i] = arena_alloc_n(t->arena, b * tokens, sizeof(float));
    c->sample = arena_alloc_n(t->arena, b * (size_t)(t->lw * t->lh), (size_t)m->unet.in_channels * sizeof(float));
}

/* A text encoder that learns, or whose captions change all the time: token ids in, what the UNet reads out. */
static struct clip_outputs text_encoder(struct trainer *t, struct graph *g, int which) {
    struct train_tape *tape = t->tape;
    const struct model *m = t->e->model;
    const struct model_text *text = &m->texts[which];
    bool pooled = model_pooled_dim(m) && which + 1 == m->n_texts;
    struct lora_binding *binding = &tape->bindings[LORA_TEXT + which];
    struct clip_extras extras;
    train_words_build(t, g, which, &extras);
    if (t->params.train_text_encoder) {
        lora_stack_bind_with(t->adapter->stack, t->adapter->models[LORA_TEXT + which], g, tape->strength, binding);
        train_dropout_add(t, binding);
    }
    tape->ids[which] = graph_io(g, text->part, (struct shape){t->params.batch, 1, t->tokens, 1});
    if (pooled) tape->ends = graph_io(g, "ends", (struct shape){t->params.batch, 1, 1, 1});
    struct clip_inputs in = {tape->ids[which], pooled ? tape->ends : -1, t->words.n ? &extras : NULL};
    struct clip_params cp = engine_clip_params(m, 0);
    struct clip_outputs out = {-1, -1};
    struct nn_ctx c = nn_begin(g, text->params, t->params.train_text_encoder ? &binding->hook : NULL, text->part);
    clip_build(&c, &text->cfg, &in, &cp, &out);
    nn_end(&c);
    return out;
}

void train_condition_build(struct trainer *t, struct graph *g, struct unet_inputs *in) {
    struct train_tape *tape = t->tape;
    const struct model *m = t->e->model;
    struct shape vector = {t->params.batch, 1, 1, m->unet.added_dim};
    tape->context = tape->added = tape->sizes = tape->ends = tape->ids[0] = tape->ids[1] = -1;
    in->added = in->time_cond = -1;
    if (!t->text_on_tape) {
        in->context = tape->context = graph_io(g, "context", (struct shape){t->params.batch, 1, t->tokens, t->width});
        if (vector.c) in->added = tape->added = graph_io(g, "added", vector);
        return;
    }
    struct clip_outputs out = text_encoder(t, g, 0);
    in->context = out.hidden;
    if (m->n_texts > 1) {
        out = text_encoder(t, g, 1);
        if (!g->failed) in->context = graph_concat(g, in->context, out.hidden);
    }
    if (!vector.c) return;
    vector.c = sizes_width(m);
    tape->sizes = graph_io(g, "sizes", vector);
    if (!g->failed) in->added = graph_concat(g, out.pooled, tape->sizes);
}

/* pooled: NULL where the tape makes it. */
static void place_added(struct trainer *t, int slot, const float *pooled, const float *time_ids) {
    const struct model *m = t->e->model;
    struct error none;
    int n = m->unet.added_dim, n_pooled = model_pooled_dim(m), n_sizes = sizes_width(m);
    float *added = t->condition.added + slot * n;
    if (!n) return;
    bool fits = unet_added_fill(&m->unet, pooled ? pooled : t->condition.zeros, n_pooled, time_ids, N_SIZES, added, &none);
    assert(fits); /* model_configs_check */
    (void)fits;
    memcpy(t->condition.sizes + slot * n_sizes, added + n_pooled, (size_t)n_sizes * sizeof(float));
}

static void place_end(struct trainer *t, int slot, const int32_t *last_ids) {
    const struct model *m = t->e->model;
    t->condition.ends[slot] = (float)(slot * t->tokens + engine_text_end(&m->texts[m->n_texts - 1], last_ids));
}

void train_condition_place(struct trainer *t, int slot, int which_text, uint32_t picture) {
    const struct model *m = t->e->model;
    size_t text = (size_t)which_text, tokens = (size_t)t->tokens, each = tokens * (size_t)t->width;
    struct train_condition *c = &t->condition;
    const float *sizes = t->time_ids + picture * N_SIZES;
    if (t->contexts) {
        memcpy(c->context + (size_t)slot * each, t->contexts + text * each, each * sizeof(float));
        place_added(t, slot, t->pooled + text * (size_t)model_pooled_dim(m), sizes);
        return;
    }
    for (int i = 0; i < m->n_texts; i++)
        train_words_place(t, i, slot, t->ids[i] + text * tokens, c->ids[i] + (size_t)slot * tokens);
    place_end(t, slot, t->ids[m->n_texts - 1] + text * tokens);
    place_added(t, slot, NULL, sizes);
}

void train_condition_given(struct trainer *t, const struct train_given *given, size_t at) {
    const struct model *m = t->e->model;
    size_t tokens = (size_t)t->tokens, each = tokens * (size_t)t->width, n_pooled = (size_t)model_pooled_dim(m);
    struct train_condition *c = &t->condition;
    struct arena *a = arena_create(NULL);
    int32_t *last = arena_alloc_n(a, tokens, sizeof *last);
    for (int b = 0; b < t->params.batch; b++) {
        size_t image = at + (size_t)b;
        const float *sizes = m->unet.added_dim ? given->time_ids + image * N_SIZES : NULL;
        if (!t->text_on_tape) {
            memcpy(c->context + (size_t)b * each, given->context + image * each, each * sizeof(float));
            place_added(t, b, given->pooled ? given->pooled + image * n_pooled : NULL, sizes);
            continue;
        }
        for (int i = 0; i < m->n_texts; i++) {
            for (size_t k = 0; k < tokens; k++) last[k] = (int32_t)given->ids[i][image * tokens + k];
            train_words_place(t, i, b, last, c->ids[i] + (size_t)b * tokens);
        }
        place_end(t, b, last);
        place_added(t, b, NULL, sizes);
    }
    arena_destroy(&a);
}

void train_condition_write(struct trainer *t) {
    const struct train_tape *tape = t->tape;
    const struct train_condition *c = &t->condition;
    struct gpu_program *prog = tape->prog;
    if (tape->context >= 0) gpu_program_write(prog, tape->context, c->context);
    if (tape->added >= 0) gpu_program_write(prog, tape->added, c->added);
    if (tape->sizes >= 0) gpu_program_write(prog, tape->sizes, c->sizes);
    if (tape->ends >= 0) gpu_program_write(prog, tape->ends, c->ends);
    for (int i = 0; i < MODEL_MAX_TEXTS; i++)
        if (tape->ids[i] >= 0) gpu_program_write(prog, tape->ids[i], c->ids[i]);
    train_words_write(t);
}

const float *train_condition_sample(struct trainer *t) {
    int n = t->channels, extra = model_extra_channels(t->e->model), pixels = t->lw * t->lh;
    if (!extra) return t->batch_x;
    for (int i = 0; i < t->params.batch * pixels; i++) {
        float *dst = t->condition.sample + (size_t)i * (size_t)(n + extra);
        memcpy(dst, t->batch_x + (size_t)i * (size_t)n, (size_t)n * sizeof *dst);
        memcpy(dst + n, t->extra + (size_t)(i % pixels) * (size_t)extra, (size_t)extra * sizeof *dst);
    }
    return t->condition.sample;
}
