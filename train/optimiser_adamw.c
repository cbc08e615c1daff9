#include <math.h>

#include "train/optimiser_priv.h"

static void build(struct optimiser *o) { optimiser_build_flat(o, OP_ADAMW, true); }

static bool prepare(struct optimiser *o, float lr, struct error *err) {
    double k = o->numbers[NUMBER_STEP];
    float *h = o->hyper_values;
    h[5] = o->params.eps;
    h[6] = (float)(1 / (1 - pow(o->params.beta1, k))), h[7] = (float)(1 / (1 - pow(o->params.beta2, k)));
    return true;
}

const struct optimiser_kind optimiser_kind_adamw = {.traits = {"adamw", "AdamW", 1e-3f, false, false}, .beta1 = 0.9,
                                                    .beta2 = 0.999, .eps = 1e-8f, .n_states = 2, .build = build,
                                                    .prepare = prepare};
