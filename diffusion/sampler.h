/* Samplers: from noise to latents by calls to a model that the caller makes.
 *
 *   struct sampler *s = sampler_create("euler", &params, &error);
 *   sampler_start(s);
 *   for (struct sampler_request q; sampler_next(s, &q);) {
 *       model(q.x, q.t, out);            // with guidance combined
 *       sampler_feed(s, out);
 *   }
 *   use(sampler_x(s));
 *
 * A sampler may ask more often than once a step (q.step stays, q.call counts). Arithmetic is single precision
 * in diffusers' order of operations. Latents are torch's order, [n_images][c][h][w]: noise is drawn that way.
 * Not thread safe. */
#ifndef ATELIER_DIFFUSION_SAMPLER_H
#define ATELIER_DIFFUSION_SAMPLER_H

#include "base/error.h"
#include "base/rng.h"
#include "diffusion/schedule.h"

#include <stddef.h>

struct sampler;

struct sampler_params {
    const struct schedule *schedule; /* must outlive the sampler */
    int n_steps;
    size_t n_images, image_floats; /* x holds n_images * image_floats values */
    struct rng *rngs;              /* caller's; the sampler advances them */
    size_t n_rngs;                 /* 1: one draw for the whole batch; n_images: one generator per image */
    float eta;                     /* ddim: share of fresh noise per step, 0 = deterministic */
};

/* What the model is to be called with. Pointers are the sampler's, valid until sampler_feed. */
struct sampler_request {
    const float *x; /* the model's input, already scaled */
    float t;        /* time of the schedule, may be fractional */
    float sigma;    /* noise level of x before scaling */
    int step, n_steps;
    int call; /* model calls made so far */
};

/* NULL for an unknown name or a schedule that this sampler cannot follow. */
struct sampler *sampler_create(const char *name, const struct sampler_params *p, struct error *e);
void sampler_destroy(struct sampler **s);

/* Draws the start noise, or takes it (n values of unit variance, copied). */
void sampler_start(struct sampler *s);
void sampler_start_noise(struct sampler *s, const float *noise);

bool sampler_next(struct sampler *s, struct sampler_request *q); /* false = finished */
void sampler_feed(struct sampler *s, const float *model_output); /* as many values as x */

const float *sampler_x(const struct sampler *s);  /* current latents; after the last feed, the result */
const float *sampler_x0(const struct sampler *s); /* the model's latest idea of the result, for previews */

/* The i-th sampler's name and title for lists; NULL past the end. */
const char *sampler_name(size_t i);
const char *sampler_title(size_t i);

#endif
