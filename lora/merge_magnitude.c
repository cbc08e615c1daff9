/* Each adapter's largest numbers, then the weighted sum (peft's magnitude_prune). */
#include "lora/merge_prune.h"

static void combine(const struct lora_merge_layer *l, float *dst) {
    for (int k = 0; k < l->n; k++) lora_prune_magnitude(l->deltas[k], l->n_numbers, l->density);
    lora_merge_weighted_sum(l, dst);
}

const struct lora_merger lora_merger_magnitude = {.name = "magnitude",
                                                  .about = "the largest numbers, then the weighted sum",
                                                  .takes_rank = true,
                                                  .takes_density = true,
                                                  .combine = combine};
