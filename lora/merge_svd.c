/* The weighted sum cut to a rank (kohya's svd_merge_lora.py without its clamp, PEFT's "svd"). */
#include "lora/merge.h"

const struct lora_merger lora_merger_svd = {
    .name = "svd", .about = "the nearest to the weighted sum that --rank can hold", .takes_rank = true};
