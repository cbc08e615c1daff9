/* DPM-Solver++ SDE (Katherine Crowson's, r = 1/2): a noisy step to the middle in log sigma, then from the start to the
 * end with what the model says there. 2n - 1 model calls. Noise is drawn afresh twice a step; programs that take it
 * from a Brownian tree get the same distribution and other pictures. */
#include "diffusion/sampler_priv.h"

#include <math.h>

/* dst = the solution from s->x at sigma `from`, given x0, to the ancestral target, plus its noise. */
static void leap(struct sampler *s, float *dst, float from, struct sampler_ancestral to) {
    float t = -logf(from), end = -logf(to.down), keep = expf(-end) / expf(-t), gain = expm1f(t - end);
    const float *noise = sampler_noise(s);
    for (size_t i = 0; i < s->n; i++) dst[i] = (keep * s->x[i] - gain * s->x0[i]) + noise[i] * to.up;
}

static void feed(struct sampler *s, const float *out) {
    float from = s->steps->sigma[s->step], next = s->steps->sigma[s->step + 1];
    sampler_denoise(s, s->ask_x, s->ask_sigma, out, s->x0);
    if (next == 0) {
        for (size_t i = 0; i < s->n; i++) s->x[i] = s->x[i] + (s->x[i] - s->x0[i]) / from * (next - from);
    } else if (s->phase == 0) {
        float t = -logf(from), middle = expf(-(t + (-logf(next) - t) / 2));
        leap(s, s->past[0], from, sampler_ancestral(from, middle, s->eta));
        sampler_ask(s, s->past[0], middle);
        return;
    } else {
        leap(s, s->x, from, sampler_ancestral(from, next, s->eta));
    }
    sampler_step_done(s);
}

const struct sampler_kind sampler_dpmpp_sde = {.name = "dpmpp-sde",
                                               .title = "DPM-Solver++ SDE",
                                               .family = SCHEDULE_FAMILY_KDIFF,
                                               .scales_input = true,
                                               .follows_sigmas = true,
                                               .sigmas_by_config = true,
                                               .takes_eta = true,
                                               .eta = 1,
                                               .n_history = 1,
                                               .feed = feed};
