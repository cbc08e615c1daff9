/* DPM-Solver++ (3M) SDE (Katherine Crowson's): third order from three successive x0, on x = x0 + sigma noise. */
#include "diffusion/sampler_priv.h"

#include <math.h>
#include <string.h>

/* Adds what the earlier x0 say about the slope and curvature over the step. h: log sigma steps, newest first. */
static void correct(struct sampler *s, const float *h, float h_eta) {
    float phi2 = expm1f(-h_eta) / h_eta + 1.0f, phi3 = phi2 / h_eta - 0.5f;
    const float *one = s->past[0], *two = s->past[1];
    float r0 = h[1] / h[0];
    if (s->n_past == 1) {
        for (size_t i = 0; i < s->n; i++) s->x[i] = s->x[i] + phi2 * ((s->x0[i] - one[i]) / r0);
        return;
    }
    float r1 = h[2] / h[0];
    for (size_t i = 0; i < s->n; i++) {
        float a = (s->x0[i] - one[i]) / r0, b = (one[i] - two[i]) / r1;
        float d1 = a + (a - b) * r0 / (r0 + r1), d2 = (a - b) / (r0 + r1);
        s->x[i] = s->x[i] + phi2 * d1 - phi3 * d2;
    }
}

static void feed(struct sampler *s, const float *out) {
    const float *sigma = s->steps->sigma + s->step;
    sampler_denoise(s, s->x, sigma[0], out, s->x0);
    if (sigma[1] == 0) {
        memcpy(s->x, s->x0, s->n * sizeof *s->x);
    } else {
        float h[3] = {logf(sigma[0]) - logf(sigma[1])};
        for (int i = 1; i <= s->n_past; i++) h[i] = logf(sigma[-i]) - logf(sigma[1 - i]);
        float h_eta = h[0] * (s->eta + 1.0f), keep = expf(-h_eta), gain = -expm1f(-h_eta);
        for (size_t i = 0; i < s->n; i++) s->x[i] = keep * s->x[i] + gain * s->x0[i];
        if (s->n_past) correct(s, h, h_eta);
        if (s->eta > 0) {
            float fresh = sigma[1] * sqrtf(-expm1f(-2.0f * h[0] * s->eta));
            const float *noise = sampler_noise(s);
            for (size_t i = 0; i < s->n; i++) s->x[i] = s->x[i] + noise[i] * fresh;
        }
    }
    sampler_remember(s, s->x0);
    sampler_step_done(s);
}

const struct sampler_kind sampler_dpmpp_3m_sde = {.name = "dpmpp-3m-sde",
                                                  .title = "DPM-Solver++ 3M SDE",
                                                  .family = SCHEDULE_FAMILY_KDIFF,
                                                  .scales_input = true,
                                                  .follows_sigmas = true,
                                                  .sigmas_by_config = true,
                                                  .takes_eta = true,
                                                  .eta = 1,
                                                  .n_history = 2,
                                                  .feed = feed};
