#pragma once
/* The layers an adapter can attach to, recorded by building the model with a hook that only watches: no
 * second list of names to keep in step with the builders. */
#include "nn/layers.h"

struct nn_target {
    const char *path;    /* "down_blocks.0.attentions.0.proj_in" */
    struct shape weight; /* {k*k,1,out,in} */
    bool is_conv;        /* files keep 4 dimensions for it, also for 1x1 */
    struct conv_params conv;
};
struct nn_target_list {
    struct arena *arena; /* set by the caller; owns everything here */
    struct nn_target *items;
    int n, cap;
};
struct nn_hook nn_target_recorder(struct nn_target_list *list);
const struct nn_target *nn_target_find(const struct nn_target_list *list,
                                       const char *path); /* NULL if absent */
