#include "train/concept.h"

#include <string.h>

#include "base/log.h"
#include "base/os.h"
#include "engine/generate.h"
#include "train/dataset.h"

void concept_time_ids(int side, float dst[6]) {
    for (int i = 0; i < 6; i++) dst[i] = i == 2 || i == 3 ? 0 : (float)side;
}

bool concept_encode(struct engine *e, const struct prompter_params *pp, const float *strength, const struct concept *c,
                    struct arena *a, float **contexts, float **pooled, struct error *err) {
    size_t tokens = (size_t)model_window(e->model), each = tokens * (size_t)model_context_dim(e->model);
    size_t n_pooled = (size_t)model_pooled_dim(e->model);
    struct prompter *p = prompter_create(e, pp, err);
    if (!p) return false;
    struct arena *scratch = arena_create(NULL);
    struct prompt_context *found = arena_alloc_n(scratch, (size_t)c->n, sizeof *found);
    bool ok = prompter_encode(p, c->texts, c->n, strength, scratch, found, err);
    *contexts = arena_alloc_n(a, (size_t)c->n, each * sizeof **contexts);
    *pooled = arena_alloc_n(a, (size_t)c->n, (n_pooled + 1) * sizeof **pooled);
    for (int i = 0; ok && i < c->n; i++) {
        memcpy(*contexts + (size_t)i * each, found[i].rows, each * sizeof **contexts);
        memcpy(*pooled + (size_t)i * n_pooled, found[i].pooled, n_pooled * sizeof **pooled);
    }
    arena_destroy(&scratch);
    prompter_destroy(&p);
    return ok;
}

static void allocate(const struct engine *e, const struct concept_params *p, int n, struct arena *a, struct concept *out) {
    size_t side = (size_t)(p->side / vae_config_factor(&e->model->vae));
    out->n = n, out->n_latent = side * side * (size_t)e->model->vae.latent_channels;
    out->latents = arena_alloc_n(a, (size_t)n, out->n_latent * sizeof *out->latents);
    out->texts = arena_alloc_n(a, (size_t)n, sizeof *out->texts);
}

/* The middle of what the VAE makes of a picture. */
static bool encode_picture(struct engine *e, struct vae_session *vae, const struct dataset_sample *s, int side, float *latent,
                           size_t n, struct error *err) {
    const struct vae_config *cfg = &e->model->vae;
    size_t c = (size_t)cfg->latent_channels;
    struct arena *a = arena_create(NULL);
    float *moments = arena_alloc_n(a, n, 2 * sizeof *moments);
    struct image im;
    bool ok = dataset_load(a, s, side, side, &im, err) && vae_session_encode(vae, im.rgb, moments, err);
    for (size_t i = 0; ok && i < n; i++) latent[i] = (moments[i / c * 2 * c + i % c] - cfg->shift_factor) * cfg->scaling_factor;
    arena_destroy(&a);
    return ok;
}

static bool read_pictures(struct engine *e, const struct concept_params *p, struct arena *a, struct concept *out,
                          struct error *err) {
    struct dataset data;
    struct dataset_params dp = {p->data, p->caption};
    if (!dataset_scan(a, &dp, &data, err) || !dataset_probe(&data, err)) return false;
    if (data.n > 4096) return error_set(err, "%s has %zu pictures; 4096 and fewer show a concept well.", p->data, data.n);
    allocate(e, p, (int)data.n, a, out);
    struct vae_session *vae = vae_session_create(e, true, 1, p->side, p->side, err);
    bool ok = vae != NULL;
    for (int i = 0; ok && i < out->n; i++) {
        out->texts[i] = data.samples[i].caption;
        if (os_interrupted()) ok = error_set(err, "Stopped while the pictures were being read; nothing was written.");
        ok = ok &&
             encode_picture(e, vae, &data.samples[i], p->side, out->latents + (size_t)i * out->n_latent, out->n_latent, err);
    }
    vae_session_destroy(&vae);
    engine_unload(e, ENGINE_VAE);
    return ok;
}

static bool draw_pictures(struct engine *e, const struct concept_params *p, struct arena *a, struct concept *out,
                          struct error *err) {
    struct generate_params gp = {.w = p->side, .h = p->side, .steps = p->steps, .cfg = p->cfg, .adapter = p->adapter,
                                 .words = p->words};
    allocate(e, p, p->n_drawn, a, out);
    struct generator *g = generator_create(e, &gp, err);
    size_t c = (size_t)e->model->vae.latent_channels, pixels = out->n_latent / c;
    bool ok = g != NULL;
    for (int i = 0; ok && i < out->n; i++) {
        struct generate_picture picture = {.prompt = p->prompt, .seed = p->seed + (uint64_t)i, .strength = p->strength};
        out->texts[i] = p->prompt;
        if (!(ok = generator_run(g, &picture, NULL, NULL, err))) break;
        const float *chw = generator_latents(g);
        float *rows = out->latents + (size_t)i * out->n_latent;
        for (size_t k = 0; k < out->n_latent; k++) rows[k] = chw[k % c * pixels + k / c];
        if (os_stderr_is_terminal() || i + 1 == out->n) log_progress("drawing \"%.40s\": %d of %d", p->prompt, i + 1, out->n);
    }
    generator_destroy(&g);
    return ok;
}

bool concept_show(struct engine *e, const struct concept_params *p, struct arena *a, struct concept *out, struct error *err) {
    *out = (struct concept){0};
    return (p->data ? read_pictures : draw_pictures)(e, p, a, out, err) &&
           concept_encode(e, &(struct prompter_params){.adapter = p->adapter, .words = p->words}, p->strength, out, a,
                          &out->contexts, &out->pooled, err);
}
