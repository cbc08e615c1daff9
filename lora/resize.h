/* A LoRA file at another rank: every module's product cut by its singular values (kohya's resize_lora.py). Scale stays:
 * alpha becomes old alpha / old rank * new rank. */
#ifndef ATELIER_LORA_RESIZE_H
#define ATELIER_LORA_RESIZE_H

#include "lora/file.h"
#include "lora/svd.h"

struct lora_resize_params {
    struct lora_rank_rule rule;
    enum st_dtype dtype; /* of the file: f32, f16 or bf16 */
    const char *comment; /* how it was made, for the metadata */
};
struct lora_resize_result {
    int n_layers, rank_min, rank_max;
    double kept_sum, kept_fro; /* mean shares over the layers, see lora_svd_kept */
};
/* f: opened with keys. Plain LoRA modules only; false with a sentence for others. Module by module; appears by rename. */
bool lora_resize(const struct lora_file *f, const struct lora_keys *keys, const struct lora_resize_params *p, const char *out,
                 struct lora_resize_result *r, struct error *e);

#endif
