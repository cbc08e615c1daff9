#pragma once
/* A UNet of the Stable Diffusion family, as diffusers' unet/config.json describes it, with all per-level
 * lists spread out. */
#include <stdbool.h>
#include "base/error.h"
#include "nn/family.h"

enum { UNET_MAX_LEVELS = 8, UNET_MAX_LAYERS = 9 };

struct unet_stage {
    int channels;
    int layers; /* resnets; each followed by a transformer where attention is set */
    bool attention;
    bool only_cross;            /* the first attention also looks at the context */
    int heads;                  /* head width = channels / heads */
    int depth[UNET_MAX_LAYERS]; /* transformer blocks per layer */
};
enum unet_mid {
    UNET_MID_NONE,
    UNET_MID_PLAIN,
    UNET_MID_CROSS
}; /* plain: one resnet; cross: resnet, transformer, resnet */

struct unet_config {
    int in_channels, out_channels;
    int sample_h, sample_w; /* latent size the model was made for; 0 if not stated */
    int n_levels;
    struct unet_stage down[UNET_MAX_LEVELS], up[UNET_MAX_LEVELS]; /* up[0] is the deepest */
    enum unet_mid mid;
    struct unet_stage mid_stage; /* depth[0] */
    float mid_scale;             /* the mid resnets divide by it */
    int norm_groups;
    float norm_eps;
    bool linear_projection; /* proj_in and proj_out: matrix, else 1x1 convolution (matters to file shapes) */
    bool upcast_attention;  /* f16 devices must take q*k' in f32 */
    int context_dim;
    bool flip_sin_to_cos;
    float freq_shift;
    int time_dim;      /* width of the time embedding */
    int time_cond_dim; /* LCM's guidance embedding; 0: none */
    int conv_in_kernel, conv_out_kernel;
    int downsample_padding;
    int added_dim;         /* SDXL: width of pooled text and time ids together; 0: none */
    int added_time_id_dim; /* SDXL: width of each time id's sinusoid */
};

/* Reads and checks config.json. Unknown block types and features are an error that names the key. */
bool unet_config_load(struct unet_config *cfg, const char *path, struct error *e);
/* By layout, not by width: SDXL has the added vector, Stable Diffusion 2 linear projections without it. */
enum nn_family unet_config_family(const struct unet_config *cfg);
