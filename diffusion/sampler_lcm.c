/* Latent consistency sampling (Luo et al., arXiv 2310.04378): jump to x0 through the consistency boundary, then noise
 * it to the next time. For LCM models, and LCM LoRAs on ordinary ones. */
#include "diffusion/sampler_priv.h"

#include <math.h>

static void feed(struct sampler *s, const float *out) {
    const float sigma_data = 0.5f, timestep_scaling = 10;
    const float *bar = s->schedule->alpha_bar;
    int t = (int)s->steps->t[s->step];
    bool last = s->step == s->steps->n - 1;
    float scaled = timestep_scaling * (float)t, square = scaled * scaled + sigma_data * sigma_data;
    float skip = sigma_data * sigma_data / square, gain = scaled / sqrtf(square);
    for (size_t i = 0; i < s->n; i++) {
        float x0, epsilon;
        sampler_split(s, bar[t], s->x[i], out[i], &x0, &epsilon);
        s->x[i] = s->x0[i] = gain * x0 + skip * s->x[i];
    }
    if (!last) {
        float to = bar[(int)s->steps->t[s->step + 1]], keep = sqrtf(to), fresh = sqrtf(1.0f - to);
        const float *noise = sampler_noise(s);
        for (size_t i = 0; i < s->n; i++) s->x[i] = keep * s->x0[i] + fresh * noise[i];
    }
    sampler_step_done(s);
}

const struct sampler_kind sampler_lcm = {
    .name = "lcm", .title = "LCM", .family = SCHEDULE_FAMILY_LCM, .feed = feed, .check = sampler_check_start};
