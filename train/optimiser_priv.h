#pragma once
#include "train/optimiser.h"

enum { OPTIMISER_STATES = 4 };
/* optimiser_numbers: the steps done come first, the rest is the kind's. */
enum { NUMBER_STEP, NUMBER_OWN };

struct optimiser_kind {
    struct optimiser_traits traits;
    double beta1, beta2;
    float eps;
    int n_states;
    unsigned start_as_data; /* bit per state that begins as a copy of the parameters */
    bool (*check)(const struct optimiser_params *p, struct error *err); /* NULL: nothing more to check */
    /* Nodes of a step into o->g; before that, what must be known earlier into o->first_g. */
    void (*build)(struct optimiser *o);
    /* Fills o->hyper_values from 5 on (0 to 4, 10 and 11 are there and may change); may run
     * o->first_prog. NULL: nothing to fill. */
    bool (*prepare)(struct optimiser *o, float lr, struct error *err);
    float (*rate)(const struct optimiser *o, float lr); /* NULL: lr */
    bool judged;                                        /* x = y + (1 - 1/beta1)(state 0 - y) */
};

struct optimiser {
    struct arena *arena;
    const struct optimiser_kind *kind;
    struct optimiser_params params; /* defaults filled in */
    struct tensor_set *set;
    enum set_bank grad_bank;
    struct optimiser_slot *slots;
    float loss_scale;
    double numbers[OPTIMISER_NUMBERS];
    struct graph *norm_g, *first_g, *g; /* first_g: NULL for most */
    struct gpu_program *norm_prog, *first_prog, *prog;
    int norm, first_hyper, hyper, rates[16], first_out;
    float hyper_values[OPTIMISE_HYPER];
    struct gpu_set *data, *grad, *states[OPTIMISER_STATES]; /* data and grad are the caller's */
    struct tensor_set *own;                                 /* state of another shape; NULL for most */
    struct gpu_set *own_data;
};

/* Bank of state i. */
static inline enum set_bank optimiser_bank_of(int i) { return (enum set_bank)(SET_MOMENT1 + i); }
/* One node per chunk: param, grad, states, hyper, rates. */
void optimiser_build_flat(struct optimiser *o, enum op op, bool has_rates);
