#include "engine/init_image.h"

#include <math.h>
#include <string.h>

#include "base/arena.h"

/* Mean and log variance of one encoded picture, and what was encoded. */
struct encoded {
    float *values;  /* [h][w][3], -1..1 */
    float *moments; /* [pixels][2 * channels] */
    bool known;
};

struct init_encoder {
    struct arena *arena;
    struct engine *e;
    int w, h, factor, pixels, channels, n_extra; /* pixels: of the latents */
    struct encoded picture, masked;
    struct vae_session *vae; /* between the first start and rest */
    float *room;                   /* [h][w][3] */
    float *noise, *z0, *hidden, *mask; /* [channels][pixels]; hidden: the masked picture's */
    float *extra;
};

int init_image_steps(int n, double strength) {
    int steps = (int)(n * strength);
    return steps < n ? steps : n;
}

struct init_encoder *init_encoder_create(struct engine *e, int w, int h) {
    struct arena *a = arena_create(e->arena);
    struct init_encoder *s = arena_alloc(a, sizeof *s);
    int f = vae_config_factor(&e->model->vae);
    *s = (struct init_encoder){.arena = a, .e = e, .w = w, .h = h, .factor = f, .pixels = (w / f) * (h / f),
                               .channels = e->model->vae.latent_channels, .n_extra = model_extra_channels(e->model)};
    size_t n = (size_t)s->pixels * (size_t)s->channels, values = (size_t)w * (size_t)h * 3;
    float **latents[] = {&s->noise, &s->z0, &s->hidden, &s->mask};
    for (int i = 0; i < 4; i++) *latents[i] = arena_alloc_n(a, n, sizeof(float));
    struct encoded *kept[] = {&s->picture, &s->masked};
    for (int i = 0; i < 2; i++) {
        kept[i]->values = arena_alloc_n(a, values, sizeof(float));
        kept[i]->moments = arena_alloc_n(a, n, 2 * sizeof(float));
    }
    s->room = arena_alloc_n(a, values, sizeof(float));
    if (s->n_extra) s->extra = arena_alloc_n(a, (size_t)s->pixels, (size_t)s->n_extra * sizeof(float));
    return s;
}

void init_encoder_destroy(struct init_encoder **p) {
    if (!*p) return;
    init_encoder_rest(*p);
    struct arena *a = (*p)->arena;
    arena_destroy(&a);
    *p = NULL;
}

void init_encoder_rest(struct init_encoder *s) { vae_session_destroy(&s->vae); }

/* s->room into moments, unless that is what they hold. */
static bool encode(struct init_encoder *s, struct encoded *to, struct error *err) {
    size_t bytes = (size_t)s->w * (size_t)s->h * 3 * sizeof(float);
    if (to->known && !memcmp(to->values, s->room, bytes)) return true;
    to->known = false;
    if (!s->vae && !(s->vae = vae_session_create(s->e, true, 1, s->w, s->h, err))) return false;
    if (!vae_session_encode_values(s->vae, s->room, to->moments, err)) return false;
    memcpy(to->values, s->room, bytes);
    return to->known = true;
}

/* Draws from the posterior that the moments describe. */
static void draw(const struct init_encoder *s, const struct encoded *from, struct noise_stream *noise, float *z) {
    const struct vae_config *vae = &s->e->model->vae;
    int c = s->channels;
    noise_stream_draw(noise, z, (size_t)(s->pixels * c));
    for (int k = 0; k < c; k++)
        for (int i = 0; i < s->pixels; i++) {
            const float *m = from->moments + (size_t)i * 2 * (size_t)c;
            float value = m[k] + expf(0.5f * m[c + k]) * z[k * s->pixels + i];
            z[k * s->pixels + i] = (value - vae->shift_factor) * vae->scaling_factor;
        }
}

static bool is_hidden(const struct init_image *im, size_t pixel) {
    return !im || !im->rgb || !im->mask || im->mask[pixel] >= 128;
}

/* The picture in -1..1; where `masked`, grey in place of what is drawn anew. */
static void fill_room(const struct init_encoder *s, const struct init_image *im, bool masked) {
    size_t n = (size_t)s->w * (size_t)s->h;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < 3; k++)
            s->room[3 * i + k] = masked && is_hidden(im, i) ? 0 : 2.0f * ((float)im->rgb[3 * i + k] / 255.0f) - 1.0f;
}

static bool draw_picture(struct init_encoder *s, const struct init_image *im, struct noise_stream *noise, struct error *err) {
    if (im->latents) {
        memcpy(s->z0, im->latents, (size_t)(s->pixels * s->channels) * sizeof *s->z0);
        return true;
    }
    fill_room(s, im, false);
    if (!encode(s, &s->picture, err)) return false;
    draw(s, &s->picture, noise, s->z0);
    return true;
}

/* The mask's pixel at each latent's corner, as nearest interpolation takes it. */
static float latent_mask(const struct init_encoder *s, const struct init_image *im, int i) {
    int lw = s->w / s->factor, x = i % lw * s->factor, y = i / lw * s->factor;
    return is_hidden(im, (size_t)y * (size_t)s->w + (size_t)x);
}

/* What an inpainting UNet sees beside the latents: the mask, then the masked picture. */
static bool fill_extra(struct init_encoder *s, const struct init_image *im, struct noise_stream *noise, struct error *err) {
    fill_room(s, im, true);
    if (!encode(s, &s->masked, err)) return false;
    draw(s, &s->masked, noise, s->hidden);
    for (int i = 0; i < s->pixels; i++) {
        float *dst = s->extra + (size_t)i * (size_t)s->n_extra;
        dst[0] = latent_mask(s, im, i);
        for (int k = 0; k < s->channels; k++) dst[1 + k] = s->hidden[k * s->pixels + i];
    }
    return true;
}

bool init_encoder_start(struct init_encoder *s, const struct init_image *im, int n_steps, struct noise_stream *noise,
                        struct init_start *out, struct error *err) {
    size_t n = (size_t)(s->pixels * s->channels);
    *out = (struct init_start){.first = -1, .noise = s->noise, .extra = s->extra};
    bool pure = !im || (im->strength >= 1 && (im->mask || s->n_extra));
    if (im && init_image_steps(n_steps, im->strength) < 1)
        return error_set(err, "A strength of %g does none of %d steps; at least %g is needed to change the picture.",
                         im->strength, n_steps, 1.0 / n_steps);
    if (!pure) out->first = n_steps - init_image_steps(n_steps, im->strength);
    bool blends = im && im->mask && !s->n_extra;
    if (!pure || blends) {
        if (!draw_picture(s, im, noise, err)) return false;
        out->z0 = s->z0;
    }
    noise_stream_draw(noise, s->noise, n);
    if (s->n_extra) return fill_extra(s, im, noise, err);
    if (!blends) return true;
    for (size_t i = 0; i < n; i++) s->mask[i] = latent_mask(s, im, (int)(i % (size_t)s->pixels));
    out->mask = s->mask;
    noise_stream_draw(noise, s->hidden, n); /* the reference encodes the masked picture too, and does not use it here */
    return true;
}
