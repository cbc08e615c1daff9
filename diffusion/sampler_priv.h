/* What one sampler's file sees. A new sampler is one file defining a sampler_kind and one row in samplers.def. */
#ifndef ATELIER_DIFFUSION_SAMPLER_PRIV_H
#define ATELIER_DIFFUSION_SAMPLER_PRIV_H

#include "diffusion/sampler.h"

enum { SAMPLER_MAX_HISTORY = 4 };

struct sampler_kind {
    const char *name, *title;
    enum schedule_family family;
    bool scales_input;     /* x = x0 + sigma noise, and the model gets x / sqrt(sigma^2 + 1) */
    bool follows_sigmas;   /* can use karras and other sigma lists */
    bool sigmas_by_config; /* does so when the model's configuration says so, without being asked */
    int n_history;         /* x0 of earlier steps kept in s->past, newest first */
    /* Consumes the answer to the last request. Sets s->x and, to finish the step, calls sampler_step_done;
     * a sampler with further calls in a step sets s->ask_* and s->phase instead. */
    void (*feed)(struct sampler *s, const float *out);
    bool (*check)(const struct sampler *s, struct error *e); /* optional: refuses what it cannot do */
};

struct sampler {
    struct arena *arena;
    const struct sampler_kind *kind;
    struct sampler_params params;
    const struct schedule *schedule;
    struct schedule_steps *steps;
    size_t n;              /* values in x */
    float *x, *x0, *input; /* [n] */
    float *noise;          /* [n], scratch of sampler_noise */
    float *past[SAMPLER_MAX_HISTORY];
    int n_past; /* filled */
    int step, call, phase;
    const float *ask_x; /* next request, before scaling */
    float ask_t, ask_sigma;
    bool asked, started;
};

/* x0 from a model output at x = x0 + sigma noise. */
void sampler_denoise(const struct sampler *s, const float *x, float sigma, const float *out, float *x0);

/* Standard normal values for all of x, from the caller's generators. Valid until the next call. */
const float *sampler_noise(struct sampler *s);

/* Puts s->x0 in front of the history. */
void sampler_remember(struct sampler *s);

/* Ends the step: the next request is at the next time. */
void sampler_step_done(struct sampler *s);

#endif
