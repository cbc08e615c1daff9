/* The difference of two models as a LoRA: every layer's change of weight, cut to its largest singular values (kohya's
 * extract_lora_from_models.py). Linear layers and convolutions; layer by layer, from mapped files. */
#ifndef ATELIER_LORA_EXTRACT_H
#define ATELIER_LORA_EXTRACT_H

#include "io/safetensors.h"
#include "lora/key.h"
#include "lora/svd.h"
#include "nn/params.h"

struct lora_extract_params {
    const struct nn_params *base[LORA_N_PARTS], *tuned[LORA_N_PARTS]; /* bound; NULL for parts that the models lack */
    struct lora_rank_rule rule;
    double min_diff; /* a text encoder none of whose weights changes by so much stays out; 0: none does */
    double clamp;    /* numbers of both factors are cut at this quantile of their sizes; 1: not at all */
    enum st_dtype dtype; /* of the file: f32, f16 or bf16 */
    const char *comment; /* how it was made, for the metadata */
    void (*progress)(void *ctx, double share, const char *layer); /* before every layer; NULL: none */
    void *ctx;
};
struct lora_extract_result {
    int n_layers, rank_min, rank_max;
    int n_same;        /* layers without a change, which are left out */
    bool skipped[LORA_N_PARTS]; /* text encoders under min_diff */
    double kept_fro;   /* share of the change's norm, over all layers together; 0..1 */
    double error;      /* norm of what is missing after clamping, as a share of the change's */
    int n_other;       /* changed biases and norms, which a LoRA of this kind cannot hold */
    double other_diff; /* the largest such change */
};

/* One layer: d[taps][out][in], rows as the set has them -> up[out][rank], down[taps][rank][in], from a. False, with a clause,
 * where numbers are not finite. */
bool lora_extract_layer(const float *d, struct shape weight, const struct lora_rank_rule *rule, double clamp, struct arena *a,
                        int *rank, float **up, float **down, double *kept_fro, struct error *e);

/* keys: of the base. Both models must have the same layers; alpha is the rank. Appears by rename. False with a sentence, also
 * where nothing differs and after os_interrupted. */
bool lora_extract(const struct lora_keys *keys, const struct lora_extract_params *p, const char *out,
                  struct lora_extract_result *r, struct error *e);

#endif
