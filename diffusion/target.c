#include "diffusion/target.h"

#include <assert.h>
#include <math.h>
#include <string.h>

void target_add_noise(const struct schedule *s, int t, float *dst, const float *x0, const float *noise, size_t n) {
    assert(t >= 0 && t < s->n_train);
    float root_a = sqrtf(s->alpha_bar[t]), root_b = sqrtf(1.0f - s->alpha_bar[t]);
    for (size_t i = 0; i < n; i++) dst[i] = root_a * x0[i] + root_b * noise[i];
}

void target_make(const struct schedule *s, int t, float *dst, const float *x0, const float *noise, size_t n) {
    assert(t >= 0 && t < s->n_train);
    float root_a = sqrtf(s->alpha_bar[t]), root_b = sqrtf(1.0f - s->alpha_bar[t]);
    switch (s->params.prediction) {
    case SCHEDULE_PREDICT_EPSILON: memmove(dst, noise, n * sizeof *dst); return;
    case SCHEDULE_PREDICT_SAMPLE: memmove(dst, x0, n * sizeof *dst); return;
    case SCHEDULE_PREDICT_V:
        for (size_t i = 0; i < n; i++) dst[i] = root_a * noise[i] - root_b * x0[i];
        return;
    }
}

float target_snr(const struct schedule *s, int t) {
    assert(t >= 0 && t < s->n_train);
    return s->alpha_bar[t] / (1.0f - s->alpha_bar[t]);
}

bool target_weighting_parse(const char *name, enum target_weighting *out, struct error *e) {
    static const char *const names[] = {"none", "min-snr", "debiased"};
    for (int i = 0; i < 3; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (enum target_weighting)i;
            return true;
        }
    return error_set(e, "loss weighting '%.60s' is not known; it can be none, min-snr or debiased", name);
}

static float weight_min_snr(enum schedule_prediction prediction, float snr, float gamma) {
    float capped = fminf(snr, gamma);
    switch (prediction) {
    case SCHEDULE_PREDICT_EPSILON: return snr > 0 ? capped / snr : 1.0f;
    case SCHEDULE_PREDICT_V: return capped / (snr + 1.0f);
    case SCHEDULE_PREDICT_SAMPLE: return capped;
    }
    return 1.0f;
}

float target_weight(const struct schedule *s, enum target_weighting kind, int t, float gamma) {
    float snr = target_snr(s, t);
    switch (kind) {
    case TARGET_WEIGHT_NONE: return 1.0f;
    case TARGET_WEIGHT_MIN_SNR: return weight_min_snr(s->params.prediction, snr, gamma);
    case TARGET_WEIGHT_DEBIASED:
        if (s->params.prediction == SCHEDULE_PREDICT_V) return 1.0f / (snr + 1.0f);
        return 1.0f / sqrtf(fminf(fmaxf(snr, 1e-8f), 1000.0f)); /* finite at a zero terminal SNR */
    }
    return 1.0f;
}
