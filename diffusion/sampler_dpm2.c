/* DPM-Solver-2 (Karras et al., arXiv 2206.00364, algorithm 2; Lu et al., arXiv 2206.00927): the slope at the
 * geometric mean of two sigmas counts for the whole step. The ancestral form does so down to a lower sigma and adds
 * noise. 2n - 1 model calls. */
#include "diffusion/sampler_priv.h"

#include <math.h>

static void toward(struct sampler *s, float *dst, const float *at, float sigma, float length) {
    for (size_t i = 0; i < s->n; i++) dst[i] = s->x[i] + (at[i] - s->x0[i]) / sigma * length;
}

static void step(struct sampler *s, const float *out, struct sampler_ancestral to) {
    float from = s->steps->sigma[s->step];
    if (s->phase == 0 && to.down > 0) {
        float middle = expf(0.5f * (logf(from) + logf(to.down)));
        sampler_denoise(s, s->x, from, out, s->x0);
        toward(s, s->past[0], s->x, from, middle - from);
        sampler_ask(s, s->past[0], middle);
        return;
    }
    const float *at = s->ask_x;
    float sigma = s->ask_sigma;
    sampler_denoise(s, at, sigma, out, s->x0);
    toward(s, s->x, at, sigma, to.down - from);
    if (to.up > 0) {
        const float *noise = sampler_noise(s);
        for (size_t i = 0; i < s->n; i++) s->x[i] = s->x[i] + noise[i] * to.up;
    }
    sampler_step_done(s);
}

static void feed(struct sampler *s, const float *out) {
    step(s, out, (struct sampler_ancestral){.down = s->steps->sigma[s->step + 1]});
}

static void feed_ancestral(struct sampler *s, const float *out) {
    step(s, out, sampler_ancestral(s->steps->sigma[s->step], s->steps->sigma[s->step + 1], s->eta));
}

const struct sampler_kind sampler_dpm2 = {.name = "dpm2",
                                          .title = "DPM2",
                                          .family = SCHEDULE_FAMILY_DPM2,
                                          .scales_input = true,
                                          .follows_sigmas = true,
                                          .sigmas_by_config = true,
                                          .n_history = 1,
                                          .feed = feed};
const struct sampler_kind sampler_dpm2_a = {.name = "dpm2-a",
                                            .title = "DPM2 ancestral",
                                            .family = SCHEDULE_FAMILY_DPM2,
                                            .scales_input = true,
                                            .follows_sigmas = true,
                                            .sigmas_by_config = true,
                                            .takes_eta = true,
                                            .eta = 1,
                                            .n_history = 1,
                                            .feed = feed_ancestral};
