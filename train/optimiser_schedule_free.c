/* Trains at y; z is state 0; the average x that is saved and drawn lies between them. */
#include <math.h>

#include "train/optimiser_priv.h"

enum { NUMBER_WEIGHTS = NUMBER_OWN, NUMBER_MOST };

static void build(struct optimiser *o) { optimiser_build_flat(o, OP_SCHEDULE_FREE, true); }

/* Steps weigh by the square of the largest rate so far, so that a warm-up counts little. */
static bool prepare(struct optimiser *o, float lr, struct error *err) {
    float *h = o->hyper_values;
    double *most = &o->numbers[NUMBER_MOST], *sum = &o->numbers[NUMBER_WEIGHTS];
    *most = fmax(*most, (double)lr);
    double weight = *most * *most;
    *sum += weight;
    h[5] = o->params.eps;
    h[6] = (float)(1 / (1 - pow(o->params.beta2, o->numbers[NUMBER_STEP])));
    h[7] = *sum > 0 ? (float)(weight / *sum) : 0;
    return true;
}

const struct optimiser_kind optimiser_kind_schedule_free = {
    .traits = {"schedule-free", "schedule-free AdamW", 1e-3f, false, true}, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8f,
    .n_states = 2, .start_as_data = 1, .build = build, .prepare = prepare, .judged = true};
