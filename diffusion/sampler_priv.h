/* What one sampler's file sees. A new sampler is one file defining a sampler_kind and one row in samplers.def. */
#ifndef ATELIER_DIFFUSION_SAMPLER_PRIV_H
#define ATELIER_DIFFUSION_SAMPLER_PRIV_H

#include "diffusion/sampler.h"

enum { SAMPLER_MAX_HISTORY = 6 };

struct sampler_kind {
    const char *name, *title;
    enum schedule_family family;
    bool scales_input;     /* x = x0 + sigma noise, and the model gets x / sqrt(sigma^2 + 1) */
    bool follows_sigmas;   /* can use karras and other sigma lists */
    bool sigmas_by_config; /* does so when the model's configuration says so, without being asked */
    bool takes_eta;
    float eta;     /* its own, when none is asked for */
    int n_history; /* buffers in s->past: history, newest first, or whatever must last from call to call */
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
    int step, first, call, phase; /* first: the step of the start */
    float eta;
    float *ask_x; /* next request, before scaling */
    float ask_t, ask_sigma;
    bool asked, started;
};

/* Standard normal values for all of x, from the caller's streams. Valid until the next call. */
const float *sampler_noise(struct sampler *s);

/* Puts values (of x's size) in front of the history. */
void sampler_remember(struct sampler *s, const float *values);

/* Asks for another model output within the step: at x (kept by the sampler), which lies at sigma. */
void sampler_ask(struct sampler *s, float *x, float sigma);

/* Ends the step: the next request is at the next time. */
void sampler_step_done(struct sampler *s);

/* ---- Arithmetic that samplers share (sampler_math.c) ---- */

/* x0 from a model output at x = x0 + sigma noise. */
void sampler_denoise(const struct sampler *s, const float *x, float sigma, const float *out, float *x0);

/* The same for one value of x = sqrt(alpha) x0 + sqrt(1 - alpha) epsilon, alpha > 0 or no epsilon-model. The model's
 * range limit (clip_range) is applied to x0. */
void sampler_split(const struct sampler *s, float alpha, float x, float out, float *x0, float *epsilon);

/* x = alpha x0 + s epsilon, alpha^2 + s^2 = 1; lambda = log(alpha / s), infinite at sigma 0. */
struct sampler_level {
    float alpha, s, lambda;
};
struct sampler_level sampler_level(float sigma);
void sampler_denoise_level(const struct sampler *s, struct sampler_level at, const float *out, float *x0);

/* An ancestral step from sigma `from` to `to`: go down to `down`, then add noise times `up`. */
struct sampler_ancestral {
    float down, up;
};
struct sampler_ancestral sampler_ancestral(float from, float to, float eta);

/* check() of samplers that divide by sqrt(alpha_bar) of the first time: an epsilon model says nothing there when that
 * is 0. */
bool sampler_check_start(const struct sampler *s, struct error *e);

#endif
