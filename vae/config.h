#pragma once
/* A KL autoencoder as diffusers' vae/config.json describes it. */
#include <stdbool.h>
#include "base/error.h"

enum { VAE_MAX_LEVELS = 8 };

struct vae_config {
    bool tiny; /* a tiny autoencoder (vae/tiny.h), its decoder only: latents as the UNet has them, pictures 0..1 */
    int in_channels, out_channels, latent_channels;
    int n_levels; /* pixels per latent: 2^(n_levels-1) */
    int channels[VAE_MAX_LEVELS];
    int layers; /* resnets per encoder level; the decoder has one more */
    int norm_groups;
    bool mid_attention, quant_conv, post_quant_conv;
    bool force_upcast;    /* overflows in f16: run in f32 */
    int sample_size;      /* pixels it was made for; 0 if not stated */
    float scaling_factor; /* the UNet sees (latent - shift) * scale */
    float shift_factor;
};

/* Reads and checks config.json; an error names the file and the key. */
bool vae_config_load(struct vae_config *cfg, const char *path, struct error *e);
static inline int vae_config_factor(const struct vae_config *cfg) {
    return 1 << (cfg->n_levels - 1);
}
