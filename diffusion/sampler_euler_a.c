/* Euler ancestral: a longer Euler step than needed, then fresh noise back up to the next sigma. */
#include "diffusion/sampler_priv.h"

static void feed(struct sampler *s, const float *out) {
    float from = s->steps->sigma[s->step];
    struct sampler_ancestral to = sampler_ancestral(from, s->steps->sigma[s->step + 1], s->eta);
    float length = to.down - from;
    sampler_denoise(s, s->x, from, out, s->x0);
    /* The last step draws too, and multiplies by zero: the streams must advance as diffusers' do. */
    const float *noise = sampler_noise(s);
    for (size_t i = 0; i < s->n; i++) {
        float direction = (s->x[i] - s->x0[i]) / from;
        s->x[i] = (s->x[i] + direction * length) + noise[i] * to.up;
    }
    sampler_step_done(s);
}

const struct sampler_kind sampler_euler_a = {.name = "euler-a",
                                             .title = "Euler ancestral",
                                             .family = SCHEDULE_FAMILY_EULER,
                                             .scales_input = true,
                                             .follows_sigmas = true,
                                             .takes_eta = true,
                                             .eta = 1,
                                             .feed = feed};
