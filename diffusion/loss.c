#include "diffusion/loss.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static const char *const kinds[] = {"l2", "l1", "huber", "smooth-l1", "pseudo-huber"};
static const char *const schedules[] = {"snr", "exponential", "constant"};

static int find(const char *name, const char *const *names, int n) {
    int i = 0;
    while (i < n && strcmp(name, names[i])) i++;
    return i;
}

bool loss_kind_parse(const char *name, enum loss_kind *out, struct error *e) {
    int i = find(name, kinds, LOSS_KINDS);
    if (i == LOSS_KINDS)
        return error_set(e, "There is no loss \"%.40s\"; it can be l2, l1, huber, smooth-l1 or pseudo-huber.", name);
    *out = (enum loss_kind)i;
    return true;
}

bool loss_c_schedule_parse(const char *name, enum loss_c_schedule *out, struct error *e) {
    int i = find(name, schedules, 3);
    if (i == 3) return error_set(e, "There is no --huber-schedule \"%.40s\"; it can be snr, exponential or constant.", name);
    *out = (enum loss_c_schedule)i;
    return true;
}

const char *loss_kind_name(enum loss_kind kind) { return kinds[kind]; }
const char *loss_c_schedule_name(enum loss_c_schedule s) { return schedules[s]; }

bool loss_params_check(const struct loss_params *p, struct error *e) {
    if (!loss_has_c(p->kind) && (p->c != 0 || p->c_schedule != LOSS_C_SNR))
        return error_set(e, "--huber-c and --huber-schedule belong to --loss huber, smooth-l1 or pseudo-huber.");
    if (!(p->c >= 0 && p->c <= 1000)) return error_set(e, "--huber-c must lie from 0 to 1000; 0.1 is usual.");
    return true;
}

static double c_at(const struct loss_params *p, const struct schedule *s, int t) {
    double c = p->c > 0 ? (double)p->c : 0.1, sigma = (double)s->sigma[t];
    switch (p->c_schedule) {
    case LOSS_C_SNR: return (1 - c) / ((1 + sigma) * (1 + sigma)) + c;
    case LOSS_C_EXPONENTIAL: return exp(log(c) * t / s->n_train);
    case LOSS_C_CONSTANT: return c;
    }
    return c;
}

struct loss_terms loss_terms_at(const struct loss_params *p, const struct schedule *s, int t) {
    assert(p->kind != LOSS_L2 && t >= 0 && t < s->n_train);
    if (p->kind == LOSS_L1) return (struct loss_terms){0, 1};
    float c = (float)c_at(p, s, t);
    return (struct loss_terms){c, p->kind == LOSS_HUBER ? 2 * c : p->kind == LOSS_SMOOTH_L1 ? 2 : 1};
}
