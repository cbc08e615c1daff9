/* Recoloured versions of the own pictures (train/recolour.h) in a training run. `at`: where a picture, or its mirrored one,
 * begins, in latent pixels. */
#pragma once
#include "train/trainer_priv.h"

/* Makes the picture's versions and keeps their latents. */
bool train_recolour_encode(struct trainer *t, struct vae_session *vae, size_t picture, const struct image *im, size_t at,
                           struct error *err);
/* Lets one of them stand in the picture's place in slot b, most of the time. `target` is the noise to predict, `added` the
 * one in the noised picture: the same but for input perturbation. Draws from t->dice. */
void train_recolour_place(struct trainer *t, int b, size_t at, int time, float *target, float *added);
