#include "train/optimiser_priv.h"

static void build(struct optimiser *o) { optimiser_build_flat(o, OP_LION, true); }

const struct optimiser_kind optimiser_kind_lion = {.traits = {"lion", "Lion", 1e-4f, false, false}, .beta1 = 0.9, .beta2 = 0.99,
                                                   .n_states = 1, .build = build};
