/* SDE-DPM-Solver++ (2M): the stochastic sibling of 2M, midpoint form, on x = alpha x0 + s noise. */
#include "diffusion/sampler_priv.h"

#include <math.h>

enum { FEW_STEPS = 15 };

static void feed(struct sampler *s, const float *out) {
    const float *sigma = s->steps->sigma + s->step;
    struct sampler_level from = sampler_level(sigma[0]), to = sampler_level(sigma[1]);
    float h = to.lambda - from.lambda, eta = s->eta;
    float keep = to.s / from.s * expf(-eta * h), gain = to.alpha * (1.0f - expf(-h - eta * h));
    float fresh = to.s * sqrtf(1.0f - expf(-2.0f * eta * h));
    bool last = s->step == s->steps->n - 1;
    bool first_order = s->n_past == 0 || (last && (s->steps->n < FEW_STEPS || sigma[1] == 0));
    if (sigma[1] == 0) keep = fresh = 0, gain = 1; /* h is infinite, and with eta 0 its products are not numbers */
    sampler_denoise_level(s, from, out, s->x0);
    const float *noise = sampler_noise(s), *past = s->past[0];
    float half = 0;
    if (!first_order) half = 0.5f * gain / ((from.lambda - sampler_level(sigma[-1]).lambda) / h);
    for (size_t i = 0; i < s->n; i++) {
        float x = keep * s->x[i] + gain * s->x0[i];
        if (!first_order) x = x + half * (s->x0[i] - past[i]);
        s->x[i] = x + fresh * noise[i];
    }
    sampler_remember(s, s->x0);
    sampler_step_done(s);
}

const struct sampler_kind sampler_dpmpp_2m_sde = {.name = "dpmpp-2m-sde",
                                                  .title = "DPM-Solver++ 2M SDE",
                                                  .family = SCHEDULE_FAMILY_MULTISTEP,
                                                  .follows_sigmas = true,
                                                  .sigmas_by_config = true,
                                                  .takes_eta = true,
                                                  .eta = 1,
                                                  .n_history = 1,
                                                  .feed = feed};
