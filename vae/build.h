#pragma once
/* Encoder and decoder as tapes. Parameter paths are diffusers' names. */
#include "nn/layers.h"
#include "vae/config.h"

/* image {n,h,w,3} in -1..1, h and w multiples of the factor -> {n,h/f,w/f,2*latent}: mean, then log variance
 * (not clamped, not scaled). */
int vae_build_encoder(struct nn_ctx *c, const struct vae_config *cfg, int image);
/* latent {n,h,w,latent}, scale already divided out -> image {n,h*f,w*f,3}, about -1..1. */
int vae_build_decoder(struct nn_ctx *c, const struct vae_config *cfg, int latent);

/* Declares every parameter of both in params (unsealed). */
bool vae_declare(struct nn_params *params, const struct vae_config *cfg, struct error *e);
