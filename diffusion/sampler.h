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
 * in the reference's order of operations: diffusers', or k-diffusion's for what diffusers lacks. Latents are torch's
 * order, [n_images][c][h][w]: noise is drawn that way. Not thread safe. */
#ifndef ATELIER_DIFFUSION_SAMPLER_H
#define ATELIER_DIFFUSION_SAMPLER_H

#include "base/error.h"
#include "diffusion/noise_stream.h"
#include "diffusion/schedule.h"

#include <stddef.h>

struct sampler;

struct sampler_params {
    const struct schedule *schedule; /* must outlive the sampler */
    int n_steps;
    size_t n_images, image_floats; /* x holds n_images * image_floats values */
    struct noise_stream *noises;          /* caller's; the sampler advances them */
    size_t n_noises;               /* 1: one draw for the whole batch; n_images: one stream per image */
    bool has_eta;                  /* false: the sampler's own; true: refused by samplers that know none */
    float eta;                     /* share of fresh noise per step, 0 = deterministic; tcd: its gamma */
};

/* What the model is to be called with. Pointers are the sampler's, valid until sampler_feed. */
struct sampler_request {
    const float *x; /* the model's input, already scaled */
    float t;        /* time of the schedule, may be fractional */
    float sigma;    /* noise level of x before scaling */
    int step, n_steps;
    int call; /* model calls made since the start */
};

/* NULL for an unknown name or a schedule that this sampler cannot follow. */
struct sampler *sampler_create(const char *name, const struct sampler_params *p, struct error *e);
void sampler_destroy(struct sampler **s);

/* Draws the start noise, or takes it (n values of unit variance, copied). */
void sampler_start(struct sampler *s);
void sampler_start_noise(struct sampler *s, const float *noise);

/* Starts in the middle, from latents z0 noised to the level of step `first`, 0 <= first < sampler_steps. */
void sampler_start_image(struct sampler *s, const float *z0, const float *noise, int first);

/* Between a feed and the next request: where mask is 0, x becomes z0 noised to the level of that request (after the
 * last feed: z0 itself), where it is 1, x stays. All have as many values as x. Inpainting as diffusers does it. */
void sampler_blend(struct sampler *s, const float *z0, const float *noise, const float *mask);

/* Steps of a full run: n_steps of the parameters, for pndm one more. */
int sampler_steps(const struct sampler *s);

bool sampler_next(struct sampler *s, struct sampler_request *q); /* false = finished */
void sampler_feed(struct sampler *s, const float *model_output); /* as many values as x */

const float *sampler_x(const struct sampler *s);  /* what the next request is about; after the last feed, the result */
const float *sampler_x0(const struct sampler *s); /* the model's latest idea of the result, for previews */

/* The i-th sampler's name and title for lists; NULL past the end. */
const char *sampler_name(size_t i);
const char *sampler_title(size_t i);

#endif
