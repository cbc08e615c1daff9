#pragma once
/* The UNet as a tape. Parameter paths are diffusers' names. */
#include "nn/target.h"
#include "unet/config.h"

struct unet_inputs {
    int sample;   /* {n,h,w,in_channels} */
    int timestep; /* {n,1,1,1}, may be fractional */
    int context;  /* {n,1,tokens,context_dim} */
    int added; /* {n,1,1,added_dim}: pooled text, then the sinusoids of the time ids; -1 where added_dim is 0
                */
    int time_cond; /* {n,1,1,time_cond_dim}: LCM; -1: none */
};
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
