/* Euler ancestral: a longer Euler step than needed, then fresh noise back up to the next sigma. */
#include "diffusion/sampler_priv.h"

#include <math.h>

static void feed(struct sampler *s, const float *out) {
    float from = s->steps->sigma[s->step], to = s->steps->sigma[s->step + 1];
    float from2 = from * from, to2 = to * to;
    float up = sqrtf(to2 * (from2 - to2) / from2), down = sqrtf(to2 - up * up), length = down - from;
    sampler_denoise(s, s->x, from, out, s->x0);
    /* The last step draws too, and multiplies by zero: the generators must advance as diffusers' do. */
    const float *noise = sampler_noise(s);
    for (size_t i = 0; i < s->n; i++) {
        float direction = (s->x[i] - s->x0[i]) / from;
        s->x[i] = (s->x[i] + direction * length) + noise[i] * up;
    }
    sampler_step_done(s);
}

const struct sampler_kind sampler_euler_a = {.name = "euler-a",
                                             .title = "Euler ancestral",
                                             .family = SCHEDULE_FAMILY_EULER,
                                             .scales_input = true,
                                             .follows_sigmas = true,
                                             .feed = feed};
