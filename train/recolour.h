/* A picture with its shapes kept and its colours and thin lines taken away: what a style is to be learned *from*.
 * The picture is cut into connected parts of one colour; broad parts get colours drawn anew, thin ones (lines) that of the
 * broad part nearest to them. Ground, a part along most of the border, stays. For line drawings, ink, flat icons, comics;
 * a photograph has no such parts. Own method; it stands to a style as colour jitter does to an object.
 *
 * While a LoRA learns, such a version takes the picture's place in what is noised, and what is to be predicted leads to the
 * picture itself (recolour_noise). Otherwise a LoRA only ever sees noise on its own style, where the model
 * that draws with it hands it noise on *its* colours, and leaves them standing.
 * Any thread; memory from the arena. */
#pragma once
#include <stdint.h>

#include "base/arena.h"
#include "diffusion/schedule.h"
#include "io/image.h"

/* Same size. The same picture and seed give the same bytes. */
struct image recolour_image(struct arena *a, const struct image *src, uint64_t seed);

/* The noise with which `picture` (latents) becomes, at this time, the noised `version`; what a model is to predict from it then
 * leads to the picture. All of the version from 45% of the times on, less and less of it below, none under 15%. */
void recolour_noise(const struct schedule *s, int time, const float *picture, const float *version, float *noise, size_t n);
