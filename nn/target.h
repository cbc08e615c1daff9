#pragma once
/* The layers an adapter can attach to, recorded by building the model with a hook that only watches: no
 * second list of names to keep in step with the builders. */
#include "nn/layers.h"

struct nn_target {
    const char *path;    /* "down_blocks.0.attentions.0.proj_in" */
    struct shape weight; /* {k*k,1,out,in}; a norm's {1,1,1,c} */
    bool is_conv;        /* files keep 4 dimensions for it, also for 1x1 */
    bool is_norm;
    struct conv_params conv;
};
/* Norms are kept apart: nothing that spreads factors over all layers wants them. */
struct nn_target_list {
    struct arena *arena; /* set by the caller; owns everything here */
    struct nn_target *items, *norms;
    int n, cap, n_norms, cap_norms;
};
struct nn_hook nn_target_recorder(struct nn_target_list *list);
/* A layer or norm; NULL if absent. */
const struct nn_target *nn_target_find(const struct nn_target_list *list, const char *path);
/* Its number: layers count from 0, norms go on after the last layer. */
int nn_target_index(const struct nn_target_list *list, const struct nn_target *t);
const struct nn_target *nn_target_at(const struct nn_target_list *list, int index);
