#pragma once
/* The decoder of a tiny autoencoder (TAESD, Ollin Boer Bohan's): residual blocks of three 3x3 convolutions instead of a
 * KL autoencoder's decoder, some fifty times less work for a slightly coarser picture. */
#include "nn/bind.h"
#include "nn/layers.h"
#include "vae/config.h"

/* Whether the file is one, in diffusers' names ("decoder.layers.0.weight") or the author's ("1.weight"). */
bool tiny_is(const struct st_file *f);
/* Width and channels of such a file; the arrangement is always the same: 3, 3, 3 and 1 blocks, 8 pixels a latent. */
bool tiny_infer(struct vae_config *cfg, const struct st_file *f, struct error *e);
struct nn_naming tiny_naming(void);

/* latent {n,h,w,latent}, as the UNet has it, after 3*tanh(x/3) -> image {n,8h,8w,3} in about 0..1. */
int tiny_build_decoder(struct nn_ctx *c, const struct vae_config *cfg, int latent);
