/* Several adapters made into one LoRA file. Layer by layer: memory is a few times the largest layer's change, and the
 * file that comes out.
 *
 * Every method works on the changes dW of a layer, not on factors: adding factors is not adding changes. One file and
 * one row in mergers.def per method. Adapters that lack a layer take no part in it, as in PEFT. */
#ifndef ATELIER_LORA_MERGE_H
#define ATELIER_LORA_MERGE_H

#include "base/rng.h"
#include "lora/file.h"
#include "nn/params.h"

/* What a method is given of one layer: n changes with strength 1, as PEFT flattens them, [out][in*k*k]. */
struct lora_merge_layer {
    int n;
    float **deltas; /* may be written to */
    const float *weights;
    size_t n_numbers;
    double density;
    struct rng *rng;
};

struct lora_merger {
    const char *name;
    const char *about;
    bool joins;       /* factors side by side, as they are; nothing but low-rank kinds */
    bool takes_rank;  /* the result is cut to a rank; otherwise it is exact */
    bool whole;       /* with takes_rank: exact, too, unless a rank is asked for */
    bool takes_density, takes_seed;
    bool needs_shared; /* makes no sense for files without a common layer */
    /* dst[n_numbers]. NULL: the weighted sum, which need not become dense where all factors are thin. */
    void (*combine)(const struct lora_merge_layer *l, float *dst);
};
const struct lora_merger *lora_merger_find(const char *name); /* NULL: unknown */
const struct lora_merger *lora_merger_at(int i);              /* NULL past the last */

/* What methods that watch the model at work (train/merger.h) make of the layers: the change is the sum of
 * weight * dW_k * M_k, with a matrix M_k [in][in] per layer and file. */
struct lora_merge_maps {
    /* rows[n][in] become rows * M_k; all files of a layer one after the other. False with a sentence. */
    bool (*apply)(void *ctx, int file, const struct lora_module *m, float *rows, size_t n, struct error *e);
    void *ctx;
};

struct lora_merge_params {
    const struct lora_merger *method;
    struct lora_file *const *files; /* n, opened with keys */
    const float *weights;
    int n;
    const struct nn_params *base[LORA_N_PARTS]; /* bound; for kinds that start from the model's weight */
    int rank;       /* 0: the largest rank in the files */
    double density; /* share of the numbers kept, 0..1; 0: 0.5 */
    uint64_t seed;
    enum st_dtype dtype; /* of the file: f32, f16 or bf16 */
    const struct lora_merge_maps *maps; /* NULL: every M_k is the identity */
    const char *settings; /* more of what made the result, for the metadata; NULL: nothing */
    bool partial;   /* leave out what a LoRA cannot hold, changes of biases and norms */
};
struct lora_merge_result {
    int n_layers, n_shared; /* layers written; of those, in more than one file */
    int n_left_out;
    int rank_min, rank_max;
};
/* What can be said without arithmetic: false with the sentence that lora_merge would give. */
bool lora_merge_check(const struct lora_merge_params *p, const struct lora_keys *keys, struct error *e);
/* False with a sentence; the file appears by rename or not at all. The same input gives the same bytes. */
bool lora_merge(const struct lora_merge_params *p, const struct lora_keys *keys, const char *out, struct lora_merge_result *r,
                struct error *e);

#endif
