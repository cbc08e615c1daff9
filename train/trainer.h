#pragma once
/* Trains a LoRA on a folder of pictures, DreamBooth-style: noised latents, the UNet's prediction, mean squared
 * error, AdamW on the adapter alone. Resumable bit for bit. One thread. Paper: Hu et al. 2021 (LoRA), Ruiz et
 * al. 2022 (DreamBooth); peer: kohya's train_network. */
#include "diffusion/loss.h"
#include "diffusion/noise.h"
#include "diffusion/target.h"
#include "engine/adapter.h"
#include "lora/select.h"
#include "train/bucket.h"
#include "train/caption.h"
#include "train/dataset.h"
#include "train/distill.h"
#include "train/optimiser.h"
#include "train/schedule.h"
#include "train/words.h"

struct prompt_line; /* io/prompt_file.h */

/* What learns in the chosen layers: factors of low rank, the whole weight, or nothing (new words alone). */
enum train_kind { TRAIN_LORA, TRAIN_FULL, TRAIN_NONE };

enum train_remat { TRAIN_REMAT_AUTO, TRAIN_REMAT_ON, TRAIN_REMAT_OFF };

struct train_params {
    const char *data, *out; /* folder, LoRA file */
    const char *recipe;     /* of train/recipe.h; NULL: none */
    const char *caption;    /* for pictures without one; NULL: they are an error */
    const char *instance_prompt; /* of every picture, whatever stands beside it; NULL: its own caption */
    const char *class_prompt;    /* prior preservation: what the subject is one of; NULL: class_data's own captions */
    const char *class_data;      /* folder of pictures of the class; NULL: one beside `out`. Missing ones are drawn into it */
    int class_count;
    float prior_weight; /* of the class's loss beside the subject's; 0: no prior preservation */
    int steps, rank, batch, accumulate, resolution; /* resolution 0: the model's own */
    float alpha;            /* 0: rank */
    float lr;               /* 0: the optimiser's own */
    float lora_plus;        /* rate of the up factors over that of the down factors; 0: the same. Hayou et al. 2024 */
    enum train_kind kind;
    const struct train_word *words; /* new words for the text encoders; see train/words.h */
    int n_words;
    float word_lr;          /* rate of their vectors; 0: lr */
    float text_lr;          /* rate of the text encoders' LoRA; 0: lr */
    struct optimiser_params optimiser;
    struct train_schedule_params schedule;
    enum lora_selection targets;
    const char *blocks, *block_ranks; /* lists of lora/select_blocks.h; NULL: everywhere, `rank` */
    bool rslora;                      /* the LoRA counts alpha/sqrt(rank). Kalajdzievski 2023 */
    bool train_text_encoder;
    enum target_weighting weighting;
    float snr_gamma;
    int min_timestep, max_timestep; /* times drawn: from the first to below the second; 0: all. kohya */
    struct bucket_params buckets;
    struct noise_params noise;
    struct loss_params loss;
    struct distill_params distill; /* {0}: none */
    struct lora_dropout dropout;
    bool flip;             /* half of the pictures mirrored, drawn anew each time */
    int recolour;          /* so many versions of each picture in other colours, from which the style is learned; 0: none */
    struct caption_params captions;
    float caption_dropout; /* this part of the captions is left out: 0..1 */
    float max_weight_norm; /* every layer's change is kept at most this large; 0: no limit */
    float ema;             /* most decay of the average that is saved and drawn instead of the weights; 0: none */
    enum train_remat remat;
    uint64_t seed;
    const struct prompt_line *samples; /* what they leave open is the run's: size, seed, the two below. No LoRAs */
    int n_samples, sample_every, sample_steps;
    float sample_cfg;
    int save_every;
    bool resume;
    int stop_after; /* steps to do in this run; 0: all. The state is kept for --resume */
    const char *log; /* JSONL; NULL: none */
    const char *tensorboard; /* folder for an event file; NULL: none */
    const char *plot;        /* PNG of loss and learning rate, drawn when the run is over; NULL: none */
    const char *masks;       /* folder of a picture of the same name per picture: what is dark counts less; NULL: none */
    bool half;       /* write the file in f16 */
};
/* The defaults of the recipe; callers change what the user set. */
struct train_params train_params_default(void);

