/* What training looks at again and again, computed once: VAE moments per picture, embeddings per caption. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/os.h"
#include "train/trainer_priv.h"

/* SDXL is told how large a picture was, and where it was cut after it was scaled to cover the square. */
static void note_sizes(struct trainer *t, size_t i) {
    const struct dataset_sample *s = &t->data.samples[i];
    int size = t->plan.resolution;
    double scale = size / (double)(s->w < s->h ? s->w : s->h);
    int h = (int)(s->h * scale + 0.5), w = (int)(s->w * scale + 0.5); /* as image_resize_cover rounds */
    float *ids = t->time_ids + i * 6;
    ids[0] = (float)s->h, ids[1] = (float)s->w;
    ids[2] = (float)((h - size) / 2), ids[3] = (float)((w - size) / 2);
    ids[4] = ids[5] = (float)size;
}

/* An inpainting model learns with everything masked: the masked picture is grey. */
static bool mask_everything(struct trainer *t, struct vae_session *vae, struct error *err) {
    const struct vae_config *cfg = &t->e->model->vae;
    int n = model_extra_channels(t->e->model), pixels = t->lw * t->lh, c = t->channels;
    size_t side = (size_t)t->plan.resolution;
    if (!n) return true;
    struct arena *a = arena_create(NULL);
    float *grey = arena_alloc_n(a, side * side, 3 * sizeof *grey), *moments = arena_alloc_n(a, (size_t)pixels, 2 * (size_t)c * sizeof *moments);
    bool ok = vae_session_encode_values(vae, grey, moments, err);
    t->extra = arena_alloc_n(t->arena, (size_t)pixels, (size_t)n * sizeof(float));
    for (int i = 0; i < pixels; i++) {
        t->extra[i * n] = 1;
        for (int k = 0; k < c; k++) t->extra[i * n + 1 + k] = (moments[i * 2 * c + k] - cfg->shift_factor) * cfg->scaling_factor;
    }
    arena_destroy(&a);
    return ok;
}

static bool encode_pictures(struct trainer *t, struct error *err) {
    int size = t->plan.resolution;
    size_t each = (size_t)t->lw * (size_t)t->lh * (size_t)t->channels * 2;
    size_t versions = t->params.flip ? 2 : 1;
    t->moments = arena_alloc_n(t->arena, t->data.n * versions, each * sizeof(float));
    struct vae_session *vae = vae_session_create(t->e, true, 1, size, size, err);
    if (!vae) return false;
    t->time_ids = arena_alloc_n(t->arena, t->data.n, 6 * sizeof(float));
    bool ok = mask_everything(t, vae, err);
    for (size_t i = 0; ok && i < t->data.n; i++) {
        note_sizes(t, i);
        struct arena *a = arena_create(NULL);
        struct image im;
        if (os_interrupted()) ok = error_set(err, "Stopped while the pictures were being read; nothing was written.");
        ok = ok && dataset_load(a, &t->data.samples[i], size, size, &im, err) &&
             vae_session_encode(vae, im.rgb, t->moments + i * versions * each, err);
        if (ok && t->params.flip) ok = vae_session_encode(vae, image_flip_horizontal(a, &im).rgb, t->moments + (i * versions + 1) * each, err);
        ok = ok && train_mask_load(t, i, err);
        arena_destroy(&a);
        if (os_stderr_is_terminal() || i + 1 == t->data.n) log_progress("reading pictures: %zu of %zu", i + 1, t->data.n);
    }
    vae_session_destroy(&vae);
    engine_unload(t->e, ENGINE_VAE);
    return ok;
}

static int find_text(const struct trainer *t, const char *const *texts, const char *caption) {
    for (int i = 0; i < t->n_texts; i++)
        if (!strcmp(texts[i], caption)) return i;
    return -1;
}

static void collect_texts(struct trainer *t, const char **texts) {
    t->text_of = arena_alloc_n(t->arena, t->data.n, sizeof *t->text_of);
    for (size_t i = 0; i < t->data.n; i++) {
        const char *caption = t->data.samples[i].caption;
        int k = find_text(t, texts, caption);
        if (k < 0) texts[k = t->n_texts++] = caption;
        t->text_of[i] = k;
    }
    t->empty_text = -1;
    if (t->params.caption_dropout > 0) {
        t->empty_text = find_text(t, texts, "");
        if (t->empty_text < 0) texts[t->empty_text = t->n_texts++] = "";
    }
    const struct model *m = t->e->model;
    for (int i = 0; i < m->n_texts; i++) t->ids[i] = arena_alloc_n(t->arena, (size_t)(t->n_texts + t->params.batch) * (size_t)t->tokens, sizeof *t->ids[i]);
    for (int k = 0; k < t->n_texts; k++) {
        struct tokenizer_cut cut;
        for (int i = 0; i < m->n_texts; i++) tokenizer_encode_window(m->texts[i].tokenizer, texts[k], t->ids[i] + k * t->tokens, &cut);
        if (cut.n_dropped) log_warn("the caption \"%.60s...\" has %zu tokens; dropped: \"%s\"", texts[k], cut.n_tokens, cut.text);
    }
}

/* In batches of at most 16: long enough to fill the device, small enough to fit anywhere. */
static bool encode_texts(struct trainer *t, struct error *err) {
    const struct model *m = t->e->model;
    size_t each = (size_t)t->tokens * (size_t)t->width, pooled = (size_t)model_pooled_dim(m);
    t->contexts = arena_alloc_n(t->arena, (size_t)t->n_texts, each * sizeof(float));
    t->pooled = arena_alloc_n(t->arena, (size_t)t->n_texts, (pooled + 1) * sizeof(float));
    for (int k = 0; k < t->n_texts; k += 16) {
        int n = t->n_texts - k < 16 ? t->n_texts - k : 16;
        const int32_t *ids[MODEL_MAX_TEXTS] = {0};
        for (int i = 0; i < m->n_texts; i++) ids[i] = t->ids[i] + k * t->tokens;
        struct text_params tp = {0};
        if (!engine_encode_text(t->e, ids, n, &tp, t->contexts + (size_t)k * each, t->pooled + (size_t)k * pooled, err)) return false;
    }
    for (int i = 0; i < m->n_texts; i++) engine_unload(t->e, (enum engine_part)(ENGINE_TEXT + i));
    return true;
}

bool train_cache_build(struct trainer *t, struct error *err) {
    const char **texts = arena_alloc_n(t->arena, t->data.n + 1, sizeof *texts);
    collect_texts(t, texts);
    return encode_pictures(t, err) && (t->text_on_tape || encode_texts(t, err));
}
