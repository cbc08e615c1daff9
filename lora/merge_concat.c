/* The weighted sum with the files' own factors: down stacked, up side by side with weight and scale in it; rank and
 * alpha are the sum of the ranks (PEFT's "cat"). */
#include "lora/merge.h"

const struct lora_merger lora_merger_concat = {
    .name = "concat", .about = "the weighted sum, exact, with the files' own factors side by side", .joins = true};
