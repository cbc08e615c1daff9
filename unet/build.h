#pragma once
/* The UNet as a tape. Parameter paths are diffusers' names. */
#include "nn/target.h"
#include "unet/config.h"

/* Regions. A part of the picture and what it looks at; the picture's other parts count as one more. */
enum { UNET_MAX_PARTS = 17 };
struct unet_part {
    int context;                /* {n,1,tokens,context_dim}; the same number of tokens in all parts */
    const struct nn_hook *hook; /* of the layers that read this context (keys and values); NULL: the ctx's own */
};
struct unet_inputs {
    int sample;   /* {n,h,w,in_channels} */
    int timestep; /* {n,1,1,1}, may be fractional */
    int context;  /* {n,1,tokens,context_dim} */
    int added; /* {n,1,1,added_dim}: pooled text, then the sinusoids of the time ids; -1 where added_dim is 0
                */
    int time_cond; /* {n,1,1,time_cond_dim}: LCM; -1: none */
    /* Every cross-attention is done with each part's context, and the results are added up by the parts' shares of each row
     * (Gu et al., Mix-of-Show, 2023, section 3.3; shares of 0 and 1 are its regions). No parts: all look at `context`. */
    const struct unet_part *parts; /* the first one's context is `context` */
    int n_parts;
    int shares[UNET_MAX_LEVELS]; /* per level {n,h,w,>=n_parts} of its size, which add up to 1 in every row */
};
/* Size of a level's features for a sample of w x h. */
void unet_level_size(const struct unet_config *cfg, int level, int *w, int *h);
/* Returns {n,h,w,out_channels}, or -1 with the graph's error set. Any h, w >= 1. Marks recompute segments:
 * every resnet and every transformer block. */
int unet_build(struct nn_ctx *c, const struct unet_config *cfg, const struct unet_inputs *in);

/* Declares every parameter in params (unsealed) and, unless targets is NULL, lists the layers an adapter may
 * attach to. */
bool unet_declare(struct nn_params *params, const struct unet_config *cfg, struct nn_target_list *targets,
                  struct error *e);

/* SDXL: fills dst[cfg->added_dim] from the pooled text and the time ids (original height, width, crop top,
 * left, target height, width). False if the counts do not add up to added_dim. */
bool unet_added_fill(const struct unet_config *cfg, const float *pooled, int n_pooled, const float *time_ids,
                     int n_time_ids, float *dst, struct error *e);
/* Consistency models: fills dst[width] for time_cond with the embedding of the guidance that the UNet shall apply by itself
 * (paper: Luo et al. 2023, latent consistency models). */
void unet_guidance_fill(float cfg, int width, float *dst);
