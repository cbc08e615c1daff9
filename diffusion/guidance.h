/* Classifier-free guidance: two predictions become one. */
#ifndef ATELIER_DIFFUSION_GUIDANCE_H
#define ATELIER_DIFFUSION_GUIDANCE_H

#include <stdbool.h>
#include <stddef.h>

/* At scale <= 1 only the conditional prediction counts and the other need not be computed. */
bool guidance_is_needed(float scale);

/* out = uncond + scale (cond - uncond). out may be either input. */
void guidance_combine(float *out, const float *uncond, const float *cond, size_t n, float scale);

/* Brings each image's spread back toward that of the conditional prediction: out becomes
 * phi * out * std(cond) / std(out) + (1 - phi) * out. phi 0 changes nothing; 0.7 suits zero-SNR v models. */
void guidance_rescale(float *out, const float *cond, size_t n_images, size_t image_floats, float phi);

#endif
