/* Recoloured versions of the pictures (train/recolour.h) as latents, and their part in a batch. */
#include "train/recolour.h"
#include "train/recoloured_priv.h"

/* The rest of the batch sees the pictures themselves, so that the style is also learned from nothing. */
#define RECOLOURED_PART 0.8f

static float *version_at(const struct trainer *t, size_t at, int version) {
    size_t each = (size_t)(t->lw * t->lh), c = (size_t)t->channels;
    return t->recoloured + (at * (size_t)t->params.recolour + (size_t)version * each) * c;
}

bool train_recolour_encode(struct trainer *t, struct vae_session *vae, size_t picture, const struct image *im, size_t at,
                           struct error *err) {
    const struct vae_config *cfg = &t->e->model->vae;
    size_t n = (size_t)(t->lw * t->lh), c = (size_t)t->channels, own = t->feeds[TRAIN_OWN].data.n;
    bool ok = true;
    if (!t->params.recolour || picture >= own) return true; /* a class keeps its looks */
    if (!t->recoloured)
        t->recoloured = arena_alloc_n(t->arena, t->places[own].latent * (size_t)t->params.recolour, c * sizeof(float));
    for (int k = 0; ok && k < t->params.recolour; k++) {
        struct arena *a = arena_create(NULL);
        float *moments = arena_alloc_n(a, n, 2 * c * sizeof *moments), *to = version_at(t, at, k);
        struct image version = recolour_image(a, im, t->params.seed * 1000003u + at * 64 + (size_t)k);
        ok = vae_session_encode(vae, version.rgb, moments, err);
        for (size_t i = 0; ok && i < n * c; i++)
            to[i] = (moments[i / c * 2 * c + i % c] - cfg->shift_factor) * cfg->scaling_factor;
        arena_destroy(&a);
    }
    return ok;
}

void train_recolour_place(struct trainer *t, int b, size_t at, int time, float *target, float *added) {
    size_t n = (size_t)(t->lw * t->lh * t->channels), first = (size_t)b * n;
    float u;
    if (!t->params.recolour || at >= t->places[t->feeds[TRAIN_OWN].data.n].latent) return;
    rng_rand(&t->dice, &u, 1);
    const float *version = version_at(t, at, (int)rng_randint(&t->dice, (uint32_t)t->params.recolour));
    if (u >= RECOLOURED_PART) return;
    recolour_noise(t->schedule, time, t->latent + first, version, target + first, n);
    if (added != target) recolour_noise(t->schedule, time, t->latent + first, version, added + first, n);
}
