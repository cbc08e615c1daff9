#include "engine/hires.h"

#include "base/arena.h"
#include "diffusion/latent_resize.h"
#include "io/image.h"

struct hires {
    struct arena *arena;
    struct engine *e;
    struct hires_params params;
    struct generator *first, *second;
    int w, h, big_w, big_h;
    int done, all; /* steps, for progress */
    const struct generate_progress *progress;
};

void hires_size(const struct model *m, const struct hires_params *p, int w, int h, int *out_w, int *out_h) {
    int f = vae_config_factor(&m->vae);
    *out_w = (int)(w * p->scale) / f * f;
    *out_h = (int)(h * p->scale) / f * f;
}

struct hires *hires_create(struct engine *e, const struct generate_params *first, const struct hires_params *p,
                           struct error *err) {
    struct arena *a = arena_create(e->arena);
    struct hires *h = arena_alloc(a, sizeof *h);
    *h = (struct hires){.arena = a, .e = e, .params = *p, .w = first->w, .h = first->h};
    hires_size(e->model, p, h->w, h->h, &h->big_w, &h->big_h);
    struct generate_params second = *first;
    second.w = h->big_w, second.h = h->big_h;
    if (p->steps) second.steps = p->steps;
    int done = init_image_steps(second.steps, p->strength);
    h->all = first->steps + done;
    if (done < 1) {
        error_set(err, "A strength of %g does none of the second pass's %d steps; raise --hires-strength.", p->strength,
                  second.steps);
        hires_destroy(&h);
        return NULL;
    }
    if (!(h->first = generator_create(e, first, err)) || !(h->second = generator_create(e, &second, err))) hires_destroy(&h);
    return h;
}

void hires_destroy(struct hires **p) {
    struct hires *h = *p;
    if (!h) return;
    *p = NULL;
    generator_destroy(&h->first);
    generator_destroy(&h->second);
    struct arena *a = h->arena;
    arena_destroy(&a);
}

static void on_step(void *ctx, int step, int n_steps) {
    struct hires *h = ctx;
    (void)n_steps;
    if (h->progress && h->progress->step) h->progress->step(h->progress->ctx, h->done + step, h->all);
}

static void scale_latents(const struct hires *h, struct arena *a, struct init_image *out) {
    int f = vae_config_factor(&h->e->model->vae), c = h->e->model->vae.latent_channels;
    struct latent_size from = {c, h->h / f, h->w / f}, to = {c, h->big_h / f, h->big_w / f};
    float *latents = arena_alloc_n(a, (size_t)(to.c * to.h), (size_t)to.w * sizeof *latents);
    latent_resize(latents, &to, generator_latents(h->first), &from);
    out->latents = latents;
}

static bool run(struct hires *h, const struct generate_picture *p, struct arena *a, uint8_t *rgb, struct error *err) {
    struct generate_progress progress = {on_step, h};
    bool by_latent = h->params.upscaler == HIRES_LATENT;
    struct image small = image_create(a, h->w, h->h), big;
    h->done = 0;
    if (!generator_run(h->first, p, &progress, by_latent ? NULL : small.rgb, err)) return false;
    struct init_image init = {.strength = h->params.strength};
    if (by_latent) {
        scale_latents(h, a, &init);
    } else {
        big = image_resize(a, &small, h->big_w, h->big_h);
        init.rgb = big.rgb;
    }
    struct generate_picture second = *p;
    second.init = &init;
    second.trace_prefix = "hires_";
    h->done = h->all - init_image_steps(generator_steps(h->second), h->params.strength);
    return generator_run(h->second, &second, &progress, rgb, err);
}

bool hires_run(struct hires *h, const struct generate_picture *p, const struct generate_progress *progress, uint8_t *rgb,
               struct error *err) {
    struct arena *a = arena_create(h->arena);
    h->progress = progress;
    bool ok = run(h, p, a, rgb, err);
    arena_destroy(&a);
    return ok;
}

double hires_first_step_seconds(const struct hires *h) { return generator_first_step_seconds(h->first); }
