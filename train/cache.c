/* What training looks at again and again, computed once: VAE moments per picture, embeddings per caption. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/os.h"
#include "train/recoloured_priv.h"
#include "train/trainer_priv.h"

/* SDXL is told how large a picture was, and where it was cut after it was scaled. */
static void note_sizes(struct trainer *t, size_t i) {
    const struct dataset_sample *s = &t->data.samples[i];
    const struct bucket_choice *c = &t->places[i].cut;
    const int values[6] = {s->h, s->w, c->top, c->left, c->bucket.h, c->bucket.w};
    for (int k = 0; k < 6; k++) t->time_ids[i * 6 + (size_t)k] = (float)values[k];
}

/* An inpainting model learns with everything masked: the masked picture is grey. */
static bool mask_everything(struct trainer *t, struct vae_session *vae, struct error *err) {
    const struct vae_config *cfg = &t->e->model->vae;
    int n = model_extra_channels(t->e->model), pixels = t->lw * t->lh, c = t->channels;
    size_t side = (size_t)t->plan.resolution;
    if (!n) return true;
    struct arena *a = arena_create(NULL);
    float *grey = arena_alloc_n(a, side * side, 3 * sizeof *grey),
          *moments = arena_alloc_n(a, (size_t)pixels, 2 * (size_t)c * sizeof *moments);
    bool ok = vae_session_encode_values(vae, grey, moments, err);
    t->extra = arena_alloc_n(t->arena, (size_t)pixels, (size_t)n * sizeof(float));
    for (int i = 0; i < pixels; i++) {
        t->extra[i * n] = 1;
        for (int k = 0; k < c; k++)
            t->extra[i * n + 1 + k] = (moments[i * 2 * c + k] - cfg->shift_factor) * cfg->scaling_factor;
    }
    arena_destroy(&a);
    return ok;
}

static bool encode_picture(struct trainer *t, struct vae_session *vae, size_t i, struct error *err) {
    size_t each = (size_t)(t->lw * t->lh), c = (size_t)t->channels * 2;
    float *moments = t->moments + t->places[i].latent * c;
    struct arena *a = arena_create(NULL);
    struct image im;
    note_sizes(t, i);
    bool ok =
        dataset_load_cut(a, &t->data.samples[i], &t->places[i].cut, &im, err) && vae_session_encode(vae, im.rgb, moments, err);
    ok = ok && train_recolour_encode(t, vae, i, &im, t->places[i].latent, err);
    if (ok && t->params.flip) {
        im = image_flip_horizontal(a, &im);
        ok = vae_session_encode(vae, im.rgb, moments + each * c, err) &&
             train_recolour_encode(t, vae, i, &im, t->places[i].latent + each, err);
    }
    arena_destroy(&a);
    return ok && train_mask_load(t, i, err);
}

/* Bucket by bucket, as each needs a VAE of its size. */
static bool encode_pictures(struct trainer *t, struct error *err) {
    size_t done = 0;
    bool ok = true;
    t->moments = arena_alloc_n(t->arena, train_latent_pixels(t), (size_t)t->channels * 2 * sizeof(float));
    t->time_ids = arena_alloc_n(t->arena, t->data.n, 6 * sizeof(float));
    for (int b = 0; ok && b < t->n_buckets; b++) {
        train_bucket_enter(t, b);
        struct vae_session *vae = vae_session_create(t->e, true, 1, t->buckets[b].size.w, t->buckets[b].size.h, err);
        ok = vae && mask_everything(t, vae, err);
        for (size_t i = 0; ok && i < t->data.n; i++) {
            if (t->places[i].bucket != b) continue;
            if (os_interrupted()) ok = error_set(err, "Stopped while the pictures were being read; nothing was written.");
            ok = ok && encode_picture(t, vae, i, err);
            done++;
            if (os_stderr_is_terminal() || done == t->data.n) log_progress("reading pictures: %zu of %zu", done, t->data.n);
        }
        vae_session_destroy(&vae);
    }
    train_bucket_enter(t, t->largest);
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
    if (t->params.caption_dropout > 0 || t->params.distill.method) {
        t->empty_text = find_text(t, texts, "");
        if (t->empty_text < 0) texts[t->empty_text = t->n_texts++] = "";
    }
    const struct model *m = t->e->model;
    for (int i = 0; i < m->n_texts; i++)
        t->ids[i] = arena_alloc_n(t->arena, (size_t)(t->n_texts + t->params.batch) * (size_t)t->tokens, sizeof *t->ids[i]);
    for (int k = 0; k < t->n_texts; k++) {
        struct tokenizer_cut cut;
        for (int i = 0; i < m->n_texts; i++) train_words_encode(t, i, texts[k], t->ids[i] + k * t->tokens, &cut);
        if (cut.n_dropped)
            log_warn("the caption \"%.60s...\" has %zu tokens; dropped: \"%s\"", texts[k], cut.n_tokens, cut.text);
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
        if (!engine_encode_text(t->e, ids, n, &tp, t->contexts + (size_t)k * each, t->pooled + (size_t)k * pooled, err))
            return false;
    }
    for (int i = 0; i < m->n_texts; i++) engine_unload(t->e, (enum engine_part)(ENGINE_TEXT + i));
    return true;
}

bool train_cache_build(struct trainer *t, struct error *err) {
    const char **texts = arena_alloc_n(t->arena, t->data.n + 1, sizeof *texts);
    collect_texts(t, texts);
    return encode_pictures(t, err) && (t->text_on_tape || encode_texts(t, err));
}
