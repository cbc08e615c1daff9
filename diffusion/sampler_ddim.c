/* DDIM: whole times, no sigma list; eta > 0 adds fresh noise. */
#include "diffusion/sampler_priv.h"

#include <math.h>

static bool check(const struct sampler *s, struct error *e) {
    int first = (int)s->steps->t[0];
    if (s->schedule->params.prediction != SCHEDULE_PREDICT_EPSILON || s->schedule->alpha_bar[first] > 0) return true;
    return error_set(e, "the schedule starts from pure noise (zero terminal SNR), where a model that predicts "
                        "epsilon says nothing; use the schedule leading, or a model with v_prediction");
}

/* x0 and epsilon from the model output; out may be either. */
static void split(const struct sampler *s, float alpha, float beta, const float *out, size_t i, float *x0,
                  float *epsilon) {
    float root_a = sqrtf(alpha), root_b = sqrtf(beta), x = s->x[i];
    switch (s->schedule->params.prediction) {
    case SCHEDULE_PREDICT_EPSILON:
        *x0 = (x - root_b * out[i]) / root_a;
        *epsilon = out[i];
        return;
    case SCHEDULE_PREDICT_V:
        *x0 = root_a * x - root_b * out[i];
        *epsilon = root_a * out[i] + root_b * x;
        return;
    case SCHEDULE_PREDICT_SAMPLE: break;
    }
    *x0 = out[i];
    *epsilon = (x - root_a * out[i]) / root_b;
}

static void feed(struct sampler *s, const float *out) {
    const struct schedule *schedule = s->schedule;
    int t = (int)s->steps->t[s->step], before = t - schedule->n_train / s->steps->n;
    float end = schedule->params.final_alpha_first ? schedule->alpha_bar[0] : 1.0f;
    float alpha = schedule->alpha_bar[t], beta = 1.0f - alpha;
    float alpha_to = before >= 0 ? schedule->alpha_bar[before] : end, beta_to = 1.0f - alpha_to;
    float variance = (beta_to / beta) * (1.0f - alpha / alpha_to);
    float eta = s->params.eta, fresh = eta > 0 ? eta * sqrtf(variance) : 0;
    float along = sqrtf(1.0f - alpha_to - fresh * fresh), root_to = sqrtf(alpha_to);
    float clip = schedule->params.clip_range;
    for (size_t i = 0; i < s->n; i++) {
        float x0, epsilon;
        split(s, alpha, beta, out, i, &x0, &epsilon);
        if (clip > 0) x0 = fminf(fmaxf(x0, -clip), clip);
        s->x0[i] = x0;
        s->x[i] = root_to * x0 + along * epsilon;
    }
    if (eta > 0) {
        const float *noise = sampler_noise(s);
        for (size_t i = 0; i < s->n; i++) s->x[i] = s->x[i] + fresh * noise[i];
    }
    sampler_step_done(s);
}

const struct sampler_kind sampler_ddim = {
    .name = "ddim", .title = "DDIM", .family = SCHEDULE_FAMILY_DDIM, .feed = feed, .check = check};
