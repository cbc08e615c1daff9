/* DPM-Solver++ (2M) (Lu et al., arXiv 2211.01095): second order from two successive x0, midpoint form, on
 * x = alpha x0 + s noise. */
#include "diffusion/sampler_priv.h"

#include <math.h>

enum { FEW_STEPS = 15 }; /* below this the last step is first order for stability */

static void feed(struct sampler *s, const float *out) {
    const float *sigma = s->steps->sigma + s->step;
    struct sampler_level from = sampler_level(sigma[0]), to = sampler_level(sigma[1]);
    float h = to.lambda - from.lambda; /* infinite when the end is sigma 0: then x becomes x0 */
    float keep = to.s / from.s, gain = to.alpha * (expf(-h) - 1.0f);
    bool last = s->step == s->steps->n - 1;
    bool first_order = s->n_past == 0 || (last && (s->steps->n < FEW_STEPS || sigma[1] == 0));
    sampler_denoise_level(s, from, out, s->x0);
    if (first_order) {
        for (size_t i = 0; i < s->n; i++) s->x[i] = keep * s->x[i] - gain * s->x0[i];
    } else {
        float inverse_r = 1.0f / ((from.lambda - sampler_level(sigma[-1]).lambda) / h), half = 0.5f * gain;
        const float *past = s->past[0];
        for (size_t i = 0; i < s->n; i++) {
            float slope = inverse_r * (s->x0[i] - past[i]);
            s->x[i] = keep * s->x[i] - gain * s->x0[i] - half * slope;
        }
    }
    sampler_remember(s, s->x0);
    sampler_step_done(s);
}

const struct sampler_kind sampler_dpmpp_2m = {.name = "dpmpp-2m",
                                              .title = "DPM-Solver++ 2M",
                                              .family = SCHEDULE_FAMILY_MULTISTEP,
                                              .follows_sigmas = true,
                                              .sigmas_by_config = true,
                                              .n_history = 1,
                                              .feed = feed};
