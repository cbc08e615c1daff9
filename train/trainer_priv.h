#pragma once
#include "base/rng.h"
#include "engine/generate.h"
#include "engine/memory.h"
#include "io/jsonl.h"
#include "io/tfevents.h"
#include "train/trainer.h"

/* The training step as one tape; gradient sums and moving averages as small ones. */
struct train_tape {
    struct graph *g;
    struct gpu_program *prog;
    int sample, timestep, target, seed, strength, loss;
    int context, added;                          /* -1 where the text encoders learn */
    int ids[MODEL_MAX_TEXTS], ends, sizes;       /* -1 where they do not; ends and sizes: SDXL */
    struct train_words_inputs words[MODEL_MAX_TEXTS];
    struct lora_binding bindings[LORA_N_PARTS];
    int dropout_key; /* -1 without dropout */
    int mask;        /* -1 without masks */
    int hyper;       /* c and factor per picture (OP_HUBER); -1: squared error */
    bool remat;
};
struct bank_tapes {
    struct graph *sum_g; /* gradient accumulation; NULL without */
    struct gpu_program *sum_prog;
    int sum_hyper;
    struct graph *ema_g; /* moving average; NULL without */
    struct gpu_program *ema_prog;
    int ema_hyper;
    struct graph *norm_g; /* largest weight norm; NULL without */
    struct gpu_program *norm_prog;
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
/* A size of training pictures with its tape, made when it is first needed. */
struct train_bucket {
    struct bucket_size size; /* pixels */
    int lw, lh;              /* latent pixels */
    int n_pictures;          /* without repeats */
    struct train_tape tape;
};
/* The teacher of a distilled LoRA and its buffers. */
struct train_distill {
    struct denoiser *teacher; /* NULL: nothing is distilled */
    int64_t prepared_bytes;   /* taken where there is room */
    float *with, *without;    /* [b][h][w][c]: answers told the caption, and not; then the target's, and its place */
    float *guidance, *t_to, *zeros, *ones; /* [b] */
    float *empty;             /* [b][tokens][width] */
    float *empty_pooled;      /* [pooled] */
    float *added;             /* [b][added_dim] */
};
/* Where a picture goes and how it is cut. */
struct train_place {
    int bucket;
    struct bucket_choice cut;
    size_t latent; /* latent pixels of all pictures before it, every version counted */
};
/* What batches are drawn from: the pictures to learn, and those of their class that keep the model what it is. */
enum { TRAIN_OWN, TRAIN_CLASS, TRAIN_FEEDS };
struct train_feed {
    struct dataset data; /* a part of the trainer's, from `first` on */
    size_t first;
    float weight;                 /* of its pictures in the loss */
    uint32_t *order;              /* this epoch's pictures, repeats included */
    struct bucket_batch *batches; /* this epoch's; NULL without --buckets */
    int n_batches;
    int order_at, epoch;
};
struct trainer {
    struct arena *arena;
    struct engine *e;
    struct train_params params;
    struct dataset data; /* of all feeds, one behind the other */
    struct schedule *schedule;
    struct rng rng;
    struct rng dice; /* for choices that options add: those leave noise and times as they are without */
    struct adapter *adapter;
    struct gpu_set *grad, *grad_sum, *ema;
    struct train_bucket *buckets;
    int n_buckets, bucket, largest; /* the one in use; the one with most pixels, whose memory the others share */
    struct train_place *places;     /* per picture */
    struct train_feed feeds[TRAIN_FEEDS], *feed; /* feed: the one that the batch in work is from */
    struct dataset class_drawn;     /* pictures of the class that are still to be drawn; n 0: all there */
    int n_feeds;                    /* each gives `accumulate` batches to a step */
    struct train_tape *tape; /* of the bucket in use, as are lw and lh */
    struct bank_tapes banks;
    struct optimiser *optimiser;
    struct train_plan plan;
    struct memory_choice memory; /* of the UNet's weights and the tape */
    bool pinned;                 /* engine/memory.h */
    int lw, lh, channels, tokens, width;
    float *moments;   /* [pictures][1, with flip 2][h][w][2c]: VAE means and log variances; mirrored: of the mirrored picture */
    float *recoloured; /* [own pictures][1, with flip 2][recolour][h][w][c]: latents; NULL: none */
    float *contexts;  /* [texts][tokens][width], unless the text encoders train */
    float *pooled;    /* [texts][model_pooled_dim], likewise */
    int32_t *ids[MODEL_MAX_TEXTS]; /* [texts, then one per slot of the batch][tokens]; new words as train/words.h says */
    bool text_on_tape; /* the text encoders run in every step: they or new words learn, or captions vary */
    float *time_ids;  /* [pictures][6]: SDXL's original size, crop and target size */
    float *extra;     /* [h][w][model_extra_channels]: everything masked; NULL: not an inpainting model */
    int *text_of;     /* picture -> text */
    int n_texts;
    int empty_text;   /* index of the empty caption; -1 where none is needed */
    int step;         /* optimiser steps done */
    float loss_scale;
    bool alpha_is_rank; /* --alpha was not given: every layer takes its own rank */
    int overflows; /* steps left out in a row */
    float loss_mean;
    float *batch_x, *batch_target, *batch_t, *batch_seed, *batch_hyper /* [b][2] */, *noise, *latent, *perturbed;
    struct train_words words;
    struct train_condition condition;
    struct train_distill distill;
    float dropout_key[2];
    struct arena *shown_arena; /* trained weights while others stand in their place; NULL: they do not */
    void **shown;
    struct generator *samples; /* NULL before the first sheet */
    struct generate_params sample_params; /* its settings */
    struct embedding_list sample_words; /* the new words as they are when samples are drawn */
    struct jsonl *log;
    struct tfevents *events;
    float *history; /* [steps][3]: loss, its moving mean, learning rate */
    float *masks;   /* [pictures][1, with flip 2][h][w], 0..1; NULL: none */
    float *batch_mask; /* [b][h][w][c]: their roots for squared errors, else themselves */
};

/* cache.c */
bool train_cache_build(struct trainer *t, struct error *err);
/* tape.c */
bool train_adapter_create(struct trainer *t, struct error *err);
bool train_tapes_build(struct trainer *t, struct error *err);
bool train_tapes_open(struct trainer *t, struct error *err);
void train_tapes_close(struct trainer *t);
bool train_tape_open(struct trainer *t, struct error *err); /* of the bucket in use, unless it is open */
void train_dropout_add(const struct trainer *t, struct lora_binding *b); /* after the tape's dropout_key is made */
/* batch.c */
void train_epoch_shuffle(struct trainer *t, struct train_feed *f);
bool train_batch_draw(struct trainer *t, int accumulate, struct error *err);
/* What slot b's time decides beside noise and target: how its loss looks and counts among n pictures; n 0: not at all. */
void train_loss_place(struct trainer *t, int b, int time, int n);
/* distill.c. All do nothing, or must not be called, where nothing is distilled. */
bool train_distill_plan(struct trainer *t, struct error *err); /* checks the options too */
bool train_distill_open(struct trainer *t, struct error *err);
void train_distill_close(struct trainer *t);
void train_distill_empty(struct trainer *t, const float *context, const float *pooled); /* of one picture; pooled NULL: zeros */
int train_distill_time(struct trainer *t, int b, int n); /* of picture b of n: each draws from its own part of the times */
void train_distill_draw(struct trainer *t); /* the batch's guidance */
/* Fills target and loss of a batch whose noised pictures, times, conditions and guidance are there. */
bool train_distill_place(struct trainer *t, struct error *err);
/* prior.c: the class's pictures. */
bool train_prior_on(const struct train_params *p);
/* Those in the class's folder, and behind them those still to be drawn; settles params.class_data; from the trainer. */
bool train_prior_scan(struct trainer *t, struct dataset *out, struct error *err);
bool train_prior_draw(struct trainer *t, struct error *err); /* what is missing, with the model as it is */
/* Batches that add up to one step. */
static inline int train_batches_per_step(const struct trainer *t) { return t->params.accumulate * t->n_feeds; }
/* size.c */
bool train_buckets_plan(struct trainer *t, struct error *err);
void train_bucket_enter(struct trainer *t, int bucket);
/* What the file says of the buckets; 0 without them. Memory from a. */
struct metadata_bucket;
int train_buckets_describe(const struct trainer *t, struct arena *a, struct metadata_bucket **out, double *error);
size_t train_latent_pixels(const struct trainer *t); /* of all pictures and versions */
/* condition.c */
void train_condition_allocate(struct trainer *t);
void train_condition_build(struct trainer *t, struct graph *g, struct unet_inputs *in); /* all of in but sample and timestep */
void train_condition_place(struct trainer *t, int slot, int text, uint32_t picture);
void train_condition_given(struct trainer *t, const struct train_given *given, size_t at);
void train_condition_write(struct trainer *t);
const float *train_condition_sample(struct trainer *t); /* batch_x, with the mask's channels where there are some */
/* weights.c: the weights to judge (saved, drawn) where they are not those that train. */
bool train_weights_show(struct trainer *t, struct error *err);
bool train_weights_hide(struct trainer *t, struct error *err);
/* Decay of the moving average at optimiser step k (from 0): min(most, (1+(k-1))/(10+(k-1))), 0 at first. */
float train_ema_decay(float most, int k);
/* settings.c: every setting as metadata, in a fixed order. What changes here makes another run. */
struct metadata_pair;
int train_settings(const struct train_params *p, struct arena *a, const struct metadata_pair **out);
bool train_plot_draw(struct trainer *t, struct error *err); /* plot.c */
/* mask.c */
bool train_masks_find(struct trainer *t, struct error *err); /* whether every picture has one, before anything is read */
bool train_mask_load(struct trainer *t, size_t picture, struct error *err);
/* The mask that begins at this latent pixel for slot b; -1: everything counts. For squared errors its root, also over the
 * slot's target. */
void train_mask_place(struct trainer *t, int b, int64_t latent);
/* checkpoint.c. Of names, shapes and the start of the UNet's weights: enough to tell models apart without reading all. */
void train_model_hash(const struct model *m, char hex[65]);
bool train_state_save(struct trainer *t, struct error *err);
bool train_state_load(struct trainer *t, struct error *err);
bool train_lora_save(struct trainer *t, const char *path, struct error *err);
/* sample.c */
bool train_samples_plan(struct trainer *t, struct error *err); /* whether they can be drawn, before the first step */
bool train_samples_draw(struct trainer *t, struct error *err);
bool train_samples_drawn(const struct trainer *t); /* whether this step's sheet is there */
