/* Arithmetic that samplers share. */
#include "diffusion/sampler_priv.h"

#include <math.h>
#include <string.h>

void sampler_denoise(const struct sampler *s, const float *x, float sigma, const float *out, float *x0) {
    float square = sigma * sigma + 1.0f, c_out = -sigma / sqrtf(square);
    switch (s->schedule->params.prediction) {
    case SCHEDULE_PREDICT_EPSILON:
        for (size_t i = 0; i < s->n; i++) x0[i] = x[i] - sigma * out[i];
        return;
    case SCHEDULE_PREDICT_V:
        for (size_t i = 0; i < s->n; i++) x0[i] = out[i] * c_out + x[i] / square;
        return;
    case SCHEDULE_PREDICT_SAMPLE: memcpy(x0, out, s->n * sizeof *x0); return;
    }
}

void sampler_split(const struct sampler *s, float alpha, float x, float out, float *x0, float *epsilon) {
    float root_a = sqrtf(alpha), root_b = sqrtf(1.0f - alpha), clip = s->schedule->params.clip_range;
    switch (s->schedule->params.prediction) {
    case SCHEDULE_PREDICT_EPSILON:
        *x0 = (x - root_b * out) / root_a;
        *epsilon = out;
        break;
    case SCHEDULE_PREDICT_V:
        *x0 = root_a * x - root_b * out;
        *epsilon = root_a * out + root_b * x;
        break;
    case SCHEDULE_PREDICT_SAMPLE:
        *x0 = out;
        *epsilon = (x - root_a * out) / root_b;
        break;
    }
    if (clip > 0) *x0 = fminf(fmaxf(*x0, -clip), clip);
}

struct sampler_level sampler_level(float sigma) {
    float alpha = 1.0f / sqrtf(sigma * sigma + 1.0f), s = sigma * alpha;
    return (struct sampler_level){alpha, s, logf(alpha) - logf(s)};
}

void sampler_denoise_level(const struct sampler *s, struct sampler_level at, const float *out, float *x0) {
    switch (s->schedule->params.prediction) {
    case SCHEDULE_PREDICT_EPSILON:
        for (size_t i = 0; i < s->n; i++) x0[i] = (s->x[i] - at.s * out[i]) / at.alpha;
        return;
    case SCHEDULE_PREDICT_V:
        for (size_t i = 0; i < s->n; i++) x0[i] = at.alpha * s->x[i] - at.s * out[i];
        return;
    case SCHEDULE_PREDICT_SAMPLE: memcpy(x0, out, s->n * sizeof *x0); return;
    }
}

struct sampler_ancestral sampler_ancestral(float from, float to, float eta) {
    float from2 = from * from, to2 = to * to;
    float up = fminf(to, eta * sqrtf(to2 * (from2 - to2) / from2));
    return (struct sampler_ancestral){sqrtf(fmaxf(to2 - up * up, 0)), up}; /* rounding may leave less than 0 */
}

bool sampler_check_start(const struct sampler *s, struct error *e) {
    int first = (int)s->steps->t[0];
    if (s->schedule->params.prediction != SCHEDULE_PREDICT_EPSILON || s->schedule->alpha_bar[first] > 0) return true;
    return error_set(e, "the schedule starts from pure noise (zero terminal SNR), where a model that predicts "
                        "epsilon says nothing; use the schedule leading, or a model with v_prediction");
}
