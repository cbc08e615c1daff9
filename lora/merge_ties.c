/* TIES: each adapter keeps its largest numbers; the sign of their sum is elected number by number; those of that sign are
 * weighted and averaged. The election is before the weights, and the average over those that agree, as in peft. (Yadav
 * and others, TIES-Merging: Resolving Interference When Merging Models, 2023) */
#include "lora/merge_prune.h"

static void combine(const struct lora_merge_layer *l, float *dst) {
    for (int k = 0; k < l->n; k++) lora_prune_magnitude(l->deltas[k], l->n_numbers, l->density);
    for (size_t i = 0; i < l->n_numbers; i++) {
        double vote = 0, sum = 0;
        int agree = 0;
        for (int k = 0; k < l->n; k++) vote += l->deltas[k][i];
        for (int k = 0; k < l->n; k++) {
            float x = l->deltas[k][i];
            if (vote >= 0 ? x > 0 : x < 0) sum += (double)l->weights[k] * x, agree++;
        }
        dst[i] = (float)(agree ? sum / agree : 0);
    }
}

const struct lora_merger lora_merger_ties = {.name = "ties",
                                             .about = "the largest numbers, averaged where their signs agree",
                                             .takes_rank = true,
                                             .takes_density = true,
                                             .needs_shared = true,
                                             .combine = combine};