struct train_plan_bucket {
    int w, h, n_pictures;
};
/* What a run will do and take, before it does it. */
struct train_plan {
    size_t n_pictures, n_per_epoch;
    size_t n_from[DATASET_CAPTION_KINDS];
    size_t n_class, n_class_missing; /* pictures of the class; those that will be drawn. n_class 0: no prior preservation */
    const char *class_data;          /* where */
    int rank, n_layers;
    int64_t n_params;
    int64_t unet_bytes, vae_bytes, text_bytes;          /* weights on the device */
    int64_t adapter_bytes, gradient_bytes, moment_bytes, average_bytes; /* banks */
    int64_t away_bytes, ring_bytes; /* of the UNet's weights: with the host; where they come to in turn */
    int64_t activation_bytes, io_bytes, prepared_bytes;  /* of the training step */
    int64_t latent_bytes; /* with the host: what the VAE makes of all pictures and their versions */
    int64_t teacher_bytes; /* distilling: activations, inputs and prepared weights of the teacher */
    int64_t peak_bytes, device_bytes; /* most at once; what the device has */
    bool remat, text_stays; /* the text encoders stay on the device */
    double teacher_flops;  /* of one batch, distilling */
    double flops_per_step; /* of one optimiser step */
    double step_seconds;   /* estimate from a timed product; 0: unknown. Only when planning */
    int resolution;
    const struct train_plan_bucket *buckets; /* with --buckets: those that have pictures */
    int n_buckets;
};
struct trainer;
/* Reads the folder, caches latents and texts, builds the programs. With plan_only stops after planning. */
struct trainer *trainer_create(struct engine *e, const struct train_params *p, bool plan_only, struct error *err);
void trainer_destroy(struct trainer **t);
struct train_plan trainer_plan(const struct trainer *t);

struct train_report {
    int step, steps;
    float loss, loss_mean; /* this step; moving mean */
    float grad_norm, lr;
    double steps_per_second, eta_seconds;
    int64_t device_bytes;
};
struct train_callbacks {
    void (*report)(void *ctx, const struct train_report *r);
    void *ctx;
};
/* Runs to the end, to stop_after, or to an interrupt (then the state is saved and *finished is false). */
bool trainer_run(struct trainer *t, const struct train_callbacks *cb, bool *finished, struct error *err);
/* "<out>.state.safetensors": what --resume needs. Memory from a. */
char *trainer_state_path(struct arena *a, const char *out);

/* For comparisons with other trainers: one step's losses and gradients from given latents, noise and times, for
 * n = accumulate * batch pictures (with prior preservation twice as many: a batch of the subject and one of the class in
 * turn). latents (scaled), noise: [n][h][w][c]; t, losses [n]; context [n][tokens][width], or, where
 * the text encoders train, ids: per encoder [n][tokens]. SDXL: pooled [n][model_pooled_dim] unless ids are given, and time_ids
 * [n][6]. Distilling: t on its grid, guidance [n], and what the model is told
 * without a caption: empty [tokens][width], for SDXL with zeros as pooled text. */
struct train_given {
    const float *latents, *noise, *context;
    const int *t;
    const float *ids[MODEL_MAX_TEXTS], *pooled, *time_ids;
    const float *guidance, *empty;
};
bool trainer_step_given(struct trainer *t, const struct train_given *given, bool update, float *losses, struct error *err);
struct adapter *trainer_adapter(struct trainer *t);
/* What the optimiser sees: of all accumulated pictures, unclipped, times trainer_loss_scale. */
struct gpu_set *trainer_gradients(struct trainer *t);
/* 1 where activations are f32. In f16 small gradients would vanish, so the loss is scaled by a power of two. */
float trainer_loss_scale(const struct trainer *t);
struct gpu_program *trainer_program(struct trainer *t);
