/* The weighted sum itself, at the smallest rank that holds it. */
#include "lora/merge.h"

const struct lora_merger lora_merger_sum = {.name = "sum",
                                            .about = "the weighted sum, exact, at the smallest rank that holds it"};
