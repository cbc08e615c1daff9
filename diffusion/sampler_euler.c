/* Euler: straight along the direction to x0, from one sigma to the next. */
#include "diffusion/sampler_priv.h"

static void feed(struct sampler *s, const float *out) {
    float sigma = s->steps->sigma[s->step], length = s->steps->sigma[s->step + 1] - sigma;
    sampler_denoise(s, s->x, sigma, out, s->x0);
    for (size_t i = 0; i < s->n; i++) {
        float direction = (s->x[i] - s->x0[i]) / sigma;
        s->x[i] = s->x[i] + direction * length;
    }
    sampler_step_done(s);
}

const struct sampler_kind sampler_euler = {.name = "euler",
                                           .title = "Euler",
                                           .family = SCHEDULE_FAMILY_EULER,
                                           .scales_input = true,
                                           .follows_sigmas = true,
                                           .sigmas_by_config = true,
                                           .feed = feed};
