/* DDPM (Ho et al., arXiv 2006.11239): the posterior mean plus noise of the smaller fixed variance. */
#include "diffusion/sampler_priv.h"

#include <math.h>

static void feed(struct sampler *s, const float *out) {
    const float *bar = s->schedule->alpha_bar;
    bool last = s->step == s->steps->n - 1;
    int t = (int)s->steps->t[s->step], before = last ? -1 : (int)s->steps->t[s->step + 1];
    float alpha = bar[t], alpha_to = before >= 0 ? bar[before] : 1.0f, beta = 1.0f - alpha, beta_to = 1.0f - alpha_to;
    float ratio = alpha / alpha_to, step_beta = 1.0f - ratio;
    float from_x0 = sqrtf(alpha_to) * step_beta / beta, from_x = sqrtf(ratio) * beta_to / beta;
    for (size_t i = 0; i < s->n; i++) {
        float epsilon;
        sampler_split(s, alpha, s->x[i], out[i], &s->x0[i], &epsilon);
        s->x[i] = from_x0 * s->x0[i] + from_x * s->x[i];
    }
    if (t > 0) {
        float deviation = sqrtf(fmaxf(beta_to / beta * step_beta, 1e-20f));
        const float *noise = sampler_noise(s);
        for (size_t i = 0; i < s->n; i++) s->x[i] = s->x[i] + deviation * noise[i];
    }
    sampler_step_done(s);
}

const struct sampler_kind sampler_ddpm = {
    .name = "ddpm", .title = "DDPM", .family = SCHEDULE_FAMILY_DDIM, .feed = feed, .check = sampler_check_start};
