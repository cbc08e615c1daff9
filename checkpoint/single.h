/* A whole model in one file, in the naming of LDM (SD1, SD2) or SGM (SDXL): .safetensors or .ckpt. What diffusers keeps in
 * configs is inferred from names, shapes and the little that files say about themselves. */
#ifndef ATELIER_CHECKPOINT_SINGLE_H
#define ATELIER_CHECKPOINT_SINGLE_H

#include "diffusion/schedule.h"
#include "textenc/clip_naming.h"
#include "unet/ldm.h"
#include "vae/ldm.h"

struct checkpoint_single {
    struct arena *arena;
    struct st_file *file;
    enum nn_family family;
    struct unet_config unet;
    struct vae_config vae;
    bool has_vae; /* else vae is all zeros */
    struct clip_config texts[2];
    int n_texts;
    int last_layer; /* OpenCLIP layer of the file that SD2 does not use; -1: none */
    struct schedule_params schedule;
    const char *prediction_from; /* why schedule.prediction is what it is, for people */
    bool prediction_guessed;     /* the file does not say it */
    struct nn_naming unet_naming, vae_naming, text_naming[2];
    struct unet_ldm unet_names;
    struct vae_names vae_names;
};

/* NULL with a sentence that says what the file is if it is another kind of file. */
struct checkpoint_single *checkpoint_single_open(const char *path, struct error *e);
void checkpoint_single_close(struct checkpoint_single **c);

#endif
