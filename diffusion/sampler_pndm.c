/* PNDM without its Runge-Kutta start, also called PLMS (Liu et al., arXiv 2202.09778): linear multistep on epsilon
 * up to fourth order. The second time is visited twice, so n steps take n + 1 model calls. */
#include "diffusion/sampler_priv.h"

#include <math.h>
#include <string.h>

static bool check(const struct sampler *s, struct error *e) {
    if (s->schedule->params.prediction == SCHEDULE_PREDICT_SAMPLE)
        return error_set(e, "the pndm sampler knows models that predict epsilon or v, and this one predicts the picture; "
                            "use ddim");
    return sampler_check_start(s, e);
}

/* The paper's transfer from time t to `before` along e; below 0 lies the end of the schedule. */
static void transfer(struct sampler *s, const float *from, const float *e, int t, int before) {
    const struct schedule *schedule = s->schedule;
    float end = schedule->params.final_alpha_first ? schedule->alpha_bar[0] : 1.0f;
    float a = schedule->alpha_bar[t], a_to = before >= 0 ? schedule->alpha_bar[before] : end;
    float b = 1.0f - a, b_to = 1.0f - a_to, keep = sqrtf(a_to / a);
    float below = a * sqrtf(b_to) + sqrtf(a * b * a_to), root_a = sqrtf(a), root_b = sqrtf(b);
    bool v = schedule->params.prediction == SCHEDULE_PREDICT_V;
    for (size_t i = 0; i < s->n; i++) {
        float epsilon = v ? root_a * e[i] + root_b * from[i] : e[i];
        s->x0[i] = (from[i] - root_b * epsilon) / root_a;
        s->x[i] = keep * from[i] - (a_to - a) * epsilon / below;
    }
}

/* past: outputs, newest first; past[4] and past[5] are scratch: the first x, the combined output. */
static void feed(struct sampler *s, const float *out) {
    int count = s->step - s->first, h = s->schedule->n_train / s->params.n_steps;
    int t = (int)s->steps->t[s->step], before = t - h;
    float **e = s->past, *start = s->past[SAMPLER_MAX_HISTORY - 2], *mix = s->past[SAMPLER_MAX_HISTORY - 1];
    const float *from = s->x;
    if (count == 1) { /* the second look at the first step is averaged and not kept */
        before = t;
        t = (int)fmin(t + h, s->schedule->n_train - 1);
        for (size_t i = 0; i < s->n; i++) mix[i] = (out[i] + e[0][i]) / 2;
        from = start;
    } else {
        float *oldest = e[3];
        memmove(e + 1, e, 3 * sizeof *e);
        e[0] = memcpy(oldest, out, s->n * sizeof *out);
        int order = count == 0 ? 1 : count > 4 ? 4 : count;
        for (size_t i = 0; i < s->n; i++) {
            if (order == 1) mix[i] = out[i];
            else if (order == 2) mix[i] = (3 * e[0][i] - e[1][i]) / 2;
            else if (order == 3) mix[i] = (23 * e[0][i] - 16 * e[1][i] + 5 * e[2][i]) / 12;
            else mix[i] = (float)(1 / 24.0) * (55 * e[0][i] - 59 * e[1][i] + 37 * e[2][i] - 9 * e[3][i]);
        }
        if (count == 0) memcpy(start, s->x, s->n * sizeof *start);
    }
    transfer(s, from, mix, t, before);
    sampler_step_done(s);
}

const struct sampler_kind sampler_pndm = {.name = "pndm",
                                          .title = "PNDM (PLMS)",
                                          .family = SCHEDULE_FAMILY_PNDM,
                                          .n_history = SAMPLER_MAX_HISTORY,
                                          .feed = feed,
                                          .check = check};
