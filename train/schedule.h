/* The learning rate's course over a run. Formulas and names as in transformers' and diffusers' get_scheduler, which
 * kohya's scripts use. Pure functions. */
#ifndef ATELIER_TRAIN_SCHEDULE_H
#define ATELIER_TRAIN_SCHEDULE_H

#include "base/error.h"

#include <stdbool.h>

enum train_schedule {
    TRAIN_CONSTANT, TRAIN_COSINE, TRAIN_LINEAR, TRAIN_COSINE_RESTARTS, TRAIN_POLYNOMIAL, TRAIN_INVERSE_SQRT, TRAIN_COSINE_MIN,
    TRAIN_STABLE_DECAY, TRAIN_SCHEDULES
};

/* 0: the schedule's own default. Settings of another schedule are refused. */
struct train_schedule_params {
    enum train_schedule kind;
    float warmup;    /* steps, or below 1 a part of the run; the rate rises linearly from 0 */
    int cycles;      /* cosine_with_restarts; 1 */
    float power;     /* polynomial; 1 */
    float end;       /* polynomial: the rate at the end, not a factor; 1e-7 */
    float least;     /* cosine_with_min_lr, warmup_stable_decay: smallest factor; 0 */
    float timescale; /* inverse_sqrt, steps; the warm-up, or 10000 without one */
    float decay;     /* warmup_stable_decay: length of the fall, steps or below 1 a part; a tenth of the run */
    bool early;      /* the warm-up begins at 1/warmup instead of 0 (schedule-free) */
};

bool train_schedule_parse(const char *text, enum train_schedule *out, struct error *err);
const char *train_schedule_name(enum train_schedule kind);
bool train_schedule_check(const struct train_schedule_params *p, struct error *err);
/* Steps of warm-up in a run of `total`. */
int train_schedule_warmup(const struct train_schedule_params *p, int total);
/* Factor on the learning rate lr at step k (from 0) of total. */
float train_schedule_factor(const struct train_schedule_params *p, int k, int total, float lr);

#endif
