#pragma once
/* The UNet in single-file checkpoints (LDM, SGM), which number input and output blocks through: names, and the config
 * that such a file does not have. */
#include "nn/bind.h"
#include "unet/config.h"

enum { UNET_LDM_LEVELS = 16 };

/* What the numbers depend on. {0}, then from a config, or from one path after the other. */
struct unet_ldm_side {
    int resnets[UNET_LDM_LEVELS];
    bool sampler[UNET_LDM_LEVELS], attention[UNET_LDM_LEVELS];
};
struct unet_ldm {
    struct unet_ldm_side down, up;
    const char *prefix; /* of every name, for unet_ldm_naming: "model.diffusion_model." */
};
void unet_ldm_measure(struct unet_ldm *l, const struct unet_config *cfg);
void unet_ldm_measure_path(struct unet_ldm *l, const char *path);

/* A layer's path, without a parameter's name behind: "down_blocks.0.attentions.1.proj_in" ->
 * "input_blocks.2.1.proj_in". False where LDM has no such layer. */
bool unet_ldm_path(const struct unet_ldm *l, const char *path, char *dst, size_t bytes);
/* Parameters of such a file. l must live as long as the naming. */
struct nn_naming unet_ldm_naming(const struct unet_ldm *l);

/* Whether the file holds such a UNet under the prefix. */
bool unet_ldm_is(const struct st_file *f, const char *prefix);
/* Reads widths, levels, layers and depths off the names and shapes. What they do not say is as in every Stable
 * Diffusion: groups of 32, eight heads with convolution projections and heads of 64 with linear ones. The width of SDXL's
 * time ids is left at 256. */
bool unet_ldm_infer(struct unet_config *cfg, const struct st_file *f, const char *prefix, struct error *e);
