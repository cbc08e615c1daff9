/* Optimisers over one set of trainable tensors on the device: a table of kinds (optimisers.def), one file each. One
 * thread. Formulas and papers: graph/op_optimise.c; they agree with the published packages. */
#ifndef ATELIER_TRAIN_OPTIMISER_H
#define ATELIER_TRAIN_OPTIMISER_H

#include "engine/engine.h"

struct optimiser_kind;

/* {0}: AdamW with its usual numbers. 0 means the kind's own default unless said otherwise. */
struct optimiser_params {
    const char *name; /* as in optimisers.def; NULL: adamw */
    double beta1, beta2;
    float eps;
    float weight_decay;  /* decoupled; 0: none */
    float max_grad_norm; /* 0: no clipping */
    float d_coef;        /* prodigy: factor on its estimate of the rate */
    float growth;        /* prodigy: how much the estimate may grow in a step */
    bool bias_correction, safeguard;    /* prodigy */
    bool relative_step, scale_by_param; /* adafactor: its own rate from the step; rates times the size of the weights */
};

/* What callers need to know of a kind. */
struct optimiser_traits {
    const char *name, *title;
    float lr;               /* a rate to begin with */
    bool one_rate;          /* all parameters must share a rate */
    bool constant_schedule; /* replaces schedule and average */
};
/* NULL for an unknown name; NULL as name means adamw. */
const struct optimiser_traits *optimiser_find(const char *name);
/* False with a sentence for numbers out of range or settings of another kind. */
bool optimiser_params_check(const struct optimiser_params *p, struct error *err);

/* A slot's rate and what of it is no padding: of every `period` rows the first `rows`, and the first `channels`. */
struct optimiser_slot {
    float rate; /* factor on the learning rate */
    int period, rows, channels;
};
struct optimiser_setup {
    struct tensor_set *set;
    enum set_bank grad_bank;            /* where its gradients lie */
    const struct optimiser_slot *slots; /* one per slot of the set; copied */
    float loss_scale;                   /* the gradients carry it; not 0 */
};

struct optimiser;
/* Builds the tapes; touches no device. NULL on error. */
struct optimiser *optimiser_create(struct arena *parent, const struct optimiser_params *p, const struct optimiser_setup *s,
                                   struct error *err);
int64_t optimiser_state_bytes(const struct optimiser *o);
/* Allocates states and programs. data and grad are bound to the set's banks and must outlive the optimiser. */
bool optimiser_open(struct optimiser *o, struct engine *e, struct gpu_set *data, struct gpu_set *grad, struct error *err);
void optimiser_destroy(struct optimiser **o);

/* One step. norm: of the gradients before clipping. Gradients that are not finite leave everything as it was:
 * *applied is then false. */
bool optimiser_step(struct optimiser *o, float lr, float *norm, bool *applied, struct error *err);
/* What the last step multiplied the direction by: lr, for Prodigy times its estimate. */
float optimiser_rate(const struct optimiser *o, float lr);

/* The weights to use where they are not those that train (schedule-free): a chunk's bytes of the data bank are
 * replaced by them. False where the kind has none, without an error. */
bool optimiser_judged(struct optimiser *o, int chunk, float *data, bool *has, struct error *err);

/* State, for checkpoints: banks chunk by chunk, and a few numbers. */
struct optimiser_bank {
    const char *name;
    struct gpu_set *set;
    int n_chunks;
};
enum { OPTIMISER_MAX_BANKS = 5, OPTIMISER_NUMBERS = 8 };
int optimiser_banks(const struct optimiser *o, struct optimiser_bank out[OPTIMISER_MAX_BANKS]);
double *optimiser_numbers(struct optimiser *o); /* OPTIMISER_NUMBERS of them */

#endif
