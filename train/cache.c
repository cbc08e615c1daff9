/* What training looks at again and again, computed once: VAE moments per picture, embeddings per caption. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/os.h"
#include "train/trainer_priv.h"

static bool encode_pictures(struct trainer *t, struct error *err) {
    int size = t->plan.resolution;
    size_t each = (size_t)t->lw * (size_t)t->lh * (size_t)t->channels * 2;
    t->moments = arena_alloc_n(t->arena, t->data.n, each * sizeof(float));
    struct vae_session *vae = vae_session_create(t->e, true, 1, size, size, err);
    if (!vae) return false;
    bool ok = true;
    for (size_t i = 0; ok && i < t->data.n; i++) {
        struct arena *a = arena_create(NULL);
        struct image im;
        if (os_interrupted()) ok = error_set(err, "Stopped while the pictures were being read; nothing was written.");
        ok = ok && dataset_load(a, &t->data.samples[i], size, size, &im, err) &&
             vae_session_encode(vae, im.rgb, t->moments + i * each, err);
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
    t->ids = arena_alloc_n(t->arena, (size_t)t->n_texts * (size_t)t->tokens, sizeof *t->ids);
    for (int k = 0; k < t->n_texts; k++) {
        struct tokenizer_cut cut;
        tokenizer_encode_window(t->e->model->tokenizer, texts[k], t->ids + k * t->tokens, &cut);
        if (cut.n_dropped) log_warn("the caption \"%.60s...\" has %zu tokens; dropped: \"%s\"", texts[k], cut.n_tokens, cut.text);
    }
}

/* In batches of at most 16: long enough to fill the device, small enough to fit anywhere. */
static bool encode_texts(struct trainer *t, struct error *err) {
    size_t each = (size_t)t->tokens * (size_t)t->width;
    t->contexts = arena_alloc_n(t->arena, (size_t)t->n_texts, each * sizeof(float));
    for (int k = 0; k < t->n_texts; k += 16) {
        int n = t->n_texts - k < 16 ? t->n_texts - k : 16;
        struct text_params tp = {0};
        if (!engine_encode_text(t->e, t->ids + k * t->tokens, n, &tp, t->contexts + (size_t)k * each, err)) return false;
    }
    engine_unload(t->e, ENGINE_TEXT);
    return true;
}

bool train_cache_build(struct trainer *t, struct error *err) {
    const char **texts = arena_alloc_n(t->arena, t->data.n, sizeof *texts);
    collect_texts(t, texts);
    return encode_pictures(t, err) && (t->params.train_text_encoder || encode_texts(t, err));
}
