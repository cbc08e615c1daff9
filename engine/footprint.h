#pragma once
/* What a UNet, a VAE and text encoders take on a device, from their configurations alone: nothing is loaded and no
 * device memory is touched. Bytes; the classes of gpu/device.h decide the kernels, hence the scratch memory. */
#include "gpu/program.h"
#include "lora/select.h"
#include "textenc/clip_config.h"
#include "unet/config.h"
#include "vae/config.h"

struct footprint_params {
    int n, w, h, tokens;      /* pictures at once, latent size, text tokens */
    enum tensor_dtype weights; /* of matrices and convolutions */
    bool no_prepare;
    /* Training only. */
    bool train, remat;
    enum lora_selection targets;
    int rank;
};
struct footprint {
    int64_t weights, adapter, gradients, moments;
    int64_t activations, io, prepared;
    int64_t live_peak; /* of activations; the rest of `activations` is placement's loss */
    char peak[160];    /* operator and layer where it is */
    double flops;
};
static inline int64_t footprint_total(const struct footprint *f) {
    return f->weights + f->adapter + f->gradients + f->moments + f->activations + f->io + f->prepared;
}
bool footprint_unet(struct gpu_device *dev, const struct unet_config *cfg, const struct footprint_params *p,
                    struct footprint *out, struct error *err);
/* w, h: pixels of the picture. */
bool footprint_vae(struct gpu_device *dev, const struct vae_config *cfg, bool encoder, bool f32, int w, int h,
                   struct footprint *out, struct error *err);
bool footprint_text(struct gpu_device *dev, const struct clip_config *cfg, int n, int tokens, struct footprint *out,
                    struct error *err);

/* The families whose sizes are known without their files: Stable Diffusion 1.5 and SDXL. */
struct footprint_family {
    const char *name;
    struct unet_config unet;
    struct vae_config vae;
    struct clip_config texts[2];
    int n_texts, side; /* pixels */
};
enum { FOOTPRINT_FAMILIES = 2 };
void footprint_family(int i, struct footprint_family *out);
