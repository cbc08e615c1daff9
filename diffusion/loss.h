/* How training compares the model's answer with its target, element by element: squared error, absolute error, or one of three
 * pseudo-Huber losses that are squared where the error is small against c and absolute where it is large. Formulas as in
 * kohya's train_util; Huber losses for diffusion after Khrapov et al. 2024, arXiv 2403.16728. Host arithmetic. */
#ifndef ATELIER_DIFFUSION_LOSS_H
#define ATELIER_DIFFUSION_LOSS_H

#include "diffusion/schedule.h"

enum loss_kind {
    LOSS_L2,        /* d^2 */
    LOSS_L1,        /* |d| */
    LOSS_HUBER,     /* 2c (sqrt(d^2 + c^2) - c) */
    LOSS_SMOOTH_L1, /* 2 (sqrt(d^2 + c^2) - c) */
    LOSS_PSEUDO_HUBER, /* sqrt(d^2 + c^2) - c: consistency distillation's */
    LOSS_KINDS
};
/* How c depends on the time t of T, sigma_t the schedule's. */
enum loss_c_schedule {
    LOSS_C_SNR,         /* (1 - c) / (1 + sigma_t)^2 + c */
    LOSS_C_EXPONENTIAL, /* exp(ln(c) t / T) */
    LOSS_C_CONSTANT,
};
/* {0}: squared error. */
struct loss_params {
    enum loss_kind kind;
    enum loss_c_schedule c_schedule;
    float c; /* 0: 0.1 */
};

/* Names "l2", "l1", "huber", "smooth-l1", "pseudo-huber"; "snr", "exponential", "constant". */
bool loss_kind_parse(const char *name, enum loss_kind *out, struct error *e);
bool loss_c_schedule_parse(const char *name, enum loss_c_schedule *out, struct error *e);
const char *loss_kind_name(enum loss_kind kind);
const char *loss_c_schedule_name(enum loss_c_schedule s);
static inline bool loss_has_c(enum loss_kind kind) { return kind != LOSS_L2 && kind != LOSS_L1; }
bool loss_params_check(const struct loss_params *p, struct error *e);

/* Every kind but l2 is factor * (sqrt(d^2 + c^2) - c). */
struct loss_terms {
    float c, factor;
};
struct loss_terms loss_terms_at(const struct loss_params *p, const struct schedule *s, int t);

#endif
