/* Linear multistep of order 4 over sigma (Katherine Crowson's): the polynomial through the last slopes, integrated. */
#include "diffusion/sampler_priv.h"

#include <math.h>

enum { ORDER = 4 };

/* Integral from node 0 to `end` of the Lagrange polynomial that is 1 at node j and 0 at the others. It has degree 3
 * at most, which Gauss' rule with two points integrates exactly. */
static double weight(const float *sigma, int step, int order, int j) {
    double from = sigma[step], to = sigma[step + 1], sum = 0;
    for (int point = -1; point <= 1; point += 2) {
        double at = (from + to) / 2 + point * (to - from) / (2 * sqrt(3.0)), product = 1;
        for (int k = 0; k < order; k++)
            if (k != j) product *= (at - sigma[step - k]) / ((double)sigma[step - j] - sigma[step - k]);
        sum += product;
    }
    return sum * (to - from) / 2;
}

static void feed(struct sampler *s, const float *out) {
    const float *sigma = s->steps->sigma;
    sampler_denoise(s, s->x, sigma[s->step], out, s->x0);
    for (size_t i = 0; i < s->n; i++) s->input[i] = (s->x[i] - s->x0[i]) / sigma[s->step];
    sampler_remember(s, s->input); /* the slope; input is free until the next request */
    for (int j = s->n_past - 1; j >= 0; j--) {
        float w = (float)weight(sigma, s->step, s->n_past, j);
        for (size_t i = 0; i < s->n; i++) s->x[i] += w * s->past[j][i];
    }
    sampler_step_done(s);
}

const struct sampler_kind sampler_lms = {.name = "lms",
                                         .title = "LMS",
                                         .family = SCHEDULE_FAMILY_EULER,
                                         .scales_input = true,
                                         .follows_sigmas = true,
                                         .sigmas_by_config = true,
                                         .n_history = ORDER,
                                         .feed = feed};
