/* DARE: numbers dropped by chance, the others made larger by as much, then the weighted sum (peft's dare_linear). (Yu and
 * others, Language Models are Super Mario, 2024) */
#include "lora/merge_prune.h"

static void combine(const struct lora_merge_layer *l, float *dst) {
    for (int k = 0; k < l->n; k++) lora_prune_random(l->deltas[k], l->n_numbers, l->density, l->rng);
    lora_merge_weighted_sum(l, dst);
}

const struct lora_merger lora_merger_dare = {.name = "dare",
                                             .about = "numbers dropped by chance, then the weighted sum",
                                             .takes_rank = true,
                                             .takes_density = true,
                                             .takes_seed = true,
                                             .combine = combine};
