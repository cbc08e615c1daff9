#pragma once
#include "base/rng.h"
#include "engine/generate.h"
#include "io/jsonl.h"
#include "train/trainer.h"

/* The training step as one tape, and the optimiser as another. */
struct train_tape {
    struct graph *g;
    struct gpu_program *prog;
    int sample, timestep, target, seed, strength, loss;
    int context, added;                          /* -1 where the text encoders learn */
    int ids[MODEL_MAX_TEXTS], ends, sizes;       /* -1 where they do not; ends and sizes: SDXL */
    struct lora_binding bindings[LORA_N_PARTS];
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
/* Inputs of one batch beside latents and times; see condition.c. */
struct train_condition {
    float *context;                /* [b][tokens][width] */
    float *added;                  /* [b][added_dim] */
    float *sizes;                  /* [b][sinusoids of the time ids]: the tail of `added` */
    float *ids[MODEL_MAX_TEXTS];   /* [b][tokens] */
    float *ends;                   /* [b] rows of the end tokens */
    float *zeros;                  /* [pooled] */
    float *sample;                 /* [b][h][w][in_channels]: inpainting */
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
    float *contexts;  /* [texts][tokens][width], unless the text encoders train */
    float *pooled;    /* [texts][model_pooled_dim], likewise */
    int32_t *ids[MODEL_MAX_TEXTS]; /* [texts][tokens] */
    float *time_ids;  /* [pictures][6]: SDXL's original size, crop and target size */
    float *extra;     /* [h][w][model_extra_channels]: everything masked; NULL: not an inpainting model */
    int *text_of;     /* picture -> text */
    int n_texts;
    uint32_t *order;  /* this epoch's pictures, repeats included */
    int order_at, epoch;
    int step;         /* optimiser steps done */
    float loss_scale;
    int overflows; /* steps left out in a row */
    float loss_mean;
    float *batch_x, *batch_target, *batch_t, *batch_seed, *noise, *latent;
    struct train_condition condition;
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
/* condition.c */
void train_condition_allocate(struct trainer *t);
void train_condition_build(struct trainer *t, struct graph *g, struct unet_inputs *in); /* all of in but sample and timestep */
void train_condition_place(struct trainer *t, int slot, uint32_t picture);
void train_condition_given(struct trainer *t, const struct train_given *given, size_t at);
void train_condition_write(struct trainer *t);
const float *train_condition_sample(struct trainer *t); /* batch_x, with the mask's channels where there are some */
/* checkpoint.c */
bool train_state_save(struct trainer *t, struct error *err);
bool train_state_load(struct trainer *t, struct error *err);
bool train_lora_save(struct trainer *t, const char *path, struct error *err);
/* sample.c */
bool train_samples_draw(struct trainer *t, struct error *err);
