/* Writing adapters as kohya does: the spelling that every other program reads. */
#ifndef ATELIER_LORA_SAVE_H
#define ATELIER_LORA_SAVE_H

#include "io/safetensors.h"
#include "lora/key.h"

/* One layer's LoRA; rows as lora_kind.factors gives them: down {k*k,1,rank,in}, up {1,1,out,rank}. Or its weight's whole
 * change, rows {k*k,1,out,in}: diff, as LyCORIS writes its "full". */
struct lora_save_module {
    struct lora_place place;
    int rank;
    float alpha;
    const float *down, *up, *diff; /* diff NULL: factors */
};

struct lora_save_meta {
    const char *key, *value;
};

struct lora_save_params {
    const struct lora_save_module *modules;
    int n_modules;
    enum st_dtype dtype;               /* ST_F32, ST_F16 or ST_BF16, for all tensors */
    const struct lora_save_meta *meta; /* in the order given; kohya's ss_* and modelspec.* */
    int n_meta;
};

/* Three tensors per module (.alpha, .lora_down.weight, .lora_up.weight; or .diff) and the metadata with ss_network_module,
 * ss_network_dim, ss_network_alpha and the sshs_ hashes added where missing. Appears by rename. The same input gives
 * the same bytes. */
bool lora_save(const char *path, const struct lora_keys *keys, const struct lora_save_params *p, struct error *e);

/* The tensors alone, for writers with metadata of their own. */
void lora_save_tensors(struct st_writer *w, const struct lora_keys *keys, const struct lora_save_params *p);

/* The metadata alone, after the tensors: rank 0 means that modules differ. */
bool lora_save_metadata(struct st_writer *w, const struct lora_save_meta *meta, int n, int rank, float alpha, struct error *e);

#endif
