#pragma once
/* The autoencoder's names in files, and the config of one that has none. */
#include "nn/bind.h"
#include "vae/config.h"

struct vae_names {
    const char *prefix; /* of every name: "first_stage_model.", "" */
    int n_levels;       /* LDM counts the decoder's levels the other way round */
};
/* n must live as long as the naming. */
struct nn_naming vae_ldm_naming(const struct vae_names *n);
/* diffusers' names, also those of its older versions for the attention. */
struct nn_naming vae_diffusers_naming(const struct vae_names *n);

/* Which of both a file uses under the prefix. */
bool vae_ldm_is(const struct st_file *f, const char *prefix);
bool vae_diffusers_is(const struct st_file *f, const char *prefix);
/* Widths, levels and layers of an LDM or diffusers file. The scale of the latents is not in it: the caller sets it. */
bool vae_infer(struct vae_config *cfg, const struct st_file *f, const char *prefix, struct error *e);
