/* UniPC (Zhao et al., arXiv 2302.04867): order 2, the B2 variant, on predicted x0. What the model says at a predicted
 * point first corrects that point, then predicts the next. On x = alpha x0 + s noise. */
#include "diffusion/sampler_priv.h"

#include <math.h>
#include <string.h>

enum { NEWEST, OLDER, CORRECTED }; /* buffers in s->past: x0 of the last two steps, x before the last predictor */

struct leg { /* from one level to another */
    float keep, gain, phi, hh;
    struct sampler_level from;
    float h;
};

static struct leg leg_between(float sigma_from, float sigma_to) {
    struct sampler_level from = sampler_level(sigma_from), to = sampler_level(sigma_to);
    float h = to.lambda - from.lambda, phi = expm1f(-h);
    return (struct leg){to.s / from.s, to.alpha * phi, phi, -h, from, h};
}

/* Where x0 was one step before the leg's start, as a part of the leg. */
static float ratio_before(const struct leg *l, float sigma_before) {
    return (sampler_level(sigma_before).lambda - l->from.lambda) / l->h;
}

/* Corrects x at the level of s->step; `order` is that of the predictor that led here. */
static void correct(struct sampler *s, int order) {
    const float *sigma = s->steps->sigma + s->step, *m0 = s->past[NEWEST], *m1 = s->past[OLDER], *from = s->past[CORRECTED];
    struct leg l = leg_between(sigma[-1], sigma[0]);
    float rho_past = 0, rho_now = 0.5f, r = 1;
    if (order == 2) { /* rho solves  rho_past + rho_now = b1,  r rho_past + rho_now = b2 */
        float phi1 = l.phi / l.hh - 1.0f, phi2 = phi1 / l.hh - 0.5f, b1 = phi1 / l.phi, b2 = 2.0f * phi2 / l.phi;
        r = ratio_before(&l, sigma[-2]);
        rho_past = (b1 - b2) / (1.0f - r);
        rho_now = b1 - rho_past;
    }
    for (size_t i = 0; i < s->n; i++) {
        float past = order == 2 ? rho_past * ((m1[i] - m0[i]) / r) : 0;
        s->x[i] = l.keep * from[i] - l.gain * m0[i] - l.gain * (past + rho_now * (s->x0[i] - m0[i]));
    }
}

static int order_at(const struct sampler *s, int step) {
    int left = s->steps->n - step, done = step - s->first;
    return left < 2 || done < 1 ? 1 : 2;
}

static void feed(struct sampler *s, const float *out) {
    const float *sigma = s->steps->sigma + s->step;
    sampler_denoise_level(s, sampler_level(sigma[0]), out, s->x0);
    if (s->step > s->first) correct(s, order_at(s, s->step - 1));
    float *older = s->past[OLDER], *m0 = memcpy(older, s->x0, s->n * sizeof *older);
    s->past[OLDER] = s->past[NEWEST], s->past[NEWEST] = m0;
    memcpy(s->past[CORRECTED], s->x, s->n * sizeof *s->x);
    struct leg l = leg_between(sigma[0], sigma[1]);
    bool second = order_at(s, s->step) == 2;
    float r = second ? ratio_before(&l, sigma[-1]) : 1;
    const float *m1 = s->past[OLDER];
    for (size_t i = 0; i < s->n; i++) {
        float x = l.keep * s->x[i] - l.gain * m0[i];
        s->x[i] = second ? x - l.gain * (0.5f * ((m1[i] - m0[i]) / r)) : x;
    }
    sampler_step_done(s);
}

const struct sampler_kind sampler_unipc = {.name = "unipc",
                                           .title = "UniPC",
                                           .family = SCHEDULE_FAMILY_MULTISTEP,
                                           .follows_sigmas = true,
                                           .sigmas_by_config = true,
                                           .n_history = 3,
                                           .feed = feed};
