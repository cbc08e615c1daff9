/* Trajectory consistency sampling (Zheng et al., arXiv 2402.19159): jump along the trajectory to an earlier time than
 * the next one, then noise back up. eta is the paper's gamma; 0 is deterministic. */
#include "diffusion/sampler_priv.h"

#include <math.h>

static void feed(struct sampler *s, const float *out) {
    const float *bar = s->schedule->alpha_bar;
    bool last = s->step == s->steps->n - 1;
    int t = (int)s->steps->t[s->step], next = last ? 0 : (int)s->steps->t[s->step + 1];
    int target = (int)((1.0f - s->eta) * (float)next);
    float keep = sqrtf(bar[target]), along = sqrtf(1.0f - bar[target]);
    for (size_t i = 0; i < s->n; i++) {
        float epsilon;
        sampler_split(s, bar[t], s->x[i], out[i], &s->x0[i], &epsilon);
        s->x[i] = keep * s->x0[i] + along * epsilon;
    }
    if (s->eta > 0 && !last) {
        float ratio = bar[next] / bar[target], up = sqrtf(ratio), fresh = sqrtf(1.0f - ratio);
        const float *noise = sampler_noise(s);
        for (size_t i = 0; i < s->n; i++) s->x[i] = up * s->x[i] + fresh * noise[i];
    }
    sampler_step_done(s);
}

const struct sampler_kind sampler_tcd = {.name = "tcd",
                                         .title = "TCD",
                                         .family = SCHEDULE_FAMILY_LCM,
                                         .takes_eta = true,
                                         .eta = 0.3f,
                                         .feed = feed,
                                         .check = sampler_check_start};
