#pragma once
/* A Stable Diffusion folder in diffusers' layout, opened and checked, its weights mapped but not read. */
#include "diffusion/schedule.h"
#include "nn/target.h"
#include "textenc/clip_build.h"
#include "textenc/tokenizer.h"
#include "unet/build.h"
#include "vae/build.h"

enum { MODEL_MAX_FILES = 4 };
struct model {
    struct arena *arena;
    const char *path, *name; /* folder as given; its last component */
    struct unet_config unet;
    struct vae_config vae;
    struct clip_config text;
    struct schedule_params schedule; /* of scheduler_config.json */
    struct tokenizer *tokenizer;
    struct nn_params *unet_params, *vae_params, *text_params;
    struct nn_target_list unet_targets, text_targets;
    struct st_file *files[MODEL_MAX_FILES];
    int n_files;
    int n_unused; /* tensors in the files that no layer asked for */
};

struct model_params {
    enum tensor_dtype storage; /* of frozen weights on the device */
    int64_t max_chunk_bytes;
};
/* NULL with one sentence naming file and key when anything is missing, misshaped or unknown. */
struct model *model_open(const char *path, const struct model_params *p, struct error *err);
void model_close(struct model **m);

/* scheduler_config.json alone (also used by inspect). */
bool model_schedule_load(struct schedule_params *s, const char *path, struct error *err);
/* "epsilon", "v_prediction", "sample". */
const char *model_prediction_name(enum schedule_prediction p);
/* SHA-256 of the UNet's weight file, hex. Reads the whole file each time. */
bool model_unet_sha256(const struct model *m, char hex[65], struct error *err);
