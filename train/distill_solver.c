/* The arithmetic of consistency distillation, on plain arrays. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "train/distill.h"

static const char *const names[] = {"none", "lcm", "cfg"};

bool distill_method_parse(const char *name, enum distill_method *out, struct error *e) {
    for (int i = DISTILL_LCM; i <= DISTILL_CFG; i++)
        if (!strcmp(name, names[i])) return *out = (enum distill_method)i, true;
    return error_set(e, "There is no --method \"%.40s\"; it can be lcm or cfg.", name);
}

const char *distill_method_name(enum distill_method m) { return names[m]; }

bool distill_params_check(const struct distill_params *p, const struct schedule *s, struct error *e) {
    if (!(p->guidance_min >= 1 && p->guidance_max >= p->guidance_min && p->guidance_max <= 100))
        return error_set(e, "Guidance is drawn between --guidance-min %g and --guidance-max %g: they must lie from "
                            "1 to 100, the first not above the second.", (double)p->guidance_min, (double)p->guidance_max);
    if (p->method == DISTILL_CFG && p->guidance_max == 1)
        return error_set(e, "With guidance 1 there is nothing to learn: raise --guidance-max.");
    if (p->method == DISTILL_LCM && (p->skip < 1 || p->skip > s->n_train / 2))
        return error_set(e, "--skip %d must lie from 1 to half of the model's %d times; 20 is usual.", p->skip, s->n_train);
    if (p->method == DISTILL_LCM && s->params.prediction == SCHEDULE_PREDICT_EPSILON && !(s->alpha_bar[s->n_train - 1] > 0))
        return error_set(e, "This model's last time is pure noise and it predicts noise there: consistency distillation "
                            "needs --prediction v.");
    return true;
}

int distill_grid_size(const struct distill_params *p, const struct schedule *s) { return s->n_train / p->skip; }

struct distill_boundary distill_boundary_at(int t) {
    double scaled = 10.0 * t, data = 0.5, sum = scaled * scaled + data * data;
    return (struct distill_boundary){data * data / sum, scaled / sqrt(sum)};
}

void distill_guide(float *dst, const float *with, const float *without, float guidance, size_t n) {
    for (size_t i = 0; i < n; i++) dst[i] = without[i] + guidance * (with[i] - without[i]);
}

/* At a time, x0 = x_of_x x + x_of_a answer and noise = e_of_x x + e_of_a answer. */
struct parts {
    double x_of_x, x_of_a, e_of_x, e_of_a;
};

static struct parts parts_at(const struct schedule *s, int t) {
    assert(t >= 0 && t < s->n_train);
    double a = sqrt((double)s->alpha_bar[t]), b = sqrt(1 - (double)s->alpha_bar[t]);
    switch (s->params.prediction) {
    case SCHEDULE_PREDICT_EPSILON: return (struct parts){1 / a, -b / a, 0, 1};
    case SCHEDULE_PREDICT_V: return (struct parts){a, -b, b, a};
    case SCHEDULE_PREDICT_SAMPLE: return (struct parts){0, 1, 1 / b, -a / b};
    }
    return (struct parts){0, 1, 0, 0};
}

void distill_solve(const struct schedule *s, int t, int to, float *dst, const float *x, const float *answer, size_t n) {
    struct parts p = parts_at(s, t);
    double a = sqrt((double)s->alpha_bar[to]), b = sqrt(1 - (double)s->alpha_bar[to]);
    double of_x = a * p.x_of_x + b * p.e_of_x, of_a = a * p.x_of_a + b * p.e_of_a;
    for (size_t i = 0; i < n; i++) dst[i] = (float)(of_x * (double)x[i] + of_a * (double)answer[i]);
}

void distill_consistent(const struct schedule *s, int t, float *dst, const float *x, const float *answer, size_t n) {
    struct parts p = parts_at(s, t);
    struct distill_boundary c = distill_boundary_at(t);
    double of_x = c.c_skip + c.c_out * p.x_of_x, of_a = c.c_out * p.x_of_a;
    for (size_t i = 0; i < n; i++) dst[i] = (float)(of_x * (double)x[i] + of_a * (double)answer[i]);
}

double distill_answer_for(const struct schedule *s, int t, float *dst, const float *x, const float *target, size_t n) {
    struct parts p = parts_at(s, t);
    struct distill_boundary c = distill_boundary_at(t);
    double of_x = c.c_skip + c.c_out * p.x_of_x, of_a = c.c_out * p.x_of_a;
    assert(of_a != 0);
    for (size_t i = 0; i < n; i++) dst[i] = (float)(((double)target[i] - of_x * (double)x[i]) / of_a);
    return fabs(of_a);
}
