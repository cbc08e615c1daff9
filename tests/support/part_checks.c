#include "tests/support/part_checks.h"

#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/session.h"

struct page page_open(const char *name, double tolerance, enum engine_weights weights) {
    struct page p = {.name = name, .a = arena_create(NULL), .tolerance = tolerance};
    p.golden = golden_open(arena_printf(p.a, "%s.golden", name));
    p.e = session_open_with(name, session_default(), weights);
    return p;
}

void page_close(struct page *p) {
    session_close(&p->e);
    st_close(&p->golden);
    arena_destroy(&p->a);
}

static void near(struct page *p, const char *name, const float *got, const float *want, size_t n) {
    golden_near(arena_printf(p->a, "%s %s", p->name, name), got, want, n, p->tolerance);
}

static int32_t *golden_ids(struct page *p, const char *name, size_t *n) {
    struct shape s;
    float *rows = golden_rows(p->golden, name, p->a, &s);
    *n = (size_t)shape_elems(s);
    int32_t *ids = arena_alloc_n(p->a, *n, sizeof *ids);
    for (size_t i = 0; i < *n; i++) ids[i] = (int32_t)rows[i];
    return ids;
}

void page_check_text(struct page *p) {
    const struct model *m = p->e->model;
    const int32_t *ids[MODEL_MAX_TEXTS] = {0};
    size_t n_ids = 0;
    for (int i = 0; i < m->n_texts; i++) ids[i] = golden_ids(p, i ? "token_ids_2" : "token_ids", &n_ids);
    struct shape s;
    float *want = golden_rows(p->golden, "text_embedding", p->a, &s);
    int windows = (int)n_ids / model_window(m);
    float *got = arena_alloc_n(p->a, (size_t)shape_elems(s), sizeof *got);
    float *pooled = arena_alloc_n(p->a, (size_t)(windows * model_pooled_dim(m)) + 1, sizeof *pooled);
    if (!engine_encode_text(p->e, ids, windows, &(struct text_params){0}, got, pooled, &p->err)) fail_msg("%s", p->err.text);
    near(p, "text", got, want, (size_t)shape_elems(s));
    if (model_pooled_dim(m))
        near(p, "pooled", pooled, golden_rows(p->golden, "pooled_embedding", p->a, NULL),
             (size_t)(windows * model_pooled_dim(m)));
}

void page_check_unet(struct page *p) {
    const struct model *m = p->e->model;
    struct shape s;
    float *x = golden_rows(p->golden, "unet.latents", p->a, &s),
          *got = arena_alloc_n(p->a, (size_t)shape_elems(s), sizeof *got);
    struct denoiser_params dp = {.n = s.n, .w = s.w, .h = s.h, .tokens = model_window(m)};
    struct denoiser *d = denoiser_create(p->e, &dp, &p->err);
    if (!d) fail_msg("%s", p->err.text);
    denoiser_set_context(d, golden_rows(p->golden, "unet.context", p->a, NULL));
    if (model_pooled_dim(m))
        denoiser_set_added(d, golden_rows(p->golden, "unet.pooled", p->a, NULL),
                           golden_rows(p->golden, "unet.time_ids", p->a, NULL));
    if (model_extra_channels(m)) denoiser_set_extra(d, golden_rows(p->golden, "unet.extra", p->a, NULL));
    denoiser_set_guidance(d, (float)golden_number(p->golden, "unet_guidance"));
    if (!denoiser_run(d, x, golden_rows(p->golden, "unet.timesteps", p->a, NULL), got, &p->err)) fail_msg("%s", p->err.text);
    near(p, "unet", got, golden_rows(p->golden, "unet.output", p->a, NULL), (size_t)shape_elems(s));
    denoiser_destroy(&d);
}

void page_check_vae(struct page *p) {
    const struct vae_config *cfg = &p->e->model->vae;
    int c = cfg->latent_channels;
    struct shape pixels, latent;
    float *image = golden_rows(p->golden, "vae.image", p->a, &pixels),
          *mean = golden_rows(p->golden, "vae.mean", p->a, &latent);
    float *logvar = golden_rows(p->golden, "vae.logvar", p->a, NULL), *z = golden_rows(p->golden, "vae.latents", p->a, NULL);
    size_t n = (size_t)shape_elems(latent), n_image = (size_t)shape_elems(pixels);
    float *moments = arena_alloc_n(p->a, 2 * n, sizeof *moments), *raw = arena_alloc_n(p->a, n_image, sizeof *raw);
    struct vae_session *s = vae_session_create(p->e, true, 1, pixels.w, pixels.h, &p->err);
    if (!s || !vae_session_encode_values(s, image, moments, &p->err)) fail_msg("%s", p->err.text);
    vae_session_destroy(&s);
    float *got_mean = arena_alloc_n(p->a, n, sizeof *got_mean), *got_logvar = arena_alloc_n(p->a, n, sizeof *got_logvar);
    for (size_t i = 0; i < n; i++) {
        size_t at = i / (size_t)c * 2 * (size_t)c + i % (size_t)c;
        got_mean[i] = moments[at], got_logvar[i] = moments[at + (size_t)c];
        z[i] = (z[i] - cfg->shift_factor) * cfg->scaling_factor;
    }
    near(p, "VAE mean", got_mean, mean, n);
    near(p, "VAE log variance", got_logvar, logvar, n);
    uint8_t *rgb = arena_alloc(p->a, n_image);
    s = vae_session_create(p->e, false, 1, pixels.w, pixels.h, &p->err);
    if (!s || !vae_session_decode(s, z, rgb, raw, &p->err)) fail_msg("%s", p->err.text);
    vae_session_destroy(&s);
    near(p, "VAE decoded", raw, golden_rows(p->golden, "vae.decoded", p->a, NULL), n_image);
}
