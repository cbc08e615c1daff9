#pragma once
#include "base/rng.h"
#include "engine/generate.h"
#include "io/jsonl.h"
#include "train/trainer.h"

/* The training step as one tape, and the optimiser as another. */
struct train_tape {
    struct graph *g;
    struct gpu_program *prog;
    int sample, timestep, target, seed, context, ids, strength, loss; /* context or ids is -1 */
    struct lora_binding unet_binding, text_binding;
    bool remat;
};
struct optimiser_tape {
    struct graph *g;
    struct gpu_program *prog;
    int hyper, norm;
    struct graph *sum_g; /* gradient accumulation; NULL without */
    struct gpu_program *sum_prog;
    int sum_hyper;
};
struct trainer {
    struct arena *arena;
    struct engine *e;
    struct train_params params;
    struct dataset data;
    struct schedule *schedule;
    struct rng rng;
    struct adapter *adapter;
    struct gpu_set *grad, *grad_sum, *moment1, *moment2;
    struct train_tape tape;
    struct optimiser_tape optimiser;
    struct train_plan plan;
    int lw, lh, channels, tokens, width;
    float *moments;   /* [pictures][h][w][2c]: VAE means and log variances */
    float *contexts;  /* [texts][tokens][width], unless the text encoder trains */
    int32_t *ids;     /* [texts][tokens] */
    int *text_of;     /* picture -> text */
    int n_texts;
    uint32_t *order;  /* this epoch's pictures, repeats included */
    int order_at, epoch;
    int step;         /* optimiser steps done */
    float loss_scale;
    int overflows; /* steps left out in a row */
    float loss_mean;
    float *batch_x, *batch_target, *batch_context, *batch_t, *batch_seed, *noise, *latent;
    struct generator *samples;
    struct jsonl *log;
};

/* cache.c */
bool train_cache_build(struct trainer *t, struct error *err);
/* tape.c */
bool train_adapter_create(struct trainer *t, struct error *err);
bool train_tapes_build(struct trainer *t, struct error *err);
bool train_tapes_open(struct trainer *t, struct error *err);
/* batch.c */
void train_epoch_shuffle(struct trainer *t);
void train_batch_draw(struct trainer *t, int accumulate);
/* checkpoint.c */
bool train_state_save(struct trainer *t, struct error *err);
bool train_state_load(struct trainer *t, struct error *err);
bool train_lora_save(struct trainer *t, const char *path, struct error *err);
/* sample.c */
bool train_samples_draw(struct trainer *t, struct error *err);
