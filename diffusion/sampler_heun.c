/* Heun (Karras et al., arXiv 2206.00364, algorithm 1): an Euler step, then the mean of the slopes at both ends.
 * 2n - 1 model calls. */
#include "diffusion/sampler_priv.h"

enum { AHEAD, SLOPE }; /* buffers in s->past */

static void first(struct sampler *s, const float *out, float from, float to) {
    float *ahead = s->past[AHEAD], *slope = s->past[SLOPE];
    sampler_denoise(s, s->x, from, out, s->x0);
    for (size_t i = 0; i < s->n; i++) {
        slope[i] = (s->x[i] - s->x0[i]) / from;
        ahead[i] = s->x[i] + slope[i] * (to - from);
    }
    sampler_ask(s, ahead, to);
    if (s->step + 1 < s->steps->n) s->ask_t = s->steps->t[s->step + 1];
}

static void second(struct sampler *s, const float *out, float from, float to) {
    const float *ahead = s->past[AHEAD], *slope = s->past[SLOPE];
    sampler_denoise(s, ahead, to, out, s->x0);
    for (size_t i = 0; i < s->n; i++) {
        float mean = (slope[i] + (ahead[i] - s->x0[i]) / to) / 2;
        s->x[i] = s->x[i] + mean * (to - from);
    }
    sampler_step_done(s);
}

static void feed(struct sampler *s, const float *out) {
    float from = s->steps->sigma[s->step], to = s->steps->sigma[s->step + 1];
    if (s->phase) {
        second(s, out, from, to);
    } else if (to > 0) {
        first(s, out, from, to);
    } else {
        sampler_denoise(s, s->x, from, out, s->x0);
        for (size_t i = 0; i < s->n; i++) s->x[i] = s->x[i] + (s->x[i] - s->x0[i]) / from * (to - from);
        sampler_step_done(s);
    }
}

const struct sampler_kind sampler_heun = {.name = "heun",
                                          .title = "Heun",
                                          .family = SCHEDULE_FAMILY_EULER,
                                          .scales_input = true,
                                          .follows_sigmas = true,
                                          .sigmas_by_config = true,
                                          .n_history = 2,
                                          .feed = feed};
