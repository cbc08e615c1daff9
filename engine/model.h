#pragma once
/* A Stable Diffusion model, opened and checked, its weights mapped but not read: a folder in diffusers' layout or a
 * single file. */
#include "checkpoint/report.h"
#include "checkpoint/single.h"
#include "diffusion/schedule.h"
#include "nn/target.h"
#include "textenc/clip_build.h"
#include "textenc/tokenizer.h"
#include "unet/build.h"
#include "vae/build.h"

enum { MODEL_MAX_FILES = 8, MODEL_MAX_TEXTS = 2 };

/* Which file has a part's weights, under which names. */
struct model_source {
    const struct st_file *file; /* one of the model's */
    struct nn_naming naming;
};

/* A text encoder. SDXL has two, whose results lie side by side on the width. */
struct model_text {
    const char *part; /* for messages; in a folder, its own: "text_encoder", "text_encoder_2" */
    struct model_source source;
    struct clip_config cfg;
    struct tokenizer *tokenizer;
    struct nn_params *params;
    struct nn_target_list targets;
};

struct model {
    struct arena *arena;
    const char *path, *name; /* folder or file as given; its last component */
    enum nn_family family;
    struct unet_config unet;
    struct vae_config vae;
    struct model_text texts[MODEL_MAX_TEXTS];
    int n_texts;
    bool zeros_for_empty;            /* a negative prompt that is not given is all zeros, not the encoding of "" */
    struct schedule_params schedule; /* of scheduler_config.json */
    const char *prediction_from;     /* why schedule.prediction is what it is */
    bool prediction_guessed;
    struct nn_params *unet_params, *vae_params;
    struct nn_target_list unet_targets;
    struct st_file *files[MODEL_MAX_FILES]; /* the UNet's first */
    int n_files;
    struct model_source unet_source, vae_source;
    struct checkpoint_single *single; /* NULL: a folder */
    struct checkpoint_report *report; /* NULL if model_open's caller took it */
};

/* What is not where the model is. {0}: everything from the model itself. */
struct model_files {
    const char *vae;        /* file or folder instead of the model's own VAE */
    const char *tokenizer;  /* folder; NULL: the model's, or CLIP's own for a single file */
    const char *variant;    /* of a folder's weights, "fp16"; NULL: plain ones first */
    const char *prediction; /* "epsilon", "v_prediction", "sample"; NULL: as the model says */
};

struct model_params {
    enum tensor_dtype storage; /* of frozen weights on the device */
    int64_t max_chunk_bytes;
    enum tensor_dtype weights; /* of the UNet's matrices and convolutions: storage, or narrower (tensor_set_narrow) */
    struct model_files files;
    struct checkpoint_report **report; /* gets the load report, also on failure; the caller destroys it. NULL: no */
};
/* NULL with one sentence naming file and key when anything is missing, misshaped or unknown. */
struct model *model_open(const char *path, const struct model_params *p, struct error *err);
void model_close(struct model **m);
/* False with a sentence if a file changed since model_open. */
bool model_intact(const struct model *m, struct error *err);

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
