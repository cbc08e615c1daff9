#pragma once
/* A Stable Diffusion folder in diffusers' layout, opened and checked, its weights mapped but not read. */
#include "diffusion/schedule.h"
#include "nn/target.h"
#include "textenc/clip_build.h"
#include "textenc/tokenizer.h"
#include "unet/build.h"
#include "vae/build.h"

enum { MODEL_MAX_FILES = 8, MODEL_MAX_TEXTS = 2 };

/* A text encoder. SDXL has two, whose results lie side by side on the width. */
struct model_text {
    const char *part; /* its folder: "text_encoder", "text_encoder_2" */
    struct clip_config cfg;
    struct tokenizer *tokenizer;
    struct nn_params *params;
    struct nn_target_list targets;
};

struct model {
    struct arena *arena;
    const char *path, *name; /* folder as given; its last component */
    enum nn_family family;
    struct unet_config unet;
    struct vae_config vae;
    struct model_text texts[MODEL_MAX_TEXTS];
    int n_texts;
    bool zeros_for_empty;            /* a negative prompt that is not given is all zeros, not the encoding of "" */
    struct schedule_params schedule; /* of scheduler_config.json */
    struct nn_params *unet_params, *vae_params;
    struct nn_target_list unet_targets;
    struct st_file *files[MODEL_MAX_FILES]; /* the UNet's first */
    int n_files;
    int n_unused; /* tensors in the files that no layer asked for */
};

struct model_params {
    enum tensor_dtype storage; /* of frozen weights on the device */
    int64_t max_chunk_bytes;
    enum tensor_dtype weights; /* of the UNet's matrices and convolutions: storage, or narrower (tensor_set_narrow) */
};
/* NULL with one sentence naming file and key when anything is missing, misshaped or unknown. */
struct model *model_open(const char *path, const struct model_params *p, struct error *err);
void model_close(struct model **m);

/* Tokens of a window; width of what the UNet looks at, all text encoders together. */
int model_window(const struct model *m);
int model_context_dim(const struct model *m);
/* SDXL: width of the pooled text; 0 where the UNet takes none. */
int model_pooled_dim(const struct model *m);
/* Inpainting: channels that the UNet takes beside the latents, 1 of mask and the masked picture's latents; 0: none. */
int model_extra_channels(const struct model *m);

/* scheduler_config.json alone (also used by inspect). */
bool model_schedule_load(struct schedule_params *s, const char *path, struct error *err);
/* "epsilon", "v_prediction", "sample". */
const char *model_prediction_name(enum schedule_prediction p);
/* SHA-256 of the UNet's weight file, hex. Reads the whole file each time. */
bool model_unet_sha256(const struct model *m, char hex[65], struct error *err);
