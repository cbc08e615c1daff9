/* The options of `atelier train` that say how it learns rather than what, how long and where to. */
#ifndef ATELIER_APP_TRAIN_OPTIONS_H
#define ATELIER_APP_TRAIN_OPTIONS_H

#include "app/options.h"
#include "train/trainer.h"

struct train_method_options {
    bool buckets, bucket_no_upscale;
    int bucket_min, bucket_max, bucket_step;
    bool shuffle_captions;
    int keep_tokens;
    double tag_dropout;
    int recolour;
    bool flip, noise_offset_random, input_perturbation_random;
    double caption_dropout, network_dropout, rank_dropout, module_dropout, ema;
    double noise_offset, noise_offset_adaptive, pyramid_discount, input_perturbation;
    int pyramid_iterations, min_timestep, max_timestep;
    double scale_weight_norms;
    const char *masks, *tensorboard, *plot;
    const char *optimizer, *blocks, *block_rank, *loss, *huber_schedule, *kind;
    struct option_list tokens;
    int token_vectors;
    double huber_c, token_lr;
    int lr_cycles;
    double lr_power, lr_end, lr_min, lr_timescale, lr_decay;
    bool rslora;
    double lora_plus, text_lr, prodigy_d_coef, prodigy_growth;
    bool prodigy_bias_correction, prodigy_safeguard, adafactor_relative, adafactor_scale;
};
struct train_method_options train_method_defaults(const struct train_params *p);
struct option_table train_method_table(struct train_method_options *o);
bool train_method_apply(const struct train_method_options *o, struct train_params *p, struct arena *a,
                        struct error *e); /* paths from a */
/* The lines of --dry-run: what is switched on, nothing else. */
void train_method_print(const struct train_params *p);

#endif
