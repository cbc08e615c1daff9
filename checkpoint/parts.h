/* Weights of one part of a model: in a component folder of diffusers' layout, or in a VAE file of its own. */
#ifndef ATELIER_CHECKPOINT_PARTS_H
#define ATELIER_CHECKPOINT_PARTS_H

#include "vae/ldm.h"

struct arena;

/* FOLDER/STEM.safetensors and its kin: the variant's file first if one is asked for ("fp16"), then the plain file, then
 * fp16; each whole or in shards by an index, safetensors before torch's .bin. */
struct st_file *checkpoint_folder_open(const char *folder, const char *stem, const char *variant, struct error *e);

/* A VAE from elsewhere: a file in LDM's or diffusers' names, a folder with config.json, or a model folder with vae/. */
struct checkpoint_vae {
    struct st_file *file; /* the caller closes it */
    struct vae_config cfg;
    bool has_config; /* from a config.json; else cfg's scale is a default, and the model's own is right */
    struct vae_names names;
    bool ldm, tiny; /* tiny: a TAESD (vae/tiny.h), which decodes only */
};
bool checkpoint_vae_open(struct checkpoint_vae *v, const char *path, struct error *e);

#endif
