/* DDIM (Song et al., arXiv 2010.02502): whole times, no sigma list; eta > 0 adds fresh noise. */
#include "diffusion/sampler_priv.h"

#include <math.h>

static void feed(struct sampler *s, const float *out) {
    const struct schedule *schedule = s->schedule;
    int t = (int)s->steps->t[s->step], before = t - schedule->n_train / s->steps->n;
    float end = schedule->params.final_alpha_first ? schedule->alpha_bar[0] : 1.0f;
    float alpha = schedule->alpha_bar[t], beta = 1.0f - alpha;
    float alpha_to = before >= 0 ? schedule->alpha_bar[before] : end, beta_to = 1.0f - alpha_to;
    float variance = (beta_to / beta) * (1.0f - alpha / alpha_to);
    float fresh = s->eta > 0 ? s->eta * sqrtf(variance) : 0;
    float along = sqrtf(1.0f - alpha_to - fresh * fresh), root_to = sqrtf(alpha_to);
    for (size_t i = 0; i < s->n; i++) {
        float epsilon;
        sampler_split(s, alpha, s->x[i], out[i], &s->x0[i], &epsilon);
        s->x[i] = root_to * s->x0[i] + along * epsilon;
    }
    if (s->eta > 0) {
        const float *noise = sampler_noise(s);
        for (size_t i = 0; i < s->n; i++) s->x[i] = s->x[i] + fresh * noise[i];
    }
    sampler_step_done(s);
}

const struct sampler_kind sampler_ddim = {.name = "ddim",
                                          .title = "DDIM",
                                          .family = SCHEDULE_FAMILY_DDIM,
                                          .takes_eta = true,
                                          .feed = feed,
                                          .check = sampler_check_start};
