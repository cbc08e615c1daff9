/* Dropping numbers of a change before it is merged, as peft.utils.merge_utils does, and the sums that follow. */
#ifndef ATELIER_LORA_MERGE_PRUNE_H
#define ATELIER_LORA_MERGE_PRUNE_H

#include "lora/merge.h"

/* Keeps the floor(density * n) largest in size, the first of equals; the others become 0. density >= 1: all. */
void lora_prune_magnitude(float *x, size_t n, double density);

/* Keeps each with probability density, divided by it: the expected change stays. One draw of torch's per number. */
void lora_prune_random(float *x, size_t n, double density, struct rng *rng);

/* dst = the weighted sum. */
void lora_merge_weighted_sum(const struct lora_merge_layer *l, float *dst);

#endif
