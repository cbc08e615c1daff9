/* The forward process of training: noised latents, what the model should answer, and how much a time counts. */
#ifndef ATELIER_DIFFUSION_TARGET_H
#define ATELIER_DIFFUSION_TARGET_H

#include "diffusion/schedule.h"

#include <stddef.h>

/* dst = sqrt(alpha_bar[t]) x0 + sqrt(1 - alpha_bar[t]) noise. dst may be x0. 0 <= t < n_train. */
void target_add_noise(const struct schedule *s, int t, float *dst, const float *x0, const float *noise, size_t n);

/* What the model is to predict: noise, v = sqrt(a) noise - sqrt(1-a) x0, or x0. dst may be an input. */
void target_make(const struct schedule *s, int t, float *dst, const float *x0, const float *noise, size_t n);

/* alpha_bar / (1 - alpha_bar); 0 at a zero terminal SNR. */
float target_snr(const struct schedule *s, int t);

enum target_weighting { TARGET_WEIGHT_NONE, TARGET_WEIGHT_MIN_SNR, TARGET_WEIGHT_DEBIASED };

/* Names "none", "min-snr", "debiased". */
bool target_weighting_parse(const char *name, enum target_weighting *out, struct error *e);

/* Factor on a sample's mean loss at time t, for the schedule's prediction type. gamma: min-SNR's cap, usually 5. */
float target_weight(const struct schedule *s, enum target_weighting kind, int t, float gamma);

#endif
