/* DPM-Solver++ (2S) ancestral (Lu et al., arXiv 2211.01095; ancestral form Katherine Crowson's): a look at the middle
 * in log sigma, a step to a lower sigma, noise back up. 2n - 1 model calls. */
#include "diffusion/sampler_priv.h"

#include <math.h>

static void euler(struct sampler *s, float from, float to) {
    for (size_t i = 0; i < s->n; i++) s->x[i] = s->x[i] + (s->x[i] - s->x0[i]) / from * (to - from);
}

static void feed(struct sampler *s, const float *out) {
    float from = s->steps->sigma[s->step], next = s->steps->sigma[s->step + 1];
    struct sampler_ancestral to = sampler_ancestral(from, next, s->eta);
    sampler_denoise(s, s->ask_x, s->ask_sigma, out, s->x0);
    if (to.down == 0) {
        euler(s, from, to.down);
    } else {
        float t = -logf(from), h = -logf(to.down) - t, *middle = s->past[0];
        if (s->phase == 0) {
            float sigma = expf(-(t + h / 2)), keep = sigma / expf(-t), gain = expm1f(-h / 2);
            for (size_t i = 0; i < s->n; i++) middle[i] = keep * s->x[i] - gain * s->x0[i];
            sampler_ask(s, middle, sigma);
            return;
        }
        float keep = expf(-(t + h)) / expf(-t), gain = expm1f(-h);
        for (size_t i = 0; i < s->n; i++) s->x[i] = keep * s->x[i] - gain * s->x0[i];
    }
    if (next > 0) {
        const float *noise = sampler_noise(s);
        for (size_t i = 0; i < s->n; i++) s->x[i] = s->x[i] + noise[i] * to.up;
    }
    sampler_step_done(s);
}

const struct sampler_kind sampler_dpmpp_2s_a = {.name = "dpmpp-2s-a",
                                                .title = "DPM-Solver++ 2S ancestral",
                                                .family = SCHEDULE_FAMILY_KDIFF,
                                                .scales_input = true,
                                                .follows_sigmas = true,
                                                .sigmas_by_config = true,
                                                .takes_eta = true,
                                                .eta = 1,
                                                .n_history = 1,
                                                .feed = feed};
